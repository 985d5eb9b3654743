"""Judge what a publication claims by the runs of a table, over paired seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bmo_cli.config.schema import Claim
from bmo_cli.results.statistics import mean_and_interval, paired_differences
from bmo_cli.tables.cell import Cell

Verdict = Literal["reproduced", "not reproduced", "not decidable"]
_LAYOUT = ".3g"


@dataclass(frozen=True)
class Judgement:
    """A claim with its verdict.

    Attributes:
        claim: entry of the table.
        ours: means over the seeds, and differences with 95 % intervals.
        verdict: `reproduced`: every interval lies on the side that is claimed. `not reproduced`:
            one lies on the other side. `not decidable`: neither, or fewer than two seeds have
            values.
    """

    claim: Claim
    ours: str
    verdict: Verdict


def judge(claim: Claim, cells: Sequence[Cell]) -> Judgement:
    """Compare a row with others, or with a number, seed by seed.

    Equal seeds share initial weights and data, so that differences are paired.

    Args:
        claim: entry of the table.
        cells: of the table.
    """
    own = _values(claim, claim.row, cells)
    if claim.limit is not None:
        others = {f"{claim.limit:g}": dict.fromkeys(own, claim.limit)}
    else:
        others = {row: _values(claim, row, cells) for row in claim.than}
    parts, verdicts = [_describe(claim.row, own)], []
    for name, values in others.items():
        differences = paired_differences(own, values)
        verdicts.append(_decide(differences, claim.direction))
        against = name if claim.limit is not None else _describe(name, values)
        parts.append(f"{against}{_describe_difference(differences)}")
    if "not reproduced" in verdicts:
        verdict: Verdict = "not reproduced"
    else:
        verdict = "reproduced" if set(verdicts) == {"reproduced"} else "not decidable"
    return Judgement(claim, "; ".join(parts), verdict)


def _values(claim: Claim, row: str, cells: Sequence[Cell]) -> dict[str, float]:
    """The score of a row by seed; seeds without a finite value are left out."""
    values = {}
    for cell in cells:
        if (cell.row, cell.column) == (row, claim.column):
            value = cell.score(claim.score)
            base = 1.0 if claim.relative_to is None else cell.score(claim.relative_to)
            if value is not None and base:
                values[str(cell.seed)] = value / base
    return values


def _describe(row: str, values: Mapping[str, float]) -> str:
    if not values:
        return f"{row}: no value"
    return f"{row} {format(statistics.fmean(values.values()), _LAYOUT)}"


def _describe_difference(differences: Sequence[float]) -> str:
    if not differences:
        return ""
    mean, interval = mean_and_interval(differences)
    spread = "" if interval is None else f" ± {format(interval, _LAYOUT)}"
    return f" (difference {format(mean, '+' + _LAYOUT)}{spread})"


def _decide(differences: Sequence[float], direction: Literal["below", "above"]) -> Verdict:
    if len(differences) < 2:
        return "not decidable"
    mean, interval = mean_and_interval(differences)
    assert interval is not None
    towards = -mean if direction == "below" else mean
    if towards > interval:
        return "reproduced"
    return "not reproduced" if towards < -interval else "not decidable"
