"""The interface of loggers. A logger receives every row of the history and cannot stop a run."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bmo_cli.results.run_folder import RunFolder

log = logging.getLogger("bmo")


class Logger:
    """Base of loggers: one class and a YAML in `configs/logger/`. This class does nothing.

    The constructor takes the keys of the YAML. It raises `errors.InputError` if the logger cannot
    work, for example if a package is not installed. The run then ends before it starts.
    """

    def open(
        self,
        folder: RunFolder,
        config: Mapping[str, Any],
        rows: Sequence[Mapping[str, float]],
        metric: str,
    ) -> None:
        """Called when a run starts or resumes.

        Args:
            folder: of the run, the only folder to write to.
            config: of the run.
            rows: of the history so far; empty for a new run. An earlier attempt may have logged
                later rows, which are no longer a part of the run.
            metric: name of the score in a row's `val`.
        """

    def row(self, row: Mapping[str, float]) -> None:
        """Called with every row of the history. A missing value is nan."""

    def close(self, result: Mapping[str, Any]) -> None:
        """Called when the run ends. `result["status"]` is `running` if an error ended it."""


class SafeLogger:
    """Calls a logger. An error of the logger disables it and does not end the run.

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
    """`FILE, line N, in FUNCTION: ` of the innermost call of a module; empty if there is none."""
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if frame.f_globals.get("__name__") == module:
            code = frame.f_code
            place = f"{Path(code.co_filename).name}, line {line}, in {code.co_name}: "
    return place
