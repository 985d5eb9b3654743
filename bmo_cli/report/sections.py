"""The sections of the page about one problem, each with its own template."""

from __future__ import annotations

from markupsafe import Markup

from bmo_cli.report.charts import Series, scatter
from bmo_cli.report.comparison import COSTS, Comparison
from bmo_cli.report.curves import convergence_section, curves
from bmo_cli.report.pictures import Album
from bmo_cli.report.problem import Problem, convergence
from bmo_cli.report.render import render

_MOST_SCORES, _MOST_COLUMNS = 8, 12
_COST_TITLES = {
    "evaluations": "evaluations of T and products in training",
    "seconds": "seconds of training",
    "memory": "largest memory of the process (MiB)",
}


def sections(problem: Problem, album: Album, page_number: int) -> dict[str, Markup]:
    """Sections by title, without empty ones.

    Args:
        problem: the runs.
        album: their pictures.
        page_number: number of the problem on the page, by which page.js finds its pictures.
    """
    contents = {
        "Runs": _runs(problem),
        "Curves": curves(problem),
        "Images": render("images.html", album=album, page_number=page_number)
        if album.cases
        else Markup(),
        "Convergence": convergence_section(problem),
        "Comparison": _comparison(problem),
        "Differences": _differences(problem),
    }
    return {title: content for title, content in contents.items() if content}


def _runs(problem: Problem) -> Markup:
    """Table of the runs with their scores, and the runs that did not finish."""
    metrics = [entry.run.result.metric for entry in problem.entries]
    layouts = {name: text for m in metrics if m for name, text in m.formats.items()}
    known = [n for n in layouts if any(e.value(f"test/{n}") is not None for e in problem.entries)]
    return render(
        "runs.html",
        problem=problem,
        test=problem.test,
        layouts={name: layouts[name] for name in known[:_MOST_SCORES]},
        states=[convergence(entry) for entry in problem.entries],
        lost=[entry for entry in problem.entries if not entry.is_finished],
    )


def _comparison(problem: Problem) -> Markup:
    """Table of the groups, effects of settings, and charts of quality against cost."""
    comparison = problem.comparison
    if comparison is None or len(comparison.groups) < 2:
        return Markup()
    charts = _fronts(problem, comparison)
    return render(
        "comparison.html", problem=problem, comparison=comparison, costs=COSTS, charts=charts
    )


def _fronts(problem: Problem, comparison: Comparison) -> list[Markup]:
    charts = []
    for cost, title in _COST_TITLES.items():
        known = [
            (group, group.score.mean)
            for group in comparison.groups
            if group.score is not None and cost in group.costs
        ]
        if len(known) > 1:
            points = [
                Series(problem.first + group.indices[0], group.label, [(group.costs[cost], mean)])
                for group, mean in known
            ]
            front = [cost in group.front for group, _ in known]
            charts.append(scatter(comparison.metric.name, title, points, front))
    return charts


def _differences(problem: Problem) -> Markup:
    """Settings that differ, and the configuration of the best run."""
    return render(
        "differences.html",
        factors=problem.comparison.factors if problem.comparison else (),
        shown=problem.labelled_runs[:_MOST_COLUMNS],
        first=problem.labelled_runs[0],
    )
