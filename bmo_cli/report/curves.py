"""Charts of several runs: their histories, residuals and scores beyond K."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup

from bmo_cli.report.charts import Series, lines
from bmo_cli.report.pair import pair
from bmo_cli.report.problem import Problem
from bmo_cli.report.render import render

_HISTORY: Mapping[str, tuple[str, bool]] = {
    "val": ("validation {metric}", False),
    "loss": ("training loss", True),
    "hypergrad_norm": ("norm of the hyper-gradient", True),
    "residual": ("fixed-point residual", True),
}
"""Columns of history.csv: title, and whether the axis is logarithmic."""
_AXES = {"step": "hyper-training step", "seconds": "seconds of training"}


def curves(problem: Problem) -> Markup:
    """Charts of the histories against steps and against seconds; empty without a history."""
    if not any(run.entry.history for run in problem.drawn_runs):
        return Markup()
    charts = {x: [history(problem, x, column) for column in _HISTORY] for x in _AXES}
    return render("curves.html", problem=problem, charts=charts)


def history(problem: Problem, x: str, column: str) -> Markup:
    """Chart of a column of the histories against `x`."""
    title, logarithmic = _HISTORY[column]
    title = title.format(metric=problem.test.score if problem.test else "score")
    if column == "val" and problem.test and problem.test.unit:
        title += f" ({problem.test.unit})"
    series = [
        Series(number, label, [(row[x], row[column]) for row in entry.history])
        for number, label, entry in problem.drawn_runs
    ]
    return lines(title, _AXES[x], series, log_y=logarithmic)


def convergence_section(problem: Problem) -> Markup:
    """Residuals and scores beyond K of certified runs, and the findings of the best run."""
    certified = [run for run in problem.labelled_runs if run.entry.certificate]
    if not certified:
        return render("convergence.html", certificate=None)
    panels = [residuals(problem)]
    if problem.test is not None:
        metric = problem.test.score
        beyond = [
            Series(number, label, entry.certificate.scores(metric))
            for number, label, entry in problem.drawn_runs
            if entry.certificate
        ]
        mark = _mark_at_k(problem)
        panels.append(lines(f"validation {metric}", "iteration k", beyond, log_x=True, mark=mark))
    _, label, entry = certified[0]
    return render(
        "convergence.html",
        certificate=entry.certificate,
        label=label,
        panels=panels,
        pair=pair(problem),
    )


def residuals(problem: Problem) -> Markup:
    """Chart of the residuals far beyond K, for every run from its slowest start."""
    slowest = []
    for number, label, entry in problem.drawn_runs:
        if entry.certificate and entry.certificate.residuals:
            items = entry.certificate.residuals.items()
            start, points = max(items, key=lambda item: item[1][-1][1])
            slowest.append(Series(number, f"{label}, from {start}", points))
    title, mark = "residual |D(u) - u| / |u|, slowest start", _mark_at_k(problem)
    return lines(title, "iteration k", slowest, log_x=True, log_y=True, mark=mark)


def _mark_at_k(problem: Problem) -> tuple[float, str] | None:
    """The mark at K if all certified runs have the same K."""
    counts = {e.certificate.iterations_trained for e in problem.entries if e.certificate}
    known = [count for count in counts if count is not None]
    return (known[0], "K") if len(known) == 1 else None
