"""Cells of a table, run one after the other or some at a time, each in a process of its own."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

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
from bmo_cli.jobs.pool import JobPool
from bmo_cli.jobs.status import goes_on, is_of_other_code
from bmo_cli.jobs.worker import Worker
from bmo_cli.results.files import write_atomically
from bmo_cli.results.result import RunResult, Status
from bmo_cli.results.run import Run, TrainSpec
from bmo_cli.tables.cell import Cell
from bmo_cli.training.run import train

log = logging.getLogger("bmo")


ONCE_MORE = "give the same command again"


def run_cells(cells: Sequence[Cell], jobs: int) -> dict[Path, str]:
    """Run cells, each in a process of its own.

    Args:
        cells: to run; those with a problem are only named.
        jobs: how many at a time.

    Returns:
        Why cells failed, by folder.

    Raises:
        Interrupted: by Ctrl-C or SIGTERM; every cell in progress is saved.
        DiskFull: what is done stays usable.
    """
    failures = {cell.spec.path: cell.problem for cell in cells if cell.problem}
    for problem in dict.fromkeys(failures.values()):  # a missing data set stops many for one reason
        first, *others = (cell.name for cell in cells if cell.problem == problem)
        more = f" and {len(others)} more" if others else ""
        log.warning("cannot run %s%s: %s", first, more, problem)
    able, done = [cell for cell in cells if not cell.problem], 0

    def record(cell: Cell, reason: str) -> None:
        if reason:
            failures[cell.spec.path] = reason
            log.warning("failed: %s: %s", cell.name, reason)

    def on_end(cell: Cell, worker: Worker) -> None:
        nonlocal done
        try:
            reason = str(worker.outcome())
        except Interrupted:
            if pool.stopping:  # it goes on when the table does
                return
            reason = "stopped"
        except DiskFull:  # every other cell would meet it as well
            raise
        except Exception as error:
            reason = str(error)
        done += 1
        record(cell, reason)

    try:
        pool = JobPool(jobs, on_end)
        with pool:
            for i, cell in enumerate(able, 1):
                log.info("%d/%d  %s", i, len(able), cell.name)
                try:
                    pool.add(cell, run_cell, cell, device=cell.spec.config.device)
                except NotStarted as error:
                    record(cell, str(error))
            pool.finish()
    except Interrupted as error:
        raise Interrupted(
            f"stopped; {done} cells were run and what was in progress is saved, the same command "
            "goes on",
            exit_code=error.exit_code,
        ) from error
    return failures


def run_cell(cell: Cell) -> str:
    """Train a cell, its output going to run.log alone; one that was interrupted goes on.

    Returns:
        Why it failed, or nothing.

    Raises:
        Interrupted: it is saved.
        DiskFull: the next start goes on with it.
    """
    path = cell.spec.path
    with disk_full_in_one_line(str(path), ONCE_MORE):
        try:
            spec, earlier = _prepared(cell)
        except RunLocked as error:  # of one cell; it must not hide the others
            return str(error)
        started = time.monotonic()

        def record(result: RunResult) -> None:
            replace(result, cell_seconds=earlier + time.monotonic() - started).write(path)

        def record_end(status: Status, message: str) -> None:
            before = RunResult.read(path) or RunResult(status=status, choices=spec.choices)
            record(replace(before, status=status, message=message))

        with _logged_to(path / "run.log"):
            try:
                with exits_as_errors():
                    train(Run(spec))
                result = RunResult.read(path)
                assert result is not None
                record(result)
                return ""
            except Interrupted as error:
                record_end("interrupted", str(error))
                raise
            except Exception as error:  # one cell must not hide the others
                if is_disk_full(error):
                    with suppress(OSError):
                        record_end("interrupted", "the disk was full")
                    raise
                known = wrap_resource_error(error)
                kind = "" if isinstance(known, BmoError) else f"{type(known).__name__}: "
                reason = f"{kind}{known}"
                record_end("failed", reason)
                log.exception("the cell failed")
                return reason


def _prepared(cell: Cell) -> tuple[TrainSpec, float]:
    """Make the run folder; the spec with which the cell starts or goes on, and its seconds so far.

    Raises:
        RunLocked: another process trains there.
    """
    spec, folder = cell.spec, cell.spec.folder
    begun = goes_on(folder, spec.config)
    if begun and is_of_other_code(folder):  # a value of a table comes from one program
        log.info("%s starts again: the code has changed since it stopped", cell.name)
        begun = False
    if spec.path.exists():
        with folder.claimed():
            if not begun:
                shutil.rmtree(spec.path)  # it failed or had not begun
    (spec.path / ".hydra").mkdir(parents=True, exist_ok=True)
    write_atomically(spec.path / ".hydra" / "config.yaml", (spec.snapshot or "").encode())
    listed = yaml.safe_dump(list(cell.overrides))
    write_atomically(spec.path / ".hydra" / "overrides.yaml", listed.encode())
    before = folder.read_result() if begun else None
    resumed = replace(spec.config, resume=str(spec.path) if begun else None)
    seconds = 0.0 if before is None else before.cell_seconds or 0.0
    return replace(spec, config=resumed, snapshot=None), seconds


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
