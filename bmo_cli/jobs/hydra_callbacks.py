"""A run folder belongs to one run: Hydra callbacks that make it atomically."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from bmo_cli.config.commands import command, here, quoted
from bmo_cli.config.paths import at_home
from bmo_cli.errors import BmoError, Interrupted, printable, printable_lines
from bmo_cli.jobs.invocation import own_files, present, written
from bmo_cli.results.files import write_atomically
from bmo_cli.results.folders import make_unique
from bmo_cli.results.runs import find_runs

MOST_FAILED = 100
"""The exit code of a sweep does not grow beyond, where codes have other meanings."""


class CheckedSweep(Callback):
    """Before a sweep makes its folder, all its jobs are composed and checked."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Stop at the first job that cannot run, or list all where that is what was asked for."""
        from bmo_cli.jobs.sweep_plan import dry_run, planned

        HydraConfig.instance().set_config(config)
        try:
            jobs = planned(config, present.typed)
            if present.dry_run:
                print(printable_lines(dry_run(config, jobs)))
        except BmoError as error:
            print(f"bmo: {printable(str(error))}", file=sys.stderr)
            raise SystemExit(error.exit_code) from None
        if present.dry_run:
            raise SystemExit(0)


class UniqueFolder(Callback):
    """Two runs started in one second would share Hydra's time-stamped folder and overwrite each
    other. `mkdir` is atomic: the one that comes second gets the suffix `_1`, then `_2`, ..."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Settle `hydra.run.dir`; a resumed run keeps its, `restore` and `table` make none."""
        resumes = isinstance(config.get("resume"), str)
        if not resumes and config.hydra.job.name not in ("restore", "table"):
            folder = _replace(config, "hydra.run.dir")
            if config.hydra.output_subdir == ".hydra":  # by which `bmo runs` knows it from now on
                (folder / ".hydra").mkdir()

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Settle `hydra.sweep.dir`; jobs compose their own configuration from these overrides."""
        if present.resumed is not None:
            put_away_pickles(present.resumed)
            return
        HydraConfig.instance().set_config(config)  # the folder's name interpolates ${hydra:...}
        wanted = Path(at_home(str(config.hydra.sweep.dir))).absolute()
        folder = _replace(config, "hydra.sweep.dir")
        if folder != wanted:
            print(f"bmo: {printable(_elsewhere(wanted, folder))}", file=sys.stderr)
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(folder)}")
        # Not every sweeper does so, and `resume` reads what the sweep was started with.
        write_atomically(folder / "multirun.yaml", OmegaConf.to_yaml(config).encode())


def _elsewhere(wanted: Path, folder: Path) -> str:
    """A line about a folder that is not the one that was asked for."""
    said = f"{here(wanted)} is there already, so that this sweep goes to {here(folder)}"
    if not (wanted / "multirun.yaml").is_file():
        return said
    return f"{said}; the one there goes on with '{command('train', resume=wanted)}'"


class SweepSummary(Callback):
    """Says at the end of a sweep which of its jobs failed and why; the exit code is their number.

    Hydra itself would stop at the first one.
    """

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Wait for jobs that still run, then look at every job's result."""
        stopped = finish_jobs()
        if stopped:  # said why
            raise SystemExit(stopped)
        folder = Path(str(config.hydra.sweep.dir))
        jobs = {run.path: run for run in find_runs([folder])}
        failed = {
            job: jobs[job].message or "it left no result"
            for job in sorted(jobs, key=lambda path: (len(str(path)), str(path)))
            if jobs[job].status != "ok"
        }
        if not failed:
            return
        for job, reason in failed.items():
            print(f"bmo: failed: {job}: {printable(reason)}", file=sys.stderr)
        again = f"; run these again with '{resume_command(config)}'"
        print(
            f"bmo: {len(failed)} of {len(jobs)} jobs failed"
            f"{again if config.hydra.job.name == 'train' else ''}",
            file=sys.stderr,
        )
        raise SystemExit(min(len(failed), MOST_FAILED))


def resume_command(config: DictConfig) -> str:
    """The command with which a sweep goes on.

    Args:
        config: of the sweep, with Hydra's section.
    """
    given = config.hydra.overrides
    named = [
        word
        for word in (*written(given.task), *written(given.hydra))
        if word.startswith(("plugins=", "hydra.sweep.subdir="))
    ]
    folder = str(config.hydra.sweep.dir)
    return command("train", *own_files(config.hydra), *named, resume=folder)


def finish_jobs() -> int:
    """Wait for the jobs of `jobs=N`; exit code of what stopped them, or 0."""
    module = sys.modules.get("bmo_cli.jobs.pool")  # which imports torch
    if module is None:
        return 0
    try:
        module.job_pool.finish()
    except Interrupted as error:
        print(f"bmo: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("bmo: interrupted", file=sys.stderr)
        return 130
    return int(module.job_pool.stopped)


def _replace(config: DictConfig, key: str) -> Path:
    HydraConfig.instance().set_config(config)  # the folder's name interpolates ${hydra:...}
    wanted = at_home(str(OmegaConf.select(config, key)))
    try:
        if not wanted:
            raise OSError(errno.ENOENT, "its name is empty")
        folder = make_unique(Path(wanted))
    except OSError as error:
        # Hydra turns exceptions of callbacks into warnings; only an exit stops the run.
        print(
            printable(
                f"bmo: cannot create the output folder {wanted}: {error.strerror}; "
                f"choose another with {key}=DIR"
            ),
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    with read_write(config.hydra), open_dict(config.hydra):
        OmegaConf.update(config, key, str(folder))
    return folder


def put_away_pickles(sweep: Path) -> None:
    """Rename what submitit left in a sweep's folder: it would unpickle results that lie there."""
    left = sweep / ".submitit"
    if left.exists():
        left.rename(make_unique(left))
