"""Judge what a publication claims by the runs of a table, over paired seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bmo_cli.config.schema import Claim
from bmo_cli.results.statistics import (
    BySeed,
    at_seeds_of,
    known_values,
    mean_and_interval,
    paired_differences,
)
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
            one lies on the other side. `not decidable`: neither, fewer than two seeds, or a seed
            without a value: runs that diverged must not be left out.
    """

    claim: Claim
    ours: str
    verdict: Verdict


def judge(claim: Claim, cells: Sequence[Cell]) -> Judgement:
    """Compare a row with others, or with a number, seed by seed.

    Runs of equal seeds see the same data, so that differences are paired. The only run of a row
    that trains nothing is compared with every seed.

    Args:
        claim: entry of the table.
        cells: of the table; those that are not done have no values.
    """
    own = _values(claim, claim.row, cells)
    if claim.limit is not None:
        others: dict[str, BySeed] = {f"{claim.limit:g}": dict.fromkeys(own, claim.limit)}
    else:
        others = {row: _values(claim, row, cells) for row in claim.than}
    parts, verdicts = [_describe(claim.row, own)], []
    for name, values in others.items():
        first, second = at_seeds_of(own, values), at_seeds_of(values, own)
        differences = paired_differences(known_values(first), known_values(second))
        complete = first.keys() == second.keys() and len(differences) == len(first)
        verdicts.append(_decide(differences, claim.direction) if complete else "not decidable")
        against = name if claim.limit is not None else _describe(name, values)
        parts.append(f"{against}{_describe_difference(differences)}")
    if "not reproduced" in verdicts:
        verdict: Verdict = "not reproduced"
    else:
        verdict = "reproduced" if set(verdicts) == {"reproduced"} else "not decidable"
    return Judgement(claim, "; ".join(parts), verdict)


def _values(claim: Claim, row: str, cells: Sequence[Cell]) -> BySeed:
    """The score of a row by seed; None: the run has no finite value."""
    values = {}
    for cell in cells:
        if (cell.row, cell.column) == (row, claim.column):
            value = cell.score(claim.score)
            base = 1.0 if claim.relative_to is None else cell.score(claim.relative_to)
            values[cell.seed] = value / base if value is not None and base else None
    return values


def _describe(row: str, values: BySeed) -> str:
    known = known_values(values).values()
    if not known:
        return f"{row}: no value"
    count = "" if len(known) == len(values) else f" ({len(known)} of {len(values)} seeds)"
    return f"{row} {format(statistics.fmean(known), _LAYOUT)}{count}"


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


def describe_score(claim: Claim) -> str:
    """The score of a claim, or the ratio of two, in words."""
    return claim.score if claim.relative_to is None else f"{claim.score} / {claim.relative_to}"
