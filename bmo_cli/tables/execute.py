"""Cells of a table, run one after the other or some at a time, each in a process of its own."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path

import torch
import yaml

from bmo_cli.errors import (
    BmoError,
    DiskFull,
    Interrupted,
    NotStarted,
    RunLocked,
    disk_full_in_one_line,
    exits_as_errors,
    is_disk_full,
    wrap_resource_error,
)
from bmo_cli.experiment.signals import StopRequest
from bmo_cli.jobs.status import goes_on, is_of_other_code
from bmo_cli.jobs.worker import Worker
from bmo_cli.results.files import write_atomically
from bmo_cli.tables.cell import Cell
from bmo_cli.training.run import train

log = logging.getLogger("bmo")


ONCE_MORE = "give the same command again"


def run_cells(cells: Sequence[Cell], jobs: int) -> dict[Path, str]:
    """Run cells.

    Args:
        cells: to run; those with a problem are only named.
        jobs: how many at a time.

    Returns:
        Why cells failed, by folder.

    Raises:
        Interrupted: by Ctrl-C or SIGTERM; every cell in progress is saved.
        DiskFull: what is done stays usable.
    """
    failures = {cell.folder.path: cell.problem for cell in cells if cell.problem}
    for problem in dict.fromkeys(failures.values()):  # a missing data set stops many for one reason
        first, *others = (cell.name for cell in cells if cell.problem == problem)
        more = f" and {len(others)} more" if others else ""
        log.warning("cannot run %s%s: %s", first, more, problem)
    able = [cell for cell in cells if not cell.problem]
    found = _one_by_one(able) if jobs == 1 else _side_by_side(able, jobs)
    for cell, reason in found:
        if reason:
            failures[cell.folder.path] = reason
            log.warning("failed: %s: %s", cell.name, reason)
    return failures


def _stopped(done: int, code: int) -> Interrupted:
    return Interrupted(
        f"stopped; {done} cells were run and what was in progress is saved, the same command "
        "goes on",
        exit_code=code,
    )


def _one_by_one(cells: Sequence[Cell]) -> Iterator[tuple[Cell, str]]:
    for i, cell in enumerate(cells, 1):
        log.info("%d/%d  %s", i, len(cells), cell.name)
        try:
            yield cell, run_cell(cell)
        except Interrupted as error:
            raise _stopped(i - 1, error.exit_code) from error


def run_cell(cell: Cell) -> str:
    """Train a cell, its output going to run.log alone; one that was interrupted goes on.

    Returns:
        Why it failed, or nothing.

    Raises:
        Interrupted: it is saved.
        DiskFull: the next start goes on with it.
    """
    with disk_full_in_one_line(str(cell.folder.path), ONCE_MORE):
        try:
            begun = _prepared(cell)
        except RunLocked as error:  # of one cell; it must not hide the others
            return str(error)
        path, before = cell.folder.path, cell.folder.read_result() if begun else {}
        config = cell.composed.config | {"resume": str(path) if begun else None}
        started = time.monotonic()

        def seconds() -> float:
            return float(before.get("cell_seconds", 0)) + time.monotonic() - started

        with _logged_to(path / "run.log"):
            try:
                with exits_as_errors():
                    result = train(config, cell.composed.names, cell.folder)
                cell.folder.write_result(result | {"cell_seconds": seconds()})
                return ""
            except Interrupted as error:
                _record(cell, "interrupted", str(error), seconds())
                raise
            except Exception as error:  # one cell must not hide the others
                if is_disk_full(error):
                    with suppress(OSError):
                        _record(cell, "interrupted", "the disk was full", seconds())
                    raise
                known = wrap_resource_error(error)
                kind = "" if isinstance(known, BmoError) else f"{type(known).__name__}: "
                reason = f"{kind}{known}"
                _record(cell, "failed", reason, seconds())
                log.exception("the cell failed")
                return reason


def _prepared(cell: Cell) -> bool:
    """Make the run folder; returns whether a run that was interrupted goes on there."""
    path = cell.folder.path
    begun = goes_on(cell.folder, cell.composed.config)
    if begun and is_of_other_code(cell.folder):  # a value of a table comes from one program
        log.info("%s starts again: the code has changed since it stopped", cell.name)
        begun = False
    if path.exists():
        with cell.folder.claimed():
            if not begun:
                shutil.rmtree(path)  # it failed or had not begun
    (path / ".hydra").mkdir(parents=True, exist_ok=True)
    write_atomically(path / ".hydra" / "config.yaml", cell.composed.text.encode())
    listed = yaml.safe_dump(list(cell.overrides))
    write_atomically(path / ".hydra" / "overrides.yaml", listed.encode())
    return begun


def _record(cell: Cell, status: str, message: str, seconds: float) -> None:
    end = {"status": status, "message": message, "cell_seconds": seconds}
    cell.folder.write_result({"metrics": {}, **cell.folder.read_result(), **end})


@contextmanager
def _logged_to(file: Path) -> Iterator[None]:
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


def _side_by_side(cells: Sequence[Cell], jobs: int) -> Iterator[tuple[Cell, str]]:
    """As `_one_by_one`, some at a time; the order of the results is that of their ends."""
    threads = max(1, torch.get_num_threads() // jobs)
    waiting, running, done = list(cells), dict[Worker, Cell](), 0
    with StopRequest() as stop:
        try:
            while waiting or running:
                while waiting and len(running) < jobs and stop.signal is None:
                    cell = waiting.pop(0)
                    log.info("%d/%d  %s", len(cells) - len(waiting), len(cells), cell.name)
                    try:
                        running[Worker(run_cell, cell, threads=threads)] = cell
                    except NotStarted as error:
                        yield cell, str(error)
                if stop.signal is not None:
                    break
                wait([worker.channel for worker in running], timeout=0.5)
                for worker in [worker for worker in running if worker.ended()]:
                    cell = running.pop(worker)
                    done += 1
                    yield cell, _reason(worker)
        finally:
            for worker in running:
                worker.stop()  # each saves its cell
            for worker in running:
                with suppress(BmoError):
                    worker.outcome()
    if stop.signal is not None:
        raise _stopped(done, stop.exit_code)


def _reason(worker: Worker) -> str:
    """Why a cell failed, or nothing."""
    try:
        return str(worker.outcome())
    except Interrupted:
        return "stopped"
    except DiskFull:  # every other cell would meet it as well
        raise
    except Exception as error:
        return str(error)
