"""Errors that the user can correct, and the exit code of each kind.

A `BmoError` carries one line: what was wrong, what was expected, what to try. The command line
prints that line and exits with `exit_code`. HYDRA_FULL_ERROR=1 shows the traceback.
"""

from __future__ import annotations

import difflib
import errno
import signal
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class BmoError(Exception):
    """Base of all errors whose message is one line for the user."""

    exit_code: int = 1


class InputError(BmoError, ValueError):
    """The configuration, a file or an argument is not usable. Nothing was computed."""

    exit_code = 2


class PluginError(InputError):
    """The code of a plug-in failed; the message says in which file, line and function."""


class DivergenceError(BmoError):
    """The loss or an iterate became non-finite. The last good checkpoint is kept."""

    exit_code = 3


class Interrupted(BmoError):
    """The user stopped the run (exit code 130 for Ctrl-C, 143 for SIGTERM). A checkpoint exists."""

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class RunLocked(InputError):
    """Another process works in the run folder; nothing in it was touched."""


class DiskFull(BmoError):
    """No space is left on the disk; files that are complete stay usable."""

    exit_code = 4


class OutOfMemory(InputError):
    """Memory ran out; a run resumes from its last checkpoint on a machine with more memory."""

    def __init__(self, message: str = "") -> None:
        super().__init__(
            message
            or "memory ran out; use a smaller network (net.width, net.depth), train.batch or "
            "data.crop"
        )


class Killed(BmoError):
    """A process ended without reporting an error: a signal, or the system was out of memory."""

    @classmethod
    def with_code(cls, code: int | None, who: str = "its process") -> Killed:
        """The error of a process that ended with this exit code; None: the code is unknown."""
        if code is None:
            return cls(f"{who} ended without an error message (out of memory?)")
        if code >= 0:
            return cls(f"{who} ended with code {code} and no error message")
        names = {item.value: item.name for item in signal.Signals}
        name = names.get(-code, f"signal {-code}")
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return cls(f"{who} was ended by {name}{hint}")


class NotStarted(BmoError):
    """The system refused to start another process."""


class SweepFailed(BmoError):
    """Jobs of a sweep failed; the exit code is the number of failed jobs."""

    def __init__(self, message: str, count: int) -> None:
        super().__init__(message)
        self.exit_code = min(count, 100)  # codes above have other meanings


class Exited(BmoError):
    """A plug-in or a library called `sys.exit`."""


_KINDS = {
    kind.__name__: kind
    for kind in (
        *(BmoError, InputError, PluginError, DivergenceError, RunLocked, DiskFull, OutOfMemory),
        *(Killed, NotStarted, Exited),
    )
}
"""Errors that one process may report to another, by name."""


def is_disk_full(error: BaseException) -> bool:
    """Whether the disk is full, or the user's quota is used up."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def explain_full_disk(what: str, then: str) -> Iterator[None]:
    """Context that turns the error of a full disk into one line.

    Args:
        what: file or folder that was being written.
        then: what the user does once there is room.

    Raises:
        DiskFull: no space is left.
    """
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise DiskFull(
            f"no space left on the disk while writing {what}; what is done stays usable: make room "
            f"and {then}"
        ) from error


@contextmanager
def convert_exits() -> Iterator[None]:
    """Context that turns `sys.exit` of a plug-in or a library into an error.

    SystemExit of submitit passes: submitit raises it after it has put the job back into the queue.

    Raises:
        Exited: `sys.exit` was called.
    """
    try:
        yield
    except SystemExit as error:
        if _is_raised_in(error, _SUBMITIT):
            raise
        raise wrap_resource_error(error) from error


_SUBMITIT = "submitit."
"""Prefix of submitit's module names. Its signal handler may run at any point of the program."""


def _is_raised_in(error: BaseException, prefix: str) -> bool:
    """Whether the innermost call of the traceback is in a module whose name has this prefix."""
    frame, module = error.__traceback__, ""
    while frame is not None:
        module, frame = str(frame.tb_frame.f_globals.get("__name__")), frame.tb_next
    return module.startswith(prefix)


def wrap_os_error(error: OSError) -> BmoError:
    """An unexpected error of the operating system as one line."""
    wrapped = wrap_resource_error(error)
    if isinstance(wrapped, BmoError):
        return wrapped
    where = f"{error.filename}: " if error.filename else ""
    return InputError(f"{where}{error.strerror or error}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or in main memory. Does not import torch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def is_overflow(error: BaseException) -> bool:
    """Whether torch could not convert a number because it is too large for the type."""
    return isinstance(error, RuntimeError) and "without overflow" in str(error)


def wrap_resource_error(error: BaseException) -> BaseException:
    """A full disk, lack of memory, an overflow or an exit as a `BmoError`; others unchanged."""
    wrapped: BmoError | None = None
    if is_disk_full(error):
        wrapped = DiskFull(
            "no space left on the disk; what is done stays usable: make room and start it again"
        )
    elif is_out_of_memory(error):
        wrapped = OutOfMemory()
    elif is_overflow(error):
        wrapped = DivergenceError(
            "a number became too large for float32, which ends at 3.4e38; use smaller learning "
            "rates, step sizes or weights in the configuration"
        )
    elif isinstance(error, SystemExit):
        wrapped = Exited(f"sys.exit({error.code!r}) was called, by a plug-in or a library")
    if wrapped is None:
        return error
    wrapped.__cause__ = error
    return wrapped.with_traceback(error.__traceback__)


def serialize_error(error: BaseException) -> dict[str, Any]:
    """An error as plain data, to send it to another process."""
    error = wrap_resource_error(error)
    try:
        message = str(error)
    except Exception:  # __str__ of the error class fails
        message = "an error without a message"
    return {
        "kind": type(error).__name__,
        "message": message,
        "exit_code": getattr(error, "exit_code", 1),
        "traceback": "".join(traceback.format_exception(error)),
    }


def deserialize_error(entry: Mapping[str, Any], where: str = "") -> Exception:
    """The error that another process serialized: of the same class in this module, or RuntimeError.

    The cause holds the traceback of the other process.

    Args:
        entry: from `serialize_error`.
        where: names the process at the start of the message. An input error has no such prefix,
            because all processes have it.
    """
    message, kind = entry["message"], _KINDS.get(entry["kind"])
    error: Exception
    if entry["kind"] in ("Interrupted", "KeyboardInterrupt"):
        code = entry["exit_code"] if entry["kind"] == "Interrupted" else 130
        return Interrupted(message or "stopped before training began", exit_code=code)
    if kind is not None:
        error = kind(message if kind in (InputError, RunLocked) else f"{where}{message}")
    else:
        error = RuntimeError(f"{where}{entry['kind']}: {message}")
    error.__cause__ = _RemoteTraceback(entry["traceback"])
    return error


class _RemoteTraceback(Exception):
    """The traceback of another process."""


def escape_unprintable(text: str) -> str:
    """One line without control characters, which names of files and values may hold."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def escape_unprintable_lines(text: str) -> str:
    """As `escape_unprintable`, for text of several lines."""
    return "\n".join(map(escape_unprintable, text.split("\n")))


def suggest_nearest(word: str, choices: Iterable[str]) -> str:
    """`; did you mean 'x'?` with the choice most similar to `word`; empty where none is similar."""
    matches = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"; did you mean '{matches[0]}'?" if matches else ""
