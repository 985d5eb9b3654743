"""The first section of the page: the best setting, its margin, and whether it converged."""

from __future__ import annotations

from typing import NamedTuple

from markupsafe import Markup

from bmo_cli.report.comparison import Comparison, Estimate, Group
from bmo_cli.report.curves import history, residuals
from bmo_cli.report.problem import Problem, convergence, late_gain
from bmo_cli.report.render import render


class Fact(NamedTuple):
    """A line of the verdict: an optional badge and a text."""

    text: str = ""
    kind: str = ""
    badge: str = ""


def verdict(problem: Problem) -> Markup:
    """Render the best setting, its margin, and whether it converged."""
    best, comparison = problem.best, problem.comparison
    if best is None or comparison is None or best.score is None:
        return render("no_score.html", problem=problem)
    metric, score = comparison.metric, best.score
    split = "test" if metric.name.startswith("test/") else "validation"
    several = f" over {score.count} seeds" if score.count > 1 else ""
    certified = any(entry.certificate for entry in problem.entries)
    return render(
        "verdict.html",
        problem=problem,
        comparison=comparison,
        best=best,
        score=metric.with_unit(score.show(metric)),
        description=f"{metric.score} on {split} data{several}",
        margin=_margin(comparison, best, score),
        facts=_facts(problem, best),
        run=next(e.name for e in problem.entries if e in best.entries and e.is_finished),
        chart=residuals(problem) if certified else history(problem, "step", "val"),
    )


def _margin(comparison: Comparison, best: Group, score: Estimate) -> str:
    """Difference to the next setting, and whether its interval leaves out zero."""
    others = [g for g in comparison.groups if g is not best and g.score is not None]
    if not others or others[0].score is None:
        return "no other setting has a score"
    other, metric = others[0], comparison.metric
    other_mean = others[0].score.mean
    interval = None if other.difference is None else other.difference.interval
    gap = metric.with_unit(Estimate(abs(score.mean - other_mean), interval, 0).show(metric))
    if metric.better(other_mean, score.mean):
        text = f"{other.label} is {gap} better on these data, which choose nothing"
    else:
        text = f"{gap} ahead of {other.label}"
    if other.difference is None or interval is None:
        return text + " (too few equal seeds for an interval)"
    return text + ("" if other.difference.is_clear else ", within the scatter of seeds")


def _facts(problem: Problem, best: Group) -> list[Fact]:
    """Convergence of the iteration and of training, and the number of unfinished runs."""
    members = [e for e in problem.entries if e in best.entries and e.is_finished]
    states = [convergence(member) for member in members]
    facts = []
    for words in dict.fromkeys(state.verdict for state in states):
        alike = [state for state in states if state.verdict == words]
        count = f": {len(alike)} of {len(states)} runs" if len(states) > 1 else ""
        facts.append(Fact(alike[0].why, alike[0].kind, words + count))
    gain = late_gain(problem, members[0])
    decay = members[0].value("train/gradient_fall")
    if gain is not None and problem.test is not None:
        gained = problem.test.with_unit(problem.test.show(gain))
        text = f"training: validation gained {gained} in its last quarter"
        if decay is not None:
            text += f", the hyper-gradient fell to {decay:.2g} of its first norm"
        facts.append(Fact(text))
    lost = sum(not entry.is_finished for entry in problem.entries)
    if lost:
        facts.append(Fact("", "bad", f"{lost} of {len(problem.entries)} runs did not finish"))
    return facts
