"""Collect the cells of a table into a sheet and into a CSV file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from bmo_cli.config.schema import Table
from bmo_cli.results.result import RunResult
from bmo_cli.results.statistics import (
    BySeed,
    at_seeds_of,
    known_values,
    paired_differences,
)
from bmo_cli.results.tables import comma_separated
from bmo_cli.tables.cell import Cell
from bmo_cli.tables.claims import judge
from bmo_cli.tables.summary import Line, Section, Sheet, join_flags


def build_sheet(
    table: Table,
    cells: Sequence[Cell],
    failures: Mapping[Path, str],
    commands: Sequence[str],
    candidates: Sequence[Cell] = (),
) -> Sheet:
    """The content of the documents of a table.

    Args:
        table: at the scale of its preset.
        cells: those that the table shows.
        failures: why cells failed, by folder.
        commands: that compute the cells.
        candidates: runs among which validation chose.
    """
    columns = list(dict.fromkeys(cell.column for cell in cells))
    counted = [cell for cell in cells if cell.spec.path not in failures]
    stale = [cell.name for cell in (*candidates, *cells) if cell.stale]
    remarks = [f"Computed by other code than the present: {'; '.join(stale)}."] if stale else []
    for cell in candidates:
        if cell.spec.path in failures:
            reason = failures[cell.spec.path]
            remarks.append(f"**Not among the candidates**, as it failed: {cell.name}: {reason}")
    return Sheet(
        title=table.title,
        scores=table.scores | {_name(d, table): f"+{table.scores[d]}" for d in _compared(table)},
        best=table.best,
        sections=[_build_section(table, column, cells, failures) for column in columns],
        seeds=table.seeds,
        published=table.published,
        claims=[judge(claim, counted) for claim in table.claims],
        commands=commands,
        remarks=remarks,
        trained_once=_list_trained_once(table, cells),
        against=table.against or "",
    )


def _compared(table: Table) -> list[str]:
    """Scores whose differences from the row `table.against` are shown."""
    return list(table.best) if table.against else []


def _name(score: str, table: Table) -> str:
    """The name of the differences of a score from the row `table.against`."""
    return f"{score} - {table.against}"


def _list_trained_once(table: Table, cells: Sequence[Cell]) -> list[str]:
    """The rows in which cells of several columns have one training, and so equal weights."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        result = cell.result
        weights = "" if result is None else (result.identity or {}).get("checkpoint", "")
        if weights:
            groups.setdefault((cell.row, weights), []).append(cell)
    shared = {
        row
        for (row, _), group in groups.items()
        if len({cell.column for cell in group}) > 1
        and any(cell.result and cell.result.trained_in for cell in group)
    }
    return [row for row in table.rows if row in shared]


def _build_section(
    table: Table, column: str, cells: Sequence[Cell], failures: Mapping[Path, str]
) -> Section:
    inside = [cell for cell in cells if cell.column == column]
    lines = []
    base = [cell for cell in inside if cell.row == table.against]
    for row in table.rows:
        own = [cell for cell in inside if cell.row == row]
        if own:
            lines.append(_build_line(table, row, own, base, failures))
    remarks = []
    if table.input:
        observed = {
            score: [v for cell in inside if (v := cell.score(f"{score}_input")) is not None]
            for score in table.scores
        }
        first = {score: values[:1] for score, values in observed.items()}
        if any(first.values()):
            lines.insert(0, Line(table.input, first, competes=False))
        if any(max(v) - min(v) > 1e-6 for v in observed.values() if v):
            remarks.append("**The rows were not tested on equal observations.**")
    return Section(column, lines, [*remarks, *_leak_remarks(inside)])


def refuse_shared_images(table: Table, cells: Sequence[Cell]) -> dict[Path, str]:
    """Why the scores of runs are left out, by folder: they know their test images.

    Runs that train and tune nothing know none.

    Args:
        table: says whether such scores are shown.
        cells: of the table.
    """
    if table.shared_images == "show":
        return {}
    chosen = [c for c in cells if c.spec.choices["hyper"] != "none" or c.chosen]
    known = {c.spec.path: list(filter(_TEST.search, _list_leaks(c.result))) for c in chosen}
    return {path: _format_refusal(leaks) for path, leaks in known.items() if leaks}


_TEST = re.compile(r" \(test\)( [=~] |$)")
"""A test image in a line about two images that are alike."""
_NAMED = 3


def _format_refusal(leaks: Sequence[str]) -> str:
    more = f" and {len(leaks) - _NAMED} more" if len(leaks) > _NAMED else ""
    return (
        "test images are among those of training or validation: "
        f"{'; '.join(leaks[:_NAMED])}{more}; train on other images, or use table.shared_images=show"
    )


def _list_leaks(result: RunResult | None) -> list[str]:
    """Images that occur in two splits of a run."""
    data = (result.data if result is not None else None) or {}
    return [line for key in ("shared", "similar") for line in data.get(key, ())]


def _leak_remarks(cells: Sequence[Cell]) -> list[str]:
    """Remarks about images that occur in two splits of the runs of a column."""
    results = [result for cell in cells if (result := cell.result) is not None]
    leaks = dict.fromkeys(line for result in results for line in _list_leaks(result))
    return [f"**Images in two splits:** {'; '.join(leaks)}."] if leaks else []


def _build_line(
    table: Table,
    row: str,
    cells: Sequence[Cell],
    base: Sequence[Cell],
    failures: Mapping[Path, str],
) -> Line:
    reasons = [failures[c.spec.path] for c in cells if c.spec.path in failures]
    results = [result for cell in cells if (result := cell.result) is not None]
    values = {score: _values(score, cells, failures) for score in table.scores}
    differences = {}
    for score in _compared(table) if row != table.against else ():
        others = _values(score, base, failures)
        differences[_name(score, table)] = paired_differences(
            known_values(at_seeds_of(values[score], others)),
            known_values(at_seeds_of(others, values[score])),
        )
    return Line(
        row,
        {score: list(known_values(own).values()) for score, own in values.items()} | differences,
        chosen=_format_chosen(cells[0]),
        failed="; ".join(dict.fromkeys(reasons)),
        protocols=tuple(dict.fromkeys(r.protocol for r in results if r.protocol)),
        verdict=_format_verdicts(results) if "certificate/bound" in table.scores else "",
        runs=len(cells),
        flags=join_flags([result.flags or {} for result in results]),
    )


def _values(score: str, cells: Sequence[Cell], failures: Mapping[Path, str]) -> BySeed:
    """A score by seed, without those of cells that failed."""
    return {c.seed: None if c.spec.path in failures else c.score(score) for c in cells}


def _format_verdicts(results: Sequence[RunResult]) -> str:
    """The verdict of the certificates; where they differ, with counts: `2 certified, 1 refused`."""
    counts = Counter(result.certificate for result in results if result.certificate)
    if len(counts) == 1 and counts.total() == len(results):
        return next(iter(counts))
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())


def _format_chosen(cell: Cell) -> str:
    return ", ".join(f"{key}={value}" for key, value in cell.chosen.items())


def format_csv(table: Table, cells: Sequence[Cell], refused: Mapping[Path, str]) -> str:
    """The cells as CSV, a line for each run.

    Args:
        table: at the scale of its preset.
        cells: those that it shows.
        refused: why scores are left out, by folder.
    """
    end = ["protocol", "certificate", "chosen", "trained_in", "flags"]
    end += ["status", "message", "folder"]
    rows = []
    for cell in cells:
        result = cell.spec.folder.read_result()
        scores = [cell.score(key) for key in table.scores]
        how = [None, None, _format_chosen(cell), None, None]
        if result is not None:
            flags = "; ".join(result.flags or ())
            about = (result.protocol, result.certificate)
            how = [*about, _format_chosen(cell), result.trained_in, flags]
        state = ["failed", cell.problem] if cell.problem else _status_and_message(result)
        if cell.spec.path in refused:
            scores, state = [None] * len(scores), ["refused", refused[cell.spec.path]]
        rows.append([cell.column, cell.row, cell.seed, *scores, *how, *state, cell.spec.path.name])
    return comma_separated(["column", "row", "seed", *table.scores, *end], rows)


def _status_and_message(result: RunResult | None) -> list[str | None]:
    return [None, None] if result is None else [result.status, result.message]
