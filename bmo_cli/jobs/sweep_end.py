"""The end of a sweep: list the failed jobs, and the command that resumes the sweep."""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig

from bmo_cli.config.commands import format_command
from bmo_cli.config.overrides import list_overrides, own_config_words
from bmo_cli.errors import SweepFailed, escape_unprintable
from bmo_cli.results.folders import make_unique
from bmo_cli.results.runs import find_runs


def require_all_ok(config: DictConfig) -> None:
    """Check the result of every job. Hydra itself would stop at the first failed job.

    Args:
        config: of the sweep, with Hydra's section.

    Raises:
        SweepFailed: jobs failed. A line about each is printed before.
    """
    jobs = {run.path: run for run in find_runs([Path(str(config.hydra.sweep.dir))])}
    failed = {
        job: jobs[job].message or "it left no result"
        for job in sorted(jobs, key=lambda path: (len(str(path)), str(path)))
        if jobs[job].status != "ok"
    }
    if not failed:
        return
    for job, reason in failed.items():
        print(f"bmo: failed: {job}: {escape_unprintable(reason)}", file=sys.stderr)
    again = f"; run these again with '{resume_command(config)}'"
    raise SweepFailed(
        f"{len(failed)} of {len(jobs)} jobs failed"
        f"{again if config.hydra.job.name == 'train' else ''}",
        len(failed),
    )


def resume_command(config: DictConfig) -> str:
    """The command that resumes a sweep.

    Args:
        config: of the sweep, with Hydra's section.
    """
    given = config.hydra.overrides
    named = [
        word
        for word in (*list_overrides(given.task), *list_overrides(given.hydra))
        if word.startswith(("plugins=", "hydra.sweep.subdir="))
    ]
    folder = str(config.hydra.sweep.dir)
    return format_command("train", *own_config_words(config.hydra), *named, resume=folder)


def rename_pickles(sweep: Path) -> None:
    """Rename submitit's files in the folder of a sweep, because submitit would unpickle them."""
    left = sweep / ".submitit"
    if left.exists():
        left.rename(make_unique(left).path)
