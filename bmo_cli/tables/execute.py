"""Run cells of a table, one after the other or some at a time, each in a process of its own."""

from __future__ import annotations

import itertools
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import yaml

from bmo_cli.errors import (
    BmoError,
    DiskFull,
    Interrupted,
    NotStarted,
    RunLocked,
    convert_exits,
    explain_full_disk,
    is_disk_full,
    wrap_resource_error,
)
from bmo_cli.jobs.pool import JobPool
from bmo_cli.jobs.status import can_resume, code_has_changed
from bmo_cli.jobs.worker import Worker
from bmo_cli.results.files import write_atomically
from bmo_cli.results.result import RunResult, Status
from bmo_cli.results.run import Run, TrainSpec
from bmo_cli.results.run_folder import RunFolder
from bmo_cli.tables.cell import Cell
from bmo_cli.tables.sharing import assign_sources, fails_in_training, find_trained, take_training
from bmo_cli.training.run import train

log = logging.getLogger("bmo")


RUN_AGAIN = "give the same command again"


def run_cells(cells: Sequence[Cell], jobs: int, table: Sequence[Cell] = ()) -> dict[Path, str]:
    """Run cells, each in a process of its own. Cells that take a training of another one run last.

    Args:
        cells: to run. Cells with a problem are not run, but logged.
        jobs: number of cells that run at a time.
        table: all cells of the table, whose trainings may be taken; `cells` are among them.

    Returns:
        Why cells failed, by folder.

    Raises:
        Interrupted: by Ctrl-C or SIGTERM; every cell in progress has a checkpoint.
        DiskFull: the disk is full; finished cells stay usable.
    """
    failures, table = _Failures(), table or cells
    able = waiting = failures.exclude_problems(cells)
    numbers = itertools.count(1)
    pool: JobPool[Cell] = JobPool(
        jobs, lambda cell, worker: failures.record_end(cell, worker, pool.stopping)
    )

    def start(cell: Cell) -> None:
        log.info("%d/%d  %s", next(numbers), len(able), cell.name)
        source = find_trained(cell, table)
        folder = None if source is None else source.spec.path
        try:
            pool.add(cell, run_cell, cell, folder, device=cell.spec.config.device)
        except NotStarted as error:
            failures.add(cell, str(error))

    try:
        with pool:
            while waiting:
                sources = assign_sources(waiting, table)
                first, waiting = _divide(waiting, sources)
                for cell in first:
                    start(cell)
                pool.finish()  # trainings that other cells take have ended
                waiting = failures.exclude_untrained(waiting, sources)
    except Interrupted as error:
        raise Interrupted(
            f"stopped; {failures.ended} cells were run and what was in progress is saved, the same "
            "command goes on",
            exit_code=error.exit_code,
        ) from error
    return failures.reasons


def _divide(cells: Sequence[Cell], sources: Mapping[Path, Cell]) -> tuple[list[Cell], list[Cell]]:
    """The cells that can start, and those that wait for the training of one of them."""
    paths = {cell.spec.path for cell in cells}
    waiting = {path for path, source in sources.items() if source.spec.path in paths}
    return (
        [cell for cell in cells if cell.spec.path not in waiting],
        [cell for cell in cells if cell.spec.path in waiting],
    )


class _Failures:
    """Why cells failed.

    Attributes:
        reasons: by folder.
        ended: number of cells that have ended, failed or not.
    """

    def __init__(self) -> None:
        self.reasons: dict[Path, str] = {}
        self.ended = 0

    def exclude_problems(self, cells: Sequence[Cell]) -> list[Cell]:
        """The cells that can run. The others are logged."""
        self.reasons |= {cell.spec.path: cell.problem for cell in cells if cell.problem}
        for problem in dict.fromkeys(self.reasons.values()):  # many cells may miss the same data
            first, *others = (cell.name for cell in cells if cell.problem == problem)
            more = f" and {len(others)} more" if others else ""
            log.warning("cannot run %s%s: %s", first, more, problem)
        return [cell for cell in cells if not cell.problem]

    def exclude_untrained(self, cells: Sequence[Cell], sources: Mapping[Path, Cell]) -> list[Cell]:
        """The cells whose training has not failed in the cell that they would take it from."""
        left = []
        for cell in cells:
            source = sources[cell.spec.path]
            reason = self.reasons.get(source.spec.path)
            if reason is not None and fails_in_training(source):
                self.add(cell, f"it takes the training of '{source.name}': {reason}")
            else:
                left.append(cell)
        return left

    def add(self, cell: Cell, reason: str) -> None:
        """Record and log the failure of a cell."""
        self.reasons[cell.spec.path] = reason
        log.warning("failed: %s: %s", cell.name, reason)

    def record_end(self, cell: Cell, worker: Worker, stopping: bool) -> None:
        """Record the end of a cell.

        Raises:
            DiskFull: the disk is full, for the other cells as well.
        """
        try:
            reason = str(worker.outcome())
        except Interrupted:
            if stopping:  # it resumes with the table
                return
            reason = "stopped"
        except DiskFull:
            raise
        except Exception as error:
            reason = str(error)
        self.ended += 1
        if reason:
            self.add(cell, reason)


def run_cell(cell: Cell, source: Path | None = None) -> str:
    """Train a cell, or resume an interrupted one. Its output goes to run.log alone.

    Args:
        cell: to run.
        source: folder of a cell whose training it takes; None: it trains.

    Returns:
        Why it failed; empty if it did not.

    Raises:
        Interrupted: the cell has a checkpoint.
        DiskFull: the next start resumes the cell.
    """
    with explain_full_disk(str(cell.spec.path), RUN_AGAIN):
        try:
            spec, earlier = _prepare_folder(cell, source)
        except RunLocked as error:  # must not stop the other cells
            return str(error)
        started = time.monotonic()
        end: tuple[Status, str] | None = None
        with _log_to(spec.path / "run.log"):
            try:
                with convert_exits():
                    train(Run(spec))
                end = ("ok", "")
            except Interrupted as error:
                end = ("interrupted", str(error))
                raise
            except Exception as error:  # must not stop the other cells
                if is_disk_full(error):
                    end = ("interrupted", "the disk was full")
                    raise
                known = wrap_resource_error(error)
                kind = "" if isinstance(known, BmoError) else f"{type(known).__name__}: "
                end = ("failed", f"{kind}{known}")
                log.exception("the cell failed")
            finally:
                if end is not None:
                    _record_attempt(spec, *end, earlier + time.monotonic() - started)
    return "" if end is None else end[1]


def _record_attempt(spec: TrainSpec, status: Status, message: str, seconds: float) -> None:
    """Add to the result of a cell how the attempt ended, and the seconds of all attempts."""
    result = RunResult.read(spec.path) or RunResult(status=status, choices=spec.choices)
    if status != "ok":
        result = replace(result, status=status, message=message)
    try:
        replace(result, cell_seconds=seconds).write(spec.path)
    except OSError as error:
        if status == "interrupted" and is_disk_full(error):  # no room for the record either
            return
        raise


def _prepare_folder(cell: Cell, source: Path | None) -> tuple[TrainSpec, float]:
    """Make the run folder of a cell, with the training of `source` where it takes one.

    Returns:
        The spec with which the cell starts or resumes, and the seconds of its earlier attempts.

    Raises:
        RunLocked: another process trains in this folder.
    """
    spec, folder = cell.spec, cell.spec.folder
    begun = can_resume(folder, spec.config)
    if begun and code_has_changed(folder):  # one version of the code computes a whole cell
        log.info("%s starts again: the code has changed since it stopped", cell.name)
        begun = False
    if spec.path.exists():
        with folder.claimed():
            if not begun:
                shutil.rmtree(spec.path)  # it failed, or has no checkpoint
    (spec.path / ".hydra").mkdir(parents=True, exist_ok=True)
    write_atomically(spec.path / ".hydra" / "config.yaml", (spec.snapshot or "").encode())
    listed = yaml.safe_dump(list(cell.overrides))
    write_atomically(spec.path / ".hydra" / "overrides.yaml", listed.encode())
    if not begun and source is not None:
        begun = take_training(spec, RunFolder(source))
    before = folder.read_result() if begun else None
    resumed = replace(spec.config, resume=str(spec.path) if begun else None)
    seconds = 0.0 if before is None else before.cell_seconds or 0.0
    return replace(spec, config=resumed, snapshot=None), seconds


@contextmanager
def _log_to(file: Path) -> Iterator[None]:
    """Context in which the log goes to this file alone."""
    root = logging.getLogger()
    kept, level, handler = root.handlers[:], root.level, logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.handlers[:] = kept
        root.setLevel(level)
        handler.close()
