"""The iteration from several starts of two runs side by side: a certified one and another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from bmo_cli.report.certificate import CertificateFile
from bmo_cli.report.charts import Series, lines
from bmo_cli.report.problem import Convergence, LabelledRun, Problem, convergence
from bmo_cli.report.render import render
from bmo_cli.results.iteration_curves import Curves, clip_to_range, score_range


class _Panel(NamedTuple):
    """A run of the picture: its name, its verdict, a line about D, and its charts."""

    label: str
    state: Convergence
    constant: str
    charts: Sequence[Markup]


class _Run(NamedTuple):
    run: LabelledRun
    certificate: CertificateFile
    curves: Curves


def pair(problem: Problem) -> Markup:
    """Residual and score from every start, for two runs on equal axes.

    These are the best certified run and the best run that is not certified, or else the first two.
    A single run with curves is shown alone. Without any the result is a line that says so.
    """
    runs = _choose(problem)
    if not runs:
        return render("pair.html", panels=(), starts=(), cases=(), last=0)
    shown = [each.curves for each in runs]
    last = max(max(curves.counts, default=1) for curves in shown)
    charts = [_residuals(each, shown, last) for each in runs]
    scores = [_scores(each, shown, last) for each in runs]
    panels = [
        _Panel(run.label, convergence(run.entry), _constant(certificate), both)
        for (run, certificate, _), both in zip(runs, zip(charts, scores, strict=True), strict=True)
    ]
    return render(
        "pair.html",
        panels=panels,
        starts=list(dict.fromkeys(name for curves in shown for name in curves.starts)),
        cases=list(dict.fromkeys(curves.case for curves in shown)),
        last=last,
    )


def _choose(problem: Problem) -> list[_Run]:
    known = [
        _Run(run, run.entry.certificate, run.entry.certificate.curves)
        for run in problem.labelled_runs
        if run.entry.certificate and run.entry.certificate.curves
    ]
    known = [each for each in known if each.curves.starts]
    certified = [each for each in known if each.run.entry.verdict == "certified"]
    others = [each for each in known if each.run.entry.verdict != "certified"]
    return [certified[0], others[0]] if certified and others else known[:2]


def _constant(certificate: CertificateFile) -> str:
    """The bound of D and the largest measured ratio."""
    bound, ratio = certificate.bound, max(certificate.ratios.values(), default=None)
    stated = "no bound of D is known"
    if bound.value is not None:
        stated = f"bound of D {bound.value:.7g} ({bound.evidence})"
    return stated if ratio is None else f"{stated}, largest measured ratio {ratio:.6g}"


def _residuals(each: _Run, shown: Sequence[Curves], last: int) -> Markup:
    """Residuals of a run, on axes that cover those of all shown runs, with room for the mark."""
    points = [p for curves in shown for c in curves.starts.values() for p in c.residual_points]
    top = 3 * max((residual for _, residual in points), default=0.0)
    series = [
        Series(each.run.number, f"from {name}", curve.residual_points, colour)
        for colour, (name, curve) in enumerate(each.curves.starts.items())
    ]
    return lines(
        "residual |D(u) - u| / |u|",
        "iteration k",
        series,
        log_x=True,
        log_y=True,
        mark=_mark(each.certificate),
        cover=[*points, (1.0, top), (float(last), top)],
    )


def _scores(each: _Run, shown: Sequence[Curves], last: int) -> Markup:
    """Scores of a run, likewise."""
    limits, curves = score_range(shown), each.curves
    if limits is None:
        return lines(curves.title, "iteration k", ())
    series = [
        Series(each.run.number, f"from {name}", clip_to_range(points, limits), colour)
        for colour, name in enumerate(curves.starts)
        for points in [curves.score_points(name)]
    ]
    top = limits[1] + 0.1 * (limits[1] - limits[0])
    return lines(
        curves.title,
        "iteration k",
        series,
        log_x=True,
        mark=_mark(each.certificate),
        cover=[(1.0, limits[0]), (float(last), top)],
    )


def _mark(certificate: CertificateFile) -> tuple[float, str] | None:
    k = certificate.iterations_trained
    return None if k is None else (k, f"K = {k}")
