"""What a job that failed leaves in its folder."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping

from bmo_cli.errors import (
    BmoError,
    DiskFull,
    InputError,
    Interrupted,
    Killed,
    OutOfMemory,
    printable,
    wrap_resource_error,
)
from bmo_cli.results.run_folder import RunFolder


def record_failure(
    folder: RunFolder,
    error: BaseException,
    names: Mapping[str, str | None],
    *,
    begun: bool = False,
) -> None:
    """result.json with the reason, and the traceback in run.log.

    A job of a sweep that was refused before it went on stays what it was.
    """
    error = wrap_resource_error(error)
    goes_on = isinstance(error, Interrupted | Killed | DiskFull | OutOfMemory)
    status = "interrupted" if goes_on else "failed"
    message = str(error) if isinstance(error, BmoError) else f"{type(error).__name__}: {error}"
    try:
        before = folder.read_result()
        if not begun and before.get("status") in ("ok", "interrupted"):
            if isinstance(error, Interrupted):
                return
            print(f"bmo: {folder.path} stays as it was: {printable(message)}", file=sys.stderr)
            return
        folder.write_result(
            {"metrics": {}, **names, **before, "status": status, "message": message}
        )
        if not isinstance(error, Interrupted | DiskFull):
            with (folder.path / "run.log").open("a", encoding="utf-8") as stream:
                stream.write("".join(traceback.format_exception(error)))
    except (OSError, InputError) as second:
        if isinstance(error, DiskFull):  # no room for that either
            return
        print(f"bmo: the failure could not be recorded: {second}", file=sys.stderr)
