"""The content of a table, independent of its format: means, marks and verdicts.

A sheet holds sections (columns of the table: problems). A section holds lines (rows: methods). A
line holds the values of its runs, one for each seed.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bmo_cli.config.schema import Published
from bmo_cli.results.statistics import mean_and_interval
from bmo_cli.tables.claims import Judgement

Mark = Literal["best", "second", ""]
DECIBELS = ("psnr", "nmse")
"""Scores in dB, where 0.1 is what reimplementations commonly differ by."""


@dataclass(frozen=True)
class Line:
    """A row of a section.

    Attributes:
        name: of the method.
        values: by score, a value for each finished seed; values that are not finite are left out.
        chosen: tuned values, in words.
        failed: why a run failed; empty if none did.
        protocols: the distinct protocols of its runs.
        verdict: of the certificates of its runs, in words, where the table shows their bounds.
        competes: whether it takes part in the ranking; the observation does not.
        runs: number of runs, including failed ones.
        flags: what its runs remark, each once, see `join_flags`.
    """

    name: str
    values: Mapping[str, Sequence[float]]
    chosen: str = ""
    failed: str = ""
    protocols: Sequence[str] = ()
    verdict: str = ""
    competes: bool = True
    runs: int = 1
    flags: Sequence[str] = ()

    def missing_runs_note(self, score: str) -> str:
        """`(N of M runs)` where some runs have a value and others have none, else empty."""
        known = len(self.values.get(score, ()))
        return f"({known} of {self.runs} runs)" if 0 < known < self.runs else ""


_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[+-]?\d+)?")


def join_flags(runs: Sequence[Iterable[str]]) -> list[str]:
    """What runs remark, each once, with the number of seeds where there are several.

    Remarks that differ in their numbers alone are one, with the numbers of the first seed.

    Args:
        runs: remarks of every finished run.
    """
    kept: dict[str, dict[int, list[str]]] = {}
    for run, flags in enumerate(runs):
        for flag in flags:
            kept.setdefault(_NUMBER.sub("#", flag), {}).setdefault(run, []).append(flag)
    joined = []
    for by_run in kept.values():
        first = next(iter(by_run.values()))
        differ = any(texts != first for texts in by_run.values())
        count = f" ({len(by_run)} of {len(runs)} seeds{', numbers of the first' if differ else ''})"
        joined += [f"{text}{count if len(runs) > 1 else ''}" for text in first]
    return joined


@dataclass(frozen=True)
class Section:
    """A column of the table: its name, its lines and remarks about them all."""

    name: str
    lines: Sequence[Line]
    remarks: Sequence[str] = ()

    def scores(self, known: Mapping[str, str]) -> dict[str, str]:
        """The scores of the table that a line has, with their formats; all if no line has any.

        Problems of different tasks have different scores.
        """
        own = {s: f for s, f in known.items() if any(line.values.get(s) for line in self.lines)}
        return own or dict(known)

    @property
    def protocols(self) -> dict[str, list[str]]:
        """Names of the lines by protocol. Lines of different protocols do not compare."""
        names: dict[str, list[str]] = {}
        for line in self.lines:
            for protocol in line.protocols:
                names.setdefault(protocol, []).append(line.name)
        return names


@dataclass(frozen=True)
class Sheet:
    """A whole table.

    Attributes:
        title: one line.
        scores: format by name.
        best: by score, whether the largest or the smallest value is the best.
        sections: its columns.
        seeds: of the runs.
        published: values from the literature.
        claims: of publications, with verdicts.
        commands: that make the cells, one a run.
        remarks: about the table.
        trained_once: names of lines where one training serves several sections.
        against: line whose scores are subtracted from those of others; empty: none.
    """

    title: str
    scores: Mapping[str, str]
    best: Mapping[str, str]
    sections: Sequence[Section]
    seeds: Sequence[int]
    published: Sequence[Published] = ()
    claims: Sequence[Judgement] = ()
    commands: Sequence[str] = ()
    remarks: Sequence[str] = ()
    trained_once: Sequence[str] = ()
    against: str = ""

    @property
    def difference_note(self) -> str:
        """What the differences of lines are; empty where there are none."""
        if not self.against:
            return ""
        return f"Differences are those from '{self.against}', between runs of equal seeds."

    @property
    def training_note(self) -> str:
        """What to say of trainings that serve several sections; empty where there are none."""
        if not self.trained_once:
            return ""
        note = f"One training serves several columns: {'; '.join(self.trained_once)}."
        counted = " There cell_seconds counts it in the column alone that trained."
        return note + counted if "cell_seconds" in self.scores else note


@dataclass(frozen=True)
class Comparison:
    """A published value compared with that of the table, as text."""

    entry: Published
    ours: str
    published: str
    difference: str
    verdict: str
    protocol: str


def assign_marks(section: Section, score: str, layout: str, direction: str) -> list[Mark]:
    """Mark the best and the second value of a score. Values that print equally are equal.

    A line without a value for some run is not ranked: the runs that diverged would be its worst.

    Args:
        section: its lines are ranked.
        score: name of the score.
        layout: format of the printed score.
        direction: `max` or `min`.

    Returns:
        A mark for each line; all empty where fewer than two lines have a value.
    """
    means = {
        i: statistics.fmean(line.values[score])
        for i, line in enumerate(section.lines)
        if line.competes and line.values.get(score) and not line.missing_runs_note(score)
    }
    ordered = sorted(means, key=lambda i: means[i], reverse=direction == "max")
    texts = list(dict.fromkeys(format(means[i], layout) for i in ordered))
    named: dict[str, Mark] = dict(zip(texts, ("best", "second"), strict=False))
    if len(means) < 2:
        named = {}
    return [
        named.get(format(means[i], layout), "") if i in means else ""
        for i in range(len(section.lines))
    ]


def compare(sheet: Sheet) -> list[Comparison]:
    """Compare every published value with that of the table."""
    return [_compare(sheet, entry) for entry in sheet.published]


def _compare(sheet: Sheet, entry: Published) -> Comparison:
    layout = sheet.scores[entry.score]
    published = format(entry.value, layout)
    lines = [line for s in sheet.sections if s.name == entry.column for line in s.lines]
    line = next((line for line in lines if line.name == entry.row), None)
    values = line.values.get(entry.score, ()) if line else ()
    if line is None or not values:
        return Comparison(entry, "-", published, "-", "not run", entry.protocol)
    mean, interval = mean_and_interval(values)
    ours = format(mean, layout) + ("" if interval is None else f" ± {format(interval, layout)}")
    difference = mean - entry.value
    sign = "+" if difference > 0 else ""
    protocol = entry.protocol
    if not all(is_same_protocol(entry.protocol, own) for own in line.protocols):
        verdict = "protocol differs"
        protocol = f"published: {entry.protocol}; ours: {'; '.join(line.protocols)}"
    else:
        close = abs(difference) <= _tolerance(entry) * (1 + 1e-9)
        close = close or format(mean, layout) == published
        verdict = "reproduced" if close else "not reproduced"
    return Comparison(
        entry, ours, published, f"{sign}{format(difference, layout)}", verdict, protocol
    )


def is_same_protocol(published: str, ours: str) -> bool:
    """Equal texts, or `published` is the name that `ours` begins with, before its first colon."""
    expected, actual = (" ".join(text.casefold().split()) for text in (published, ours))
    return expected in (actual, actual.partition(":")[0])


def _tolerance(entry: Published) -> float:
    if entry.tolerance is not None:
        return entry.tolerance
    metric = entry.score.rpartition("/")[2].partition("@")[0]
    return 0.1 if metric in DECIBELS else 0.0
