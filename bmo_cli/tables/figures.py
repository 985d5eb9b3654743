"""The pictures of a table, drawn from the cells that are done."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bmo_cli.data.image_file import read_image
from bmo_cli.tables.cell import Cell, plain_name
from bmo_cli.tables.crops import Panel, crops_figure
from bmo_cli.tables.curves import ConvergenceRun, TradeoffRun, convergence_figure, tradeoff_figure


def pictures(table: Mapping[str, Any], cells: Sequence[Cell], stem: Path) -> Iterator[Path]:
    """Draw what the table asks for.

    Args:
        table: at its scale.
        cells: those that it shows.
        stem: file name to begin with, without suffix.

    Yields:
        Every file that was drawn.
    """
    done = [cell for cell in cells if cell.result is not None]
    if table.get("figure") == "convergence":
        for task in dict.fromkeys(cell.composed.names["task"] for cell in done):
            own = [cell for cell in done if cell.composed.names["task"] == task]
            file = stem.with_name(f"{stem.name}-{task}.png")
            convergence_figure([_course(cell) for cell in own], str(task), file)
            yield file
    elif table.get("figure") == "tradeoff" and done:
        file = stem.with_name(f"{stem.name}.png")
        tradeoff_figure([_price(cell) for cell in done], file)
        yield file
    elif table.get("figure") == "crops":
        for column in dict.fromkeys(cell.column for cell in done):
            own = [cell for cell in done if cell.column == column]
            panels, image = _panels(own, table.get("input") or "observed")
            if panels:
                file = stem.with_name(f"{stem.name}-{plain_name(column)}.png")
                crops_figure(panels, f"{column}: {image}", file)
                yield file


def _course(cell: Cell) -> ConvergenceRun:
    """What the convergence figure shows of a cell."""
    certificate = json.loads((cell.folder.path / "certificate.json").read_text(encoding="utf-8"))
    first = next(iter(certificate["trajectories"].values()))
    return ConvergenceRun(
        method=cell.row,
        iterations=cell.composed.config["train"]["iterations"],
        history=cell.folder.read_history(),
        residuals=[math.nan if r is None else r for r in first["residuals"]],
        minimises_phi=cell.composed.names["hyper"] != "separate",
    )


def _price(cell: Cell) -> TradeoffRun:
    """What the tradeoff figure shows of a cell."""
    metrics = (cell.result or {})["metrics"]
    found = (re.fullmatch(r"test/psnr@(\d+)", name) for name in metrics)
    scores = {int(match[1]): metrics[match[0]] for match in found if match}
    return TradeoffRun(
        method=cell.row,
        iterations=cell.composed.config["train"]["iterations"],
        scores={count: math.nan if v is None else v for count, v in scores.items()},
        bound=metrics["certificate/bound"],
        ratio=math.inf if metrics["certificate/ratio"] is None else metrics["certificate/ratio"],
    )


_OBSERVED = ("degraded", "rainy", "observed", "noisy")


def _panels(cells: Sequence[Cell], observed: str) -> tuple[list[Panel], str]:
    """The first test image that every row has pictures of, and what each row made of it."""
    firsts = list({cell.row: cell for cell in reversed(cells)}.values())[::-1]
    firsts = [cell for cell in firsts if _pictured(cell)]
    shared = [set(_pictured(cell)) for cell in firsts]
    name = (
        next((n for n in _pictured(firsts[0]) if all(n in s for s in shared)), "") if firsts else ""
    )
    if not name:
        return [], ""
    files = _pictured(firsts[0])[name]
    scores = (firsts[0].result or {})["images"][name]
    panels = [Panel("clean", _read(files["clean"]), None)]
    for kind in _OBSERVED:
        if kind in files:
            panels.append(Panel(observed, _read(files[kind]), scores.get("psnr_input")))
    for cell in firsts:
        value = (cell.result or {})["images"][name].get("psnr")
        panels.append(Panel(cell.row, _read(_pictured(cell)[name]["restored"]), value))
    return panels, name


def _pictured(cell: Cell) -> dict[str, dict[str, Path]]:
    """Files of pictures by kind, of every test image that has a clean and a restored one."""
    found = {}
    for number, name in enumerate((cell.result or {}).get("images", {}), 1):
        kinds = ("clean", "restored", *_OBSERVED)
        files = {kind: cell.folder.picture(number, name, kind) for kind in kinds}
        files = {kind: file for kind, file in files.items() if file.is_file()}
        if "clean" in files and "restored" in files:
            found[name] = files
    return found


def _read(file: Path) -> Any:
    """(H, W, C) of floats in [0, 1]."""
    return read_image(file).pixels.astype("float64") / 255
