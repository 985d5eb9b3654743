"""What can go wrong in a way the user can mend, and the exit code each kind has.

A `BmoError` carries one clear line: what was wrong, what was expected, what to try. The command
line prints that line and exits with `exit_code`; with HYDRA_FULL_ERROR=1 the
traceback is shown.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BmoError(Exception):
    """An error that one line explains."""

    exit_code: int = 1


class InputError(BmoError, ValueError):
    """The configuration, a file or an argument is not usable. Nothing was computed."""

    exit_code = 2


class DivergenceError(BmoError):
    """The loss or an iterate became non-finite. The last good checkpoint is kept."""

    exit_code = 3


class Interrupted(BmoError):
    """The user stopped the run (Ctrl-C: 130, SIGTERM: 143). What was learned is saved."""

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def nearest(word: str, choices: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the choice most like `word`, or nothing when none is close."""
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"; did you mean '{found[0]}'?" if found else ""
