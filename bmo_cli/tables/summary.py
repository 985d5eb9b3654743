"""What a table says, before it is written in any format: means, marks and verdicts.

A sheet holds sections (columns of the table: problems), a section lines (rows: methods), a line the
values of its runs, one a seed.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bmo_cli.config.schema import Published
from bmo_cli.results.statistics import mean_and_interval

Mark = Literal["best", "second", ""]
DECIBELS = ("psnr", "nmse")
"""Scores in dB, where 0.1 is what reimplementations commonly differ by."""


@dataclass(frozen=True)
class Line:
    """A row of a section.

    Attributes:
        name: of the method.
        values: by score, one a seed that is done; those that are not finite are left out.
        chosen: tuned values, in words.
        failed: why a run of it failed, or nothing.
        protocols: how its scores were computed, every text that its runs hold.
        competes: whether it is a method, not the observation.
        runs: how many it has, failed ones among them.
    """

    name: str
    values: Mapping[str, Sequence[float]]
    chosen: str = ""
    failed: str = ""
    protocols: Sequence[str] = ()
    competes: bool = True
    runs: int = 1

    def missing_runs_note(self, score: str) -> str:
        """How many of its runs have a value, in words, where some have none and others do."""
        known = len(self.values.get(score, ()))
        return f"({known} of {self.runs} runs)" if 0 < known < self.runs else ""


@dataclass(frozen=True)
class Section:
    """A column of the table: its name, its lines and remarks about them all."""

    name: str
    lines: Sequence[Line]
    remarks: Sequence[str] = ()

    def scores(self, known: Mapping[str, str]) -> dict[str, str]:
        """Of the scores of the table those that a line has, with their formats; without any, all.

        Problems of different tasks have different scores.
        """
        found = {s: f for s, f in known.items() if any(line.values.get(s) for line in self.lines)}
        return found or dict(known)

    @property
    def protocols(self) -> dict[str, list[str]]:
        """Names of the lines by protocol; more than one key: their numbers do not compare."""
        found: dict[str, list[str]] = {}
        for line in self.lines:
            for protocol in line.protocols:
                found.setdefault(protocol, []).append(line.name)
        return found


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
        commands: that make the cells, one a run.
        remarks: about the table.
    """

    title: str
    scores: Mapping[str, str]
    best: Mapping[str, str]
    sections: Sequence[Section]
    seeds: Sequence[int]
    published: Sequence[Published] = ()
    commands: Sequence[str] = ()
    remarks: Sequence[str] = field(default_factory=tuple)


@dataclass(frozen=True)
class Comparison:
    """A published value beside ours, as text."""

    entry: Published
    ours: str
    published: str
    difference: str
    verdict: str
    protocol: str


def assign_marks(section: Section, score: str, layout: str, direction: str) -> list[Mark]:
    """Which line has the best and which the second value; what prints equal is equal.

    A line that lacks a run is not compared: the runs that diverged would have been its worst.

    Args:
        section: whose lines are compared.
        score: by this one.
        layout: format that it is printed in.
        direction: `max` or `min`.

    Returns:
        A mark a line; none where fewer than two lines have a value.
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
    """Every published value beside ours."""
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
    wanted, found = (" ".join(text.casefold().split()) for text in (published, ours))
    return wanted in (found, found.partition(":")[0])


def _tolerance(entry: Published) -> float:
    if entry.tolerance is not None:
        return entry.tolerance
    metric = entry.score.rpartition("/")[2].partition("@")[0]
    return 0.1 if metric in DECIBELS else 0.0
