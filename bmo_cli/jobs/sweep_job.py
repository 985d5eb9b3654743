"""Training jobs of a sweep: finished jobs are not repeated, and a failed job stops no other.

Every job has a process of its own. A job that is killed, leaks memory or crashes in native code
does not affect the others. The jobs of every launcher run through this module.
"""

from __future__ import annotations

import logging
import logging.config
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from bmo_cli.config.commands import relative_to_cwd
from bmo_cli.config.schema import Config
from bmo_cli.errors import BmoError, InputError, Interrupted, Killed, escape_unprintable
from bmo_cli.jobs.elastic import train_on_devices
from bmo_cli.jobs.failures import record_failure
from bmo_cli.jobs.pool import JobPool
from bmo_cli.jobs.status import can_resume, code_has_changed, is_done, move_failed_attempt
from bmo_cli.jobs.worker import Worker
from bmo_cli.results.result import RunResult
from bmo_cli.results.run import Run, TrainSpec
from bmo_cli.training.run import train

log = logging.getLogger("bmo")

_BASIC_LAUNCHER = ".BasicLauncher"


class SweepJobs:
    """The jobs of a sweep that this process runs: one after the other, or `jobs=N` at a time.

    Hydra's own launcher runs jobs one after the other. With `jobs=N`, `run` returns as soon as its
    job has started, so that the launcher continues with the next one.

    Args:
        launcher, sweeper: classes that Hydra uses.
    """

    def __init__(self, launcher: str, sweeper: str) -> None:
        self._launcher, self._sweeper = launcher, sweeper
        self._pool: JobPool[TrainSpec] | None = None

    def run(self, spec: TrainSpec) -> RunResult | None:
        """Train a job, or what an earlier attempt in its folder left to do.

        Returns:
            The result. None with `jobs=N`: the job runs, or was done before.

        Raises:
            RunLocked: another process trains in this folder.
            Interrupted: this process received a request to stop; the run has a checkpoint.
            Killed: the process of the job was killed.
            Exception: an error of `train`.
        """
        at_a_time = spec.config.jobs
        if at_a_time > 1:
            require_pool_allowed(spec.config, self._launcher, self._sweeper)
            if self._pool is None:
                self._pool = JobPool(at_a_time, _record_outcome)
            self._pool.wait_for_place()  # another process may train the job meanwhile
        spec, done = resume_earlier_attempt(spec)
        if done is not None:
            if at_a_time > 1:
                _print_line("done before", spec)
                return None
            log.info("done before: %s", spec.path)
            return done
        if self._pool is not None:
            self._pool.add(spec, _train_quietly, spec, device=spec.config.device)
            _print_line("started", spec)
            return None
        if spec.config.train.devices > 1:
            return train_on_devices(Run(spec))
        return self._run_in_worker(spec)

    def finish(self) -> None:
        """Wait for the jobs that still run.

        Raises:
            Interrupted: this process received a request to stop; every job has a checkpoint.
        """
        if self._pool is not None:
            self._pool.finish()

    def _run_in_worker(self, spec: TrainSpec) -> RunResult:
        ended: list[Worker] = []
        launched = not self._launcher.endswith(_BASIC_LAUNCHER)
        with JobPool[TrainSpec](
            1, lambda _, worker: ended.append(worker), stop_with_parent=launched
        ) as pool:
            try:
                pool.add(spec, train_job, spec)
                pool.finish()
            except Interrupted as stopped:
                raise _describe_stop(spec, ended, stopped.exit_code) from stopped
        if pool.stopping:  # the request came just before the end
            raise _describe_stop(spec, ended, pool.exit_code)
        result: RunResult = ended[0].outcome()
        return result


def _describe_stop(spec: TrainSpec, ended: list[Worker], exit_code: int) -> Interrupted:
    """The error of a job that received a request to stop."""
    message = f"stopped; {spec.path} is done" if ended else f"stopped before {spec.path} began"
    try:
        for worker in ended:
            worker.outcome()
    except Interrupted as error:
        message = str(error)
    except Killed:
        message = "stopped before it could be saved"
    return Interrupted(message, exit_code=exit_code)


def resume_earlier_attempt(spec: TrainSpec) -> tuple[TrainSpec, RunResult | None]:
    """The spec with which a job starts or resumes, and its result if it is done.

    Raises:
        RunLocked: another process trains in this folder.
    """
    folder = spec.folder
    with folder.claimed():
        before = folder.read_result()
        if before is not None and is_done(before, spec.config):
            return spec, before
        begun = can_resume(folder, spec.config)
        if begun and code_has_changed(folder):
            log.info("%s goes on with code that has changed since it stopped", folder.path)
        if not begun:
            move_failed_attempt(folder)
    resume = str(folder.path) if begun else None
    return replace(spec, config=replace(spec.config, resume=resume), snapshot=None), None


def require_pool_allowed(config: Config, launcher: str, sweeper: str) -> None:
    """Refuse `jobs=N` where a launcher, a sweeper or `train.devices` excludes it.

    Args:
        config: of a job.
        launcher, sweeper: classes that Hydra uses.

    Raises:
        InputError: naming what excludes it.
    """
    jobs = config.jobs
    if not launcher.endswith(_BASIC_LAUNCHER):
        raise InputError(
            f"jobs={jobs} is for sweeps without a launcher; the chosen one has keys of its own "
            "(hydra.launcher.n_jobs, hydra.launcher.array_parallelism)"
        )
    if not sweeper.endswith((".BasicSweeper", ".bmo_search.Search")):
        raise InputError(f"jobs={jobs}: this sweeper learns from every job; use jobs=1")
    if config.train.devices > 1:
        raise InputError(f"jobs={jobs}: with train.devices a job has several devices; use jobs=1")


def train_job(spec: TrainSpec) -> RunResult:
    """The function of a job's process. Returns the content of result.json."""
    logging.config.dictConfig(dict(spec.logging))
    return train(Run(spec))


def _train_quietly(spec: TrainSpec) -> RunResult:
    """As `train_job`, where several processes share a terminal: their output goes to run.log."""
    with (spec.path / "run.log").open("a", encoding="utf-8") as stream:
        os.dup2(stream.fileno(), sys.stderr.fileno())  # progress bars, and output of crashes
    root: Mapping[str, Any] = spec.logging["root"]
    handlers = [name for name in root["handlers"] if name != "console"]
    return train_job(
        replace(spec, logging={**spec.logging, "root": {**root, "handlers": handlers}})
    )


def _record_outcome(spec: TrainSpec, worker: Worker) -> None:
    """Print how a job ended, and record in its folder why it failed."""
    try:
        worker.outcome()
    except Exception as error:
        record_failure(spec.path, error, spec.choices)
        known = isinstance(error, BmoError)
        _print_line(f"failed ({error if known else type(error).__name__})", spec)
    else:
        _print_line("done", spec)


def _print_line(what: str, spec: TrainSpec) -> None:
    """Print a line on the terminal. The logging of this process is that of the latest job."""
    with suppress(OSError):  # a closed terminal does not stop the jobs
        print(escape_unprintable(f"{what}: {relative_to_cwd(Path(spec.path))}"), flush=True)
