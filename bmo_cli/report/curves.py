"""Curves of runs over one another: their histories, and what their certificates say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bmo_cli.report.certificate import Finding
from bmo_cli.report.charts import COLOURS, Series, lines
from bmo_cli.report.entry import Entry
from bmo_cli.report.markup import badge, cell, escaped, table, tag
from bmo_cli.report.problem import Problem

_CURVES: Mapping[str, tuple[str, bool]] = {
    "val": ("validation {metric}", False),
    "loss": ("training loss", True),
    "hypergrad_norm": ("norm of the hyper-gradient", True),
    "residual": ("fixed-point residual", True),
}
"""Columns of the history: title, and whether the axis is logarithmic."""


def curves(problem: Problem) -> str:
    """Histories over one another, against steps and against seconds."""
    drawn = drawn_runs(problem)
    if not any(entry.history for _, _, entry in drawn):
        return ""
    charts = []
    for x in ("step", "seconds"):
        panels = "".join(history(problem, x, key) for key in _CURVES)
        hidden = "" if x == "step" else " hidden"
        charts.append(f'<div class="charts" data-axis="{x}"{hidden}>{panels}</div>')
    legend = "".join(
        f'<button type="button" aria-pressed="true" data-run="{i}">{swatch(i)}{escaped(label)}'
        "</button>"
        for i, label, entry in drawn
        if entry.history
    )
    choice = (
        '<label class="axis">against <select class="axis-choice"><option value="step">steps'
        '</option><option value="seconds">seconds</option></select></label>'
    )
    rest = len(problem.entries) - len(drawn)
    note = f" The best {len(drawn)} runs by validation; {rest} are not drawn." if rest else ""
    hint = tag("p", escaped("Click a name to hide its lines." + note), "quiet")
    return f'<div class="legend">{legend}{choice}</div>{hint}{"".join(charts)}'


def drawn_runs(problem: Problem) -> list[tuple[int, str, Entry]]:
    """Number, label and run of those that charts show: as many as there are colours."""
    entries = problem.entries[:COLOURS]
    numbers = [problem.number(entry) for entry in entries]
    return list(zip(numbers, problem.labels, entries, strict=False))


def swatch(number_of_run: int) -> str:
    """A spot in the colour of a run."""
    return f'<i class="swatch c{number_of_run % COLOURS}"></i>'


def history(problem: Problem, x: str, key: str) -> str:
    """One column of the histories."""
    title, log = _CURVES[key]
    metric = problem.test.score if problem.test else "score"
    unit = f" ({problem.test.unit})" if key == "val" and problem.test and problem.test.unit else ""
    series = [
        Series(i, label, [(row[x], row[key]) for row in entry.history])
        for i, label, entry in drawn_runs(problem)
    ]
    x_title = {"step": "hyper-training step", "seconds": "seconds of training"}[x]
    return lines(title.format(metric=metric) + unit, x_title, series, log_y=log)


def certificates(problem: Problem) -> str:
    """Residuals and scores beyond K of all certified runs, and the best run's findings."""
    known = [
        (label, entry.certificate)
        for entry, label in zip(problem.entries, problem.labels, strict=True)
        if entry.certificate
    ]
    if not known:
        return tag(
            "p",
            "No run has a certificate: train with <code>certify=true</code>, or make one with "
            "<code>bmo certify run=DIR</code> and give its folder to this report as well.",
        )
    panels = [residuals(problem)]
    if problem.test is not None:
        metric = problem.test.score
        beyond = [
            Series(i, label, entry.certificate.scores(metric))
            for i, label, entry in drawn_runs(problem)
            if entry.certificate
        ]
        panels.append(
            lines(f"validation {metric}", "iteration k", beyond, log_x=True, mark=_trained(problem))
        )
    label, best = known[0]
    details = "".join(
        tag("h4", escaped(title))
        + table(["", "verdict", "evidence", "number", "why"], _findings(rows))
        for title, rows in (
            ("What the theory assumes", best.assumptions),
            ("What it predicts, measured", best.predictions),
        )
    )
    summary = tag("summary", escaped(f"Certificate of {label}"))
    return f'<div class="charts">{"".join(panels)}</div><details open>{summary}{details}</details>'


def residuals(problem: Problem) -> str:
    """Residuals far beyond K, each run's from its slowest start."""
    slowest = []
    for i, label, entry in drawn_runs(problem):
        if entry.certificate and entry.certificate.curves:
            name, points = max(entry.certificate.curves.items(), key=lambda item: item[1][-1][1])
            slowest.append(Series(i, f"{label}, from {name}", points))
    title, mark = "residual |D(u) - u| / |u|, slowest start", _trained(problem)
    return lines(title, "iteration k", slowest, log_x=True, log_y=True, mark=mark)


def _trained(problem: Problem) -> tuple[float, str] | None:
    """A mark at K, where all certified runs have the same."""
    counts = {e.certificate.iterations_trained for e in problem.entries if e.certificate}
    known = [count for count in counts if count is not None]
    return (known[0], "K") if len(known) == 1 else None


def _findings(rows: Sequence[Finding]) -> list[list[str]]:
    kinds = {"holds": "good", "violated": "bad"}
    return [
        [
            escaped(row.name),
            badge(kinds.get(row.verdict, "none"), row.verdict),
            escaped(row.evidence),
            cell("" if row.number is None else f"{row.number:.4g}", "number"),
            escaped(row.meaning),
        ]
        for row in rows
    ]
