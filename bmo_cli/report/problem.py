"""Runs of one problem, ordered by validation score, and their convergence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from bmo_cli.report.certificate import CertificateFile
from bmo_cli.report.comparison import Comparison, Group, compare
from bmo_cli.report.entry import Entry
from bmo_cli.report.render import COLOURS


@dataclass(frozen=True)
class Convergence:
    """Whether a run's iteration converges.

    Attributes:
        kind: `good`, `bad`, `unsure` or `none`.
        verdict: the verdict in a few words.
        why: the reason in a line.
    """

    kind: str
    verdict: str
    why: str


class LabelledRun(NamedTuple):
    """A run on the page with its number, which chooses its colour, and a label."""

    number: int
    label: str
    entry: Entry


class Problem:
    """Runs whose scores can be compared.

    Args:
        entries: the runs.
        first: number of the first run on the page.
    """

    def __init__(self, entries: Sequence[Entry], first: int = 0) -> None:
        self.first = first
        known = [m for entry in entries for m in [entry.metric("test")] if m]
        self.test = known[0] if known else None
        self.validation = replace(self.test, name=f"val/{self.test.score}") if self.test else None
        self.entries = sorted(entries, key=self._rank)

    def _rank(self, entry: Entry) -> tuple[bool, float]:
        """Sort key by validation score; test scores are not used for choices."""
        value = entry.value(self.validation.name) if self.validation and entry.is_finished else None
        if value is None or self.validation is None:
            return True, 0.0
        return False, -value if self.validation.larger_is_better else value

    @cached_property
    def comparison(self) -> Comparison | None:
        """Comparison with the group that validation chooses, by test (or else validation) score."""
        if self.test is None or self.validation is None:
            return None
        tested = any(entry.value(self.test.name) is not None for entry in self.entries)
        by_validation = compare(self.entries, self.validation)
        return compare(
            self.entries,
            self.test if tested else self.validation,
            by_validation.groups[0].label,
        )

    @property
    def best(self) -> Group | None:
        """The best group by validation."""
        comparison = self.comparison
        if comparison is None:
            return None
        return next(g for g in comparison.groups if g.label == comparison.against)

    @property
    def title(self) -> str:
        """Name of the task."""
        return self.entries[0].choice("task")

    @cached_property
    def labelled_runs(self) -> Sequence[LabelledRun]:
        """All runs, labelled by their settings, and by their seed if seeds differ."""
        labels = [entry.name for entry in self.entries]
        for group in self.comparison.groups if self.comparison else ():
            for i in group.indices:
                labels[i] = group.label
        if len({entry.seed for entry in self.entries}) > 1:
            seeds = [entry.seed for entry in self.entries]
            labels = [f"{name} seed={seed}" for name, seed in zip(labels, seeds, strict=True)]
        named = zip(labels, self.entries, strict=True)
        return [LabelledRun(number, *pair) for number, pair in enumerate(named, self.first)]

    @property
    def finished_runs(self) -> Sequence[LabelledRun]:
        """The runs that ended with status `ok`."""
        return [run for run in self.labelled_runs if run.entry.is_finished]

    @property
    def drawn_runs(self) -> Sequence[LabelledRun]:
        """The runs of the charts: as many as there are colours."""
        return self.labelled_runs[:COLOURS]


def convergence(entry: Entry) -> Convergence:
    """Convergence of a run according to its certificate."""
    verdict = entry.verdict
    if verdict is None:
        last, count = entry.value("test/residual"), entry.value("test/iterations")
        measured = last is not None and count is not None
        why = f"test residual {last:.0e} after {count:.0f} iterations" if measured else ""
        return Convergence("none", "no certificate", why)
    if verdict == "refused":
        return Convergence("bad", "certificate refused", "a measurement contradicts a bound")
    certificate = entry.certificate or CertificateFile()
    ends = [points[-1] for points in certificate.residuals.values()]
    seen = ""
    if ends:
        count, largest = max(k for k, _ in ends), max(residual for _, residual in ends)
        seen = f"residual {largest:.0e} after {count:.0f} iterations"
    if verdict == "certified":
        return Convergence("good", "converges (certified)", seen)
    if verdict == "as declared":
        names = dict.fromkeys(n for row in certificate.assumptions for n in row.declared_by)
        why = f"not proved: declared by {', '.join(names) or 'a plug-in'}"
        return Convergence("unsure", "as declared, not certified", f"{seen}; {why}")
    predicted = {row.name: row.verdict for row in certificate.predictions}
    falls = predicted.get("the residual goes to 0 from every start")
    meanings = {row.name: row.meaning for row in certificate.assumptions}
    why = "; ".join(filter(None, (seen, meanings.get("D is nonexpansive in G"))))
    if falls == "holds":
        return Convergence("unsure", "converged here, not certified", why)
    if falls == "violated":
        return Convergence("bad", "does not converge", why)
    return Convergence("unsure", "not certified", why)


def late_gain(problem: Problem, entry: Entry) -> float | None:
    """Improvement of the best validation score in the last quarter of training."""
    rows = [row for row in entry.history if math.isfinite(row["val"])]
    if problem.test is None or len(rows) < 4:
        return None
    pick = max if problem.test.larger_is_better else min
    until = rows[0]["step"] + 0.75 * (rows[-1]["step"] - rows[0]["step"])
    early = [row["val"] for row in rows if row["step"] <= until]
    return abs(pick(row["val"] for row in rows) - pick(early))
