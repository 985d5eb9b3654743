"""Cells of a table that differ in their test alone: one trains, the others take its weights.

Their configurations differ in keys of `config.keys.TEST_ALONE`, so that their trainings would be
equal. A cell that takes a training resumes from its last checkpoint. It finds all steps done and
goes on with its own test, and with its own certificate where one is wanted.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from bmo_cli.experiment.checkpoint import DamagedCheckpoint, take_checkpoints
from bmo_cli.jobs.status import can_resume, code_has_changed
from bmo_cli.results.provenance import source_hash
from bmo_cli.results.result import RunResult
from bmo_cli.results.run import TrainSpec
from bmo_cli.results.run_folder import RunFolder
from bmo_cli.tables.cell import Cell

log = logging.getLogger("bmo")


def find_trained(cell: Cell, cells: Sequence[Cell]) -> Cell | None:
    """The first other cell that has ended the training of this one, by the present code.

    Args:
        cell: to run.
        cells: of the table.
    """
    others = (c for c in cells if c.spec.path != cell.spec.path and c.training == cell.training)
    return next(filter(_has_trained, others), None)


def assign_sources(missing: Sequence[Cell], cells: Sequence[Cell]) -> dict[Path, Cell]:
    """The cells that can take the training of another one.

    Args:
        missing: cells to run.
        cells: all cells of the table.

    Returns:
        By folder of such a cell, the cell that has trained, or that trains first.
    """
    shared = [cell for cell in missing if cell.training is not None and not cell.problem]
    begun = [cell for cell in shared if _has_begun(cell)]
    open_paths = {cell.spec.path for cell in shared}
    done = [c for c in cells if c.spec.path not in open_paths and _has_trained(c)]
    sources: dict[str | None, Cell] = {}
    for cell in (*done, *filter(_has_trained, shared), *begun, *shared):
        sources.setdefault(cell.training, cell)
    kept = {cell.spec.path for cell in begun} | {cell.spec.path for cell in sources.values()}
    return {c.spec.path: sources[c.training] for c in shared if c.spec.path not in kept}


def _has_trained(cell: Cell) -> bool:
    """Whether the training of a cell has ended, even if its test failed."""
    if cell.training is None or cell.problem:
        return False
    result = cell.spec.folder.read_result()
    return result is not None and result.best_step is not None and result.code == source_hash()


def fails_in_training(cell: Cell) -> bool:
    """Whether a cell that failed did so in its training: others would fail alike.

    What fails before training starts, or in the test, need not concern another test.
    """
    result = cell.spec.folder.read_result()
    return result is not None and result.code is not None and result.best_step is None


def _has_begun(cell: Cell) -> bool:
    """Whether a cell goes on from a checkpoint of its own."""
    folder = cell.spec.folder
    return can_resume(folder, cell.spec.config) and not code_has_changed(folder)


def take_training(spec: TrainSpec, source: RunFolder) -> bool:
    """Give a new run the training of another one, as if it had been stopped before its test.

    Its result is written last: a run that is killed before starts from its beginning.

    Args:
        spec: of the new run; its folder has a configuration alone.
        source: run whose training has ended.

    Returns:
        False where it is of other code than the present, or where a file is missing or damaged.
    """
    trained, history = source.read_result(), source.path / "history.csv"
    if trained is None or trained.code != source_hash() or not history.is_file():
        log.info("%s trains by itself: %s has changed", spec.path.name, source.path.name)
        return False
    try:
        take_checkpoints(source.checkpoints, spec.folder.checkpoints)
    except DamagedCheckpoint as error:
        log.info("%s trains by itself: %s", spec.path.name, error)
        return False
    shutil.copyfile(history, spec.path / "history.csv")
    RunResult(
        status="running",
        choices=spec.choices,
        code=trained.code,
        data=_without_test(trained.data or {}),
        plugins=trained.plugins,
        weights=trained.weights,
        steps=trained.steps,
        train_seconds=trained.train_seconds,
        trained_in=source.path.name,
    ).write(spec.path)
    return True


def _without_test(data: Mapping[str, object]) -> dict[str, object]:
    """Fingerprints of data without those of the test split."""
    return {key: entry for key, entry in data.items() if not key.startswith("test")}
