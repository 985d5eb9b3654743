"""Draw the figures of a table from the cells that are done."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bmo_cli.config.schema import Table
from bmo_cli.data.images.file import read_image
from bmo_cli.results.result import RunResult
from bmo_cli.tables.cell import Cell, sanitize_name
from bmo_cli.tables.crops import Panel, draw_crops
from bmo_cli.tables.curves import (
    ConvergenceRun,
    GuaranteeRun,
    TrainingRun,
    draw_convergence,
    draw_guarantee,
    draw_training,
)


def draw_figures(table: Table, cells: Sequence[Cell], stem: Path) -> Iterator[Path]:
    """Draw the figures of a table.

    Args:
        table: at the scale of its preset.
        cells: those that it shows.
        stem: start of the file names, without suffix.

    Yields:
        Every file that was drawn.
    """
    done = [cell for cell in cells if cell.result is not None]
    for kind in table.figures:
        if kind == "convergence":
            yield from _draw_convergences(done, stem)
        elif kind == "guarantee":
            yield from _draw_guarantees(done, stem)
        elif kind == "training":
            yield from _draw_trainings(done, stem)
        else:
            yield from _draw_pictures(done, table.input or "observed", stem)


def _draw_convergences(done: Sequence[Cell], stem: Path) -> Iterator[Path]:
    for task in dict.fromkeys(cell.spec.choices["task"] for cell in done):
        own = [cell for cell in done if cell.spec.choices["task"] == task]
        file = stem.with_name(f"{stem.name}-{task}.png")
        draw_convergence([_build_convergence_run(cell) for cell in own], str(task), file)
        yield file


def _draw_guarantees(done: Sequence[Cell], stem: Path) -> Iterator[Path]:
    for column, cells in _by_column(done):
        runs = [_build_guarantee_run(cell) for cell in cells]
        if all(run.scores for run in runs):  # else eval.score_at is empty
            file = stem.with_name(f"{stem.name}-{sanitize_name(column)}-guarantee.png")
            draw_guarantee(runs, column, file)
            yield file


def _draw_trainings(done: Sequence[Cell], stem: Path) -> Iterator[Path]:
    for column, cells in _by_column(done):
        file = stem.with_name(f"{stem.name}-{sanitize_name(column)}-training.png")
        draw_training([_build_training_run(cell) for cell in cells], column, file)
        yield file


def _draw_pictures(done: Sequence[Cell], observed: str, stem: Path) -> Iterator[Path]:
    for column, cells in _by_column(done):
        panels, image = _collect_panels(cells, observed)
        if panels:
            file = stem.with_name(f"{stem.name}-{sanitize_name(column)}.png")
            draw_crops(panels, f"{column}: {image}", file)
            yield file


def _by_column(cells: Sequence[Cell]) -> Iterator[tuple[str, list[Cell]]]:
    for column in dict.fromkeys(cell.column for cell in cells):
        yield column, [cell for cell in cells if cell.column == column]


def _build_convergence_run(cell: Cell) -> ConvergenceRun:
    """The data of a cell in the convergence figure."""
    certificate = json.loads((cell.spec.path / "certificate.json").read_text(encoding="utf-8"))
    first = next(iter(certificate["trajectories"].values()))
    return ConvergenceRun(
        method=cell.row,
        iterations=cell.spec.config.train.iterations,
        history=cell.spec.folder.read_history(),
        residuals=[math.nan if r is None else r for r in first["residuals"]],
        minimises_phi=cell.spec.choices["hyper"] != "separate",
    )


def _build_guarantee_run(cell: Cell) -> GuaranteeRun:
    """The data of a cell in the guarantee figure."""
    return GuaranteeRun(cell.row, _read_counted(cell, "psnr"))


def _build_training_run(cell: Cell) -> TrainingRun:
    """The data of a cell in the training figure."""
    return TrainingRun(
        row=cell.row,
        iterations=cell.spec.config.train.iterations,
        history=cell.spec.folder.read_history(),
        steps=_read_counted(cell, "step"),
        minimises_phi=cell.spec.choices["hyper"] != "separate",
    )


def _read_counted(cell: Cell, score: str) -> dict[int, float]:
    """A test score by number of iterations, `test/SCORE@COUNT`; nan where it was not finite."""
    metrics = _require_result(cell).metrics
    counted = (re.fullmatch(rf"test/{score}@(\d+)", name) for name in metrics)
    values = {int(match[1]): metrics[match[0]] for match in counted if match}
    return {count: math.nan if v is None else v for count, v in values.items()}


_OBSERVED = ("degraded", "rainy", "observed", "noisy")


def _collect_panels(cells: Sequence[Cell], observed: str) -> tuple[list[Panel], str]:
    """The first test image with pictures in every row, as panels, and its name."""
    firsts = list({cell.row: cell for cell in reversed(cells)}.values())[::-1]
    firsts = [cell for cell in firsts if _find_pictures(cell)]
    shared = [set(_find_pictures(cell)) for cell in firsts]
    name = (
        next((n for n in _find_pictures(firsts[0]) if all(n in s for s in shared)), "")
        if firsts
        else ""
    )
    if not name:
        return [], ""
    files = _find_pictures(firsts[0])[name]
    scores = (_require_result(firsts[0]).images or {})[name]
    panels = [Panel("clean", _read_picture(files["clean"]), None)]
    for kind in _OBSERVED:
        if kind in files:
            panels.append(Panel(observed, _read_picture(files[kind]), scores.get("psnr_input")))
    for cell in firsts:
        value = (_require_result(cell).images or {})[name].get("psnr")
        panels.append(Panel(cell.row, _read_picture(_find_pictures(cell)[name]["restored"]), value))
    return panels, name


def _find_pictures(cell: Cell) -> dict[str, dict[str, Path]]:
    """Files of pictures by kind, for every test image with a clean and a restored picture."""
    pictured = {}
    for number, name in enumerate(_require_result(cell).images or {}, 1):
        kinds = ("clean", "restored", *_OBSERVED)
        files = {kind: cell.spec.folder.picture(number, name, kind) for kind in kinds}
        files = {kind: file for kind, file in files.items() if file.is_file()}
        if "clean" in files and "restored" in files:
            pictured[name] = files
    return pictured


def _require_result(cell: Cell) -> RunResult:
    """The result of a cell that is done."""
    result = cell.result
    assert result is not None
    return result


def _read_picture(file: Path) -> Any:
    """(H, W, C) of floats in [0, 1]."""
    return read_image(file).pixels.astype("float64") / 255
