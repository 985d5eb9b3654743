"""The first view of the page: which setting is best, by how much, and whether it converged."""

from __future__ import annotations

from bmo_cli.report.comparison import Estimate, Group
from bmo_cli.report.curves import history, residuals
from bmo_cli.report.markup import badge, escaped, tag
from bmo_cli.report.problem import Problem, convergence, late_gain


def verdict(problem: Problem) -> str:
    """Which setting is best, by how much, and whether it converged."""
    best, found = problem.best, problem.comparison
    if best is None or found is None or best.score is None:
        count = len(problem.entries)
        return tag("p", escaped(f"{problem.title}: no score yet, of {count} runs")) + tag(
            "p", "See the list of runs below."
        )
    metric, score = found.metric, best.score
    entry = next(e for e in problem.entries if e in best.entries and e.finished)
    several = f" over {score.count} seeds" if score.count > 1 else ""
    split = "test" if metric.name.startswith("test/") else "validation"
    parts = [
        tag("p", escaped(f"{problem.title}: best by validation"), "quiet"),
        tag("h2", escaped(best.label if len(found.groups) > 1 else problem.title)),
        tag(
            "p",
            f"{tag('strong', escaped(metric.with_unit(score.show(metric))))} "
            + escaped(f"{metric.score} on {split} data{several}"),
            "score",
        ),
        tag("p", escaped(_margin(problem)), "margin") if len(found.groups) > 1 else "",
        tag("ul", "".join(tag("li", one) for one in _converged(problem, best)), "facts"),
        tag("p", f"run {tag('code', escaped(entry.name))}", "quiet"),
    ]
    certified = any(one.certificate for one in problem.entries)
    chart = residuals(problem) if certified else history(problem, "step", "val")
    return tag("div", "".join(parts)) + tag("div", chart)


def _margin(problem: Problem) -> str:
    """The next setting by the score shown, and whether it is clearly different."""
    found, best = problem.comparison, problem.best
    assert found is not None and best is not None and best.score is not None
    others = [g for g in found.groups if g is not best and g.score is not None]
    if not others or others[0].score is None:
        return "no other setting has a score"
    other, metric = others[0], found.metric
    assert other.score is not None
    ahead = metric.better(other.score.mean, best.score.mean)
    interval = None if other.difference is None else other.difference.interval
    apart = Estimate(abs(best.score.mean - other.score.mean), interval, 0)
    gap = metric.with_unit(apart.show(metric))
    if ahead:
        text = f"{other.label} is {gap} better on these data, which choose nothing"
    else:
        text = f"{gap} ahead of {other.label}"
    if other.difference is None or interval is None:
        return text + " (too few equal seeds for an interval)"
    return text + ("" if other.difference.is_clear else ", within the scatter of seeds")


def _converged(problem: Problem, best: Group) -> list[str]:
    """Of the iteration, of training, and what did not finish."""
    members = [e for e in problem.entries if e in best.entries and e.finished]
    states = [convergence(member) for member in members]
    facts = []
    for words in dict.fromkeys(state.verdict for state in states):
        alike = [state for state in states if state.verdict == words]
        of = f": {len(alike)} of {len(states)} runs" if len(states) > 1 else ""
        mark = badge(alike[0].kind, words + of)
        facts.append(f"{mark} {tag('span', escaped(alike[0].why))}")
    entry = members[0]
    gain, fall = late_gain(problem, entry), entry.value("train/gradient_fall")
    if gain is not None and problem.test is not None:
        gained = problem.test.with_unit(problem.test.show(gain))
        text = f"training: validation gained {gained} in its last quarter"
        if fall is not None:
            text += f", the hyper-gradient fell to {fall:.2g} of its first norm"
        facts.append(escaped(text))
    done = sum(one.finished for one in problem.entries)
    if done < len(problem.entries):
        count = len(problem.entries) - done
        facts.append(badge("bad", f"{count} of {len(problem.entries)} runs did not finish"))
    return facts
