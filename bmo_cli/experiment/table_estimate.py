"""What a table would run, and how long that would take: `bmo table NAME dry_run=true`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bmo_cli.experiment.table_cell import Cell
from bmo_cli.results.tables import text_table


@dataclass(frozen=True)
class Estimate:
    """Seconds that a cell will take, None where nothing is known, and what that rests on."""

    seconds: float | None
    basis: str

    def __str__(self) -> str:
        return self.basis if self.seconds is None else f"{self.basis} {in_words(self.seconds)}"


def estimate(cell: Cell, done: Sequence[Cell]) -> Estimate:
    """From cells that are done where there are alike ones, else from the cell's own limits.

    Args:
        cell: to run.
        done: cells of the same table that are done.
    """
    alike = [
        other
        for other in done
        if (other.row, other.tests) == (cell.row, cell.tests)
        and "cell_seconds" in (other.result or {})
    ]
    near = [other for other in alike if other.column == cell.column] or alike
    if near:
        taken = [float((other.result or {})["cell_seconds"]) for other in near]
        return Estimate(statistics.fmean(taken), "about")
    train = cell.composed.config["train"]
    learns = cell.composed.names["hyper"] != "none"
    if learns and train["max_minutes"] is not None:
        ends = "at most, before the test," if cell.tests else "at most"
        return Estimate(60 * float(train["max_minutes"]), ends)
    steps = [
        result["train_seconds"] / result["steps"]
        for other in done
        if _step(other) == _step(cell) and (result := other.result or {}).get("steps")
    ]
    if learns and steps:
        return Estimate(train["steps"] * statistics.fmean(steps), "about")
    return Estimate(None, "unknown")


def _step(cell: Cell) -> list[Any]:
    """What decides how long a step takes."""
    config = cell.composed.config
    parts = [config[key] for key in ("task", "gkm", "net", "hyper")]
    return [*parts, config["train"]["iterations"], config["train"]["batch"], config["data"]]


def listing(cells: Sequence[Cell], rerun: bool, open_places: int, jobs: int) -> str:
    """A line a cell: what it is, where it stands, how long it will take; then the total.

    Args:
        cells: of the table, the candidates of tuning among them.
        rerun: whether cells by other code run again.
        open_places: cells that are only known when candidates are judged.
        jobs: cells at a time.
    """
    done = [cell for cell in cells if cell.result is not None]
    lines, seconds, unknown, limits = [["cell", "state", "time"]], 0.0, open_places, False
    for cell in cells:
        state, time = _state(cell, rerun), ""
        if state not in ("done", "done by other code") and not cell.problem:
            found = estimate(cell, done)
            time, unknown = str(found), unknown + (found.seconds is None)
            seconds += found.seconds or 0.0
            limits = limits or found.basis.startswith("at most")
        lines.append([cell.name, state, time])
    total = [f"{'at most' if limits else 'about'} {in_words(seconds / jobs)}"] if seconds else []
    total += [f"{unknown} cells of unknown time"] if unknown else []
    ends = f" with jobs={jobs}" if jobs > 1 else ""
    ends += f" ({open_places} cells depend on what tuning chooses)" if open_places else ""
    shown = (" and ".join(total) or "nothing to run") + ends
    return f"{text_table(lines)}\n\nin all: {shown}; nothing was run or written"


def _state(cell: Cell, rerun: bool) -> str:
    if cell.problem:
        return f"cannot run: {cell.problem}"
    if cell.result is not None:
        return "done" if not cell.stale else "runs again" if rerun else "done by other code"
    status = cell.folder.read_result().get("status")
    return {"failed": "failed, runs again", None: "to run"}.get(status, "goes on")


def in_words(seconds: float) -> str:
    """A duration as one reads it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
