"""What a logger is: it hears every row of the history and the result, and can never stop a run."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bmo_cli.results.run_folder import RunFolder

log = logging.getLogger("bmo")


class Logger:
    """Shows a run elsewhere as well: one class and a YAML in `configs/logger/`.

    This one shows it nowhere. The constructor of another takes the keys of its YAML and refuses
    what cannot work, as a package that is not installed, by an `errors.InputError`: no time has
    been spent then.
    """

    def open(
        self,
        folder: RunFolder,
        config: Mapping[str, Any],
        rows: Sequence[Mapping[str, float]],
        metric: str,
    ) -> None:
        """A run begins or goes on.

        Args:
            folder: of the run, the only place to write to.
            config: of the run.
            rows: of the history that are there; none of a run that begins. Later rows of an
                earlier attempt, which are no part of the run any more, may have been heard.
            metric: name of the score in a row's `val`.
        """

    def row(self, row: Mapping[str, float]) -> None:
        """A row of the history; a value that is not there is nan."""

    def close(self, result: Mapping[str, Any]) -> None:
        """The run has ended, by `result["status"]`: running, if it did not end as it should."""


class SafeLogger:
    """A logger whose failure ends it and not the run.

    Args:
        logger: to be called.
    """

    def __init__(self, logger: Logger) -> None:
        self._logger: Logger | None = logger

    def open(self, *arguments: Any) -> None:
        """See `Logger.open`."""
        self._call(lambda logger: logger.open(*arguments))

    def row(self, row: Mapping[str, float]) -> None:
        """See `Logger.row`."""
        self._call(lambda logger: logger.row(row))

    def close(self, result: Mapping[str, Any]) -> None:
        """See `Logger.close`."""
        self._call(lambda logger: logger.close(result))

    def _call(self, call: Callable[[Logger], None]) -> None:
        if self._logger is None:
            return
        try:
            call(self._logger)
        except Exception as error:
            kind, self._logger = type(self._logger), None
            detail = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            where = _locate_failure(error, kind.__module__)
            log.warning("%s failed, the run goes on without it: %s%s", kind.__name__, where, detail)


def _locate_failure(error: Exception, module: str) -> str:
    """`FILE, line N, in FUNCTION: ` of the innermost call of a module, or nothing."""
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if frame.f_globals.get("__name__") == module:
            code = frame.f_code
            place = f"{Path(code.co_filename).name}, line {line}, in {code.co_name}: "
    return place
