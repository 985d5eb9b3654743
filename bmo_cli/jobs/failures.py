"""Record the failure of a job in its folder."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bmo_cli.errors import (
    BmoError,
    DiskFull,
    InputError,
    Interrupted,
    Killed,
    OutOfMemory,
    escape_unprintable,
    wrap_resource_error,
)
from bmo_cli.results.result import RunResult, Status


def record_failure(
    path: Path,
    error: BaseException,
    choices: Mapping[str, str | None],
    *,
    about: str | None = None,
    started: bool = False,
) -> None:
    """Write result.json with the reason, and the traceback to run.log.

    The result of a job of a sweep that was refused before it resumed is not changed.

    Args:
        path: of the run folder.
        error: the reason.
        choices, about: see `RunSpec`; used where the folder has no result yet.
        started: whether this attempt has changed the folder.
    """
    error = wrap_resource_error(error)
    resumable = isinstance(error, Interrupted | Killed | DiskFull | OutOfMemory)
    status: Status = "interrupted" if resumable else "failed"
    message = str(error) if isinstance(error, BmoError) else f"{type(error).__name__}: {error}"
    try:
        before = RunResult.read(path)
        if not started and before is not None and before.status in ("ok", "interrupted"):
            if not isinstance(error, Interrupted):
                print(
                    f"bmo: {path} stays as it was: {escape_unprintable(message)}", file=sys.stderr
                )
            return
        if before is None:
            before = RunResult(status=status, choices=choices, run=about)
        replace(before, status=status, message=message).write(path)
        if not isinstance(error, Interrupted | DiskFull):
            with (path / "run.log").open("a", encoding="utf-8") as stream:
                stream.write("".join(traceback.format_exception(error)))
    except (OSError, InputError) as second:
        if isinstance(error, DiskFull):  # no room for the record either
            return
        print(f"bmo: the failure could not be recorded: {second}", file=sys.stderr)
