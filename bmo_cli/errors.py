"""What can go wrong in a way the user can mend, and the exit code each kind has.

A `BmoError` carries one clear line: what was wrong, what was expected, what to try. The command
line prints that line and exits with `exit_code`; with HYDRA_FULL_ERROR=1 the
traceback is shown.
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
    """An error that one line explains."""

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
    """The user stopped the run (Ctrl-C: 130, SIGTERM: 143). What was learned is saved."""

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class RunLocked(InputError):
    """Another process works in the run folder; nothing in it was touched."""


class DiskFull(BmoError):
    """No space is left; what is done stays usable."""

    exit_code = 4


class OutOfMemory(InputError):
    """Memory ran out; a run goes on from its last checkpoint where there is more of it."""

    def __init__(self, message: str = "") -> None:
        super().__init__(
            message
            or "memory ran out; use a smaller network (net.width, net.depth), train.batch or "
            "data.crop"
        )


class Killed(BmoError):
    """A process ended without a word: a signal, or the system was out of memory."""

    @classmethod
    def with_code(cls, code: int | None, who: str = "its process") -> Killed:
        """For a process that ended with this code; None: it is not known."""
        if code is None:
            return cls(f"{who} ended without a word (out of memory?)")
        if code >= 0:
            return cls(f"{who} ended with code {code} and no word")
        names = {item.value: item.name for item in signal.Signals}
        name = names.get(-code, f"signal {-code}")
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return cls(f"{who} was ended by {name}{hint}")


class NotStarted(BmoError):
    """The system does not allow another process."""


class SweepFailed(BmoError):
    """Jobs of a sweep failed; the exit code is their number."""

    def __init__(self, message: str, count: int) -> None:
        super().__init__(message)
        self.exit_code = min(count, 100)  # codes above have other meanings


class Exited(BmoError):
    """Something that the program called asked Python to end it."""


_KINDS = {
    kind.__name__: kind
    for kind in (
        *(BmoError, InputError, PluginError, DivergenceError, RunLocked, DiskFull, OutOfMemory),
        *(Killed, NotStarted, Exited),
    )
}
"""errors that a process may tell another one of, by name"""


def is_disk_full(error: BaseException) -> bool:
    """Whether the system says that no space is left, or none that one may use."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def disk_full_in_one_line(what: str, then: str) -> Iterator[None]:
    """Turn the error of a full disk into a line.

    Args:
        what: was being written.
        then: what to do once there is room.

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
def exits_as_errors() -> Iterator[None]:
    """Context of what others may have written: an exit that they ask for is an error.

    An exit that a launcher asks for is none: submitit leaves that way where it has put the job back
    into its queue.

    Raises:
        Exited: there was one.
    """
    try:
        yield
    except SystemExit as error:
        if _asked_by(error, _LAUNCHER):
            raise
        raise wrap_resource_error(error) from error


_LAUNCHER = "submitit."
"""Start of the names of its modules; its signal handler may be called anywhere."""


def _asked_by(error: BaseException, start: str) -> bool:
    """Whether the innermost call that led to an error is of a module whose name begins so."""
    place, name = error.__traceback__, ""
    while place is not None:
        name, place = str(place.tb_frame.f_globals.get("__name__")), place.tb_next
    return name.startswith(start)


def wrap_os_error(error: OSError) -> BmoError:
    """An error of the operating system that nobody foresaw, in a line."""
    found = wrap_resource_error(error)
    if isinstance(found, BmoError):
        return found
    where = f"{error.filename}: " if error.filename else ""
    return InputError(f"{where}{error.strerror or error}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or in main memory; torch is not imported for it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def is_overflow(error: BaseException) -> bool:
    """Whether torch could not take a number into its type."""
    return isinstance(error, RuntimeError) and "without overflow" in str(error)


def wrap_resource_error(error: BaseException) -> BaseException:
    """The same error, or what it says about disk, memory, numbers or an exit as one of ours."""
    found: BmoError | None = None
    if is_disk_full(error):
        found = DiskFull(
            "no space left on the disk; what is done stays usable: make room and start it again"
        )
    elif is_out_of_memory(error):
        found = OutOfMemory()
    elif is_overflow(error):
        found = DivergenceError(
            "a number became too large for float32, which ends at 3.4e38; use smaller learning "
            "rates, step sizes or weights in the configuration"
        )
    elif isinstance(error, SystemExit):
        found = Exited(f"sys.exit({error.code!r}) was called, by a plug-in or a library")
    if found is None:
        return error
    found.__cause__ = error
    return found.with_traceback(error.__traceback__)


def serialize_error(error: BaseException) -> dict[str, Any]:
    """An error as plain data, to tell another process of it."""
    error = wrap_resource_error(error)
    try:
        message = str(error)
    except Exception:  # of an error class that cannot say it
        message = "an error without a message"
    return {
        "kind": type(error).__name__,
        "message": message,
        "exit_code": getattr(error, "exit_code", 1),
        "traceback": "".join(traceback.format_exception(error)),
    }


def deserialize_error(entry: Mapping[str, Any], where: str = "") -> Exception:
    """What another process serialized: the same error of this module, or a RuntimeError.

    `where` says which process it was, in front of everything but a mistake in the input, which is
    one of all processes. The cause shows the traceback of the other process.
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
    error.__cause__ = _Elsewhere(entry["traceback"])
    return error


class _Elsewhere(Exception):
    """The traceback of another process."""


def printable(text: str) -> str:
    """One line without control characters; names of files and values may hold any."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    """As `printable`, for text of several lines."""
    return "\n".join(map(printable, text.split("\n")))


def nearest(word: str, choices: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the choice most like `word`, or nothing when none is close."""
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"; did you mean '{found[0]}'?" if found else ""
