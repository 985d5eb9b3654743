"""Cells of a table, run one after the other or some at a time, each in a process of its own."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch
import yaml

from bmo_cli.errors import BmoError, Interrupted
from bmo_cli.experiment.allocator import keep_freed_memory
from bmo_cli.experiment.interrupt import StopRequest
from bmo_cli.experiment.provenance import source_hash
from bmo_cli.experiment.table_cell import Cell
from bmo_cli.experiment.train import train
from bmo_cli.results.run_folder import write_atomically

log = logging.getLogger("bmo")


class DiskFull(BmoError):
    """No space is left; what is done stays usable."""


@contextmanager
def disk_full_in_one_line(what: str) -> Iterator[None]:
    """Turn the error of a full disk into a line that says what was being written."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(
            f"no space left on the disk while writing {what}; what is done stays usable: make room "
            "and give the same command again"
        ) from error


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
    with disk_full_in_one_line(str(cell.folder.path)):
        goes_on = _prepared(cell)
        path, before = cell.folder.path, cell.folder.read_result() if goes_on else {}
        config = cell.composed.config | {"resume": str(path) if goes_on else None}
        started = time.monotonic()

        def seconds() -> float:
            return float(before.get("cell_seconds", 0)) + time.monotonic() - started

        with _logged_to(path / "run.log"):
            try:
                result = train(config, cell.composed.names, cell.folder)
                cell.folder.write_result(result | {"cell_seconds": seconds()})
                return ""
            except Interrupted as error:
                _record(cell, "interrupted", str(error), seconds())
                raise
            except Exception as error:  # one cell must not hide the others
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    with suppress(OSError):
                        _record(cell, "interrupted", "the disk was full", seconds())
                    raise
                known = isinstance(error, BmoError)
                reason = str(error) if known else f"{type(error).__name__}: {error}"
                _record(cell, "failed", reason, seconds())
                log.exception("the cell failed")
                return reason


def _prepared(cell: Cell) -> bool:
    """Make the run folder; returns whether a run that was interrupted goes on there."""
    path, before = cell.folder.path, cell.folder.read_result()
    if "identity" in before:  # trained and evaluated
        goes_on = bool(cell.composed.config.get("certify")) and "certificate" not in before
    else:
        goes_on = before.get("status") in ("interrupted", "running")
    goes_on = goes_on and (cell.folder.checkpoints / "last.safetensors").is_file()
    if goes_on and before.get("code") != source_hash():
        log.info("%s starts again: the code has changed since it stopped", cell.name)
        goes_on = False
    if path.exists() and not goes_on:
        shutil.rmtree(path)  # it failed or had not begun
    (path / ".hydra").mkdir(parents=True, exist_ok=True)
    write_atomically(path / ".hydra" / "config.yaml", cell.composed.text.encode())
    listed = yaml.safe_dump(list(cell.overrides))
    write_atomically(path / ".hydra" / "overrides.yaml", listed.encode())
    return goes_on


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
    waiting, running, done = list(cells), dict[SpawnProcess, tuple[Cell, Connection]](), 0
    with StopRequest() as stop:
        try:
            while waiting or running:
                while waiting and len(running) < jobs and stop.signal is None:
                    cell = waiting.pop(0)
                    log.info("%d/%d  %s", len(cells) - len(waiting), len(cells), cell.name)
                    process, receiver = _start(cell, threads)
                    running[process] = cell, receiver
                if stop.signal is not None:
                    break
                wait([process.sentinel for process in running], timeout=0.5)
                for process in [process for process in running if not process.is_alive()]:
                    cell, receiver = running.pop(process)
                    reason = _outcome(process, receiver)
                    done += 1
                    yield cell, reason
        finally:
            for process in running:
                process.terminate()  # each saves its cell
            for process in running:
                process.join()
    if stop.signal is not None:
        raise _stopped(done, stop.exit_code)


def _start(cell: Cell, threads: int) -> tuple[SpawnProcess, Connection]:
    """A process for a cell. Ctrl-C is for this process, which passes it on once, as SIGTERM."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_in_process, args=(cell, threads, sender))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited from the first instant on
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, before)
    sender.close()
    return process, receiver


def _in_process(cell: Cell, threads: int, sender: Connection) -> None:
    """The whole life of a cell's process; sends why the cell failed, or the error that ends all."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    logging.raiseExceptions = False
    keep_freed_memory()
    torch.set_num_threads(threads)
    found: tuple[type[BmoError] | None, str]
    try:
        found = None, run_cell(cell)
    except Interrupted:
        found = None, "stopped"
    except DiskFull as error:
        found = DiskFull, str(error)
    with suppress(BrokenPipeError):  # nobody is there to hear of it
        sender.send(found)
    sender.close()


def _stop_with_parent() -> None:
    """A cell whose table was killed stops as well: nobody else would know that it works there."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _outcome(process: SpawnProcess, receiver: Connection) -> str:
    process.join()
    try:
        kind, text = receiver.recv()
    except EOFError:
        kind, text = None, f"its process ended with code {process.exitcode} (out of memory?)"
    receiver.close()
    if kind is not None:
        raise kind(text)
    return str(text)
