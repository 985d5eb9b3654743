"""The parts of the page about one problem, as HTML."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bmo_cli.report.charts import COLOURS, Series, lines, scatter
from bmo_cli.report.comparison import COSTS, Estimate, Group
from bmo_cli.report.entry import Entry, Metric, mapping, number
from bmo_cli.report.markup import badge, cell, escaped, table, tag
from bmo_cli.report.pictures import Album
from bmo_cli.report.problem import Problem, convergence, findings, late_gain, residual_curves
from bmo_cli.results.runs import since

_CURVES: Sequence[tuple[str, str, bool]] = (
    ("val", "validation {metric}", False),
    ("loss", "training loss", True),
    ("hypergrad_norm", "norm of the hyper-gradient", True),
    ("residual", "fixed-point residual", True),
)
_MOST_COLUMNS = 12
COST_TITLES = {
    "evaluations": "evaluations of T and products in training",
    "seconds": "seconds of training",
    "memory": "largest memory of the process (MiB)",
}


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
    unit = f" {metric.unit}" if metric.unit else ""
    parts = [
        tag("p", escaped(f"{problem.title}: best by validation"), "quiet"),
        tag("h2", escaped(best.label if len(found.groups) > 1 else problem.title)),
        tag(
            "p",
            f"{tag('strong', escaped(shown(score, metric) + unit))} "
            + escaped(f"{metric.name.partition('/')[2]} on {split} data{several}"),
            "score",
        ),
        tag("p", escaped(_margin(problem)), "margin") if len(found.groups) > 1 else "",
        tag("ul", "".join(tag("li", one) for one in _converged(problem, best)), "facts"),
        tag("p", f"run {tag('code', escaped(entry.name))}", "quiet"),
    ]
    certified = any(one.certificate for one in problem.entries)
    chart = _residuals(problem) if certified else _history(problem, "step", *_CURVES[0])
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
    gap = metric.show(abs(best.score.mean - other.score.mean))
    interval = None if other.difference is None else other.difference.interval
    spread = "" if interval is None else f" ± {metric.show(interval)}"
    unit = f" {metric.unit}" if metric.unit else ""
    if ahead:
        text = f"{other.label} is {gap}{spread}{unit} better on these data, which choose nothing"
    else:
        text = f"{gap}{spread}{unit} ahead of {other.label}"
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
        unit = f" {problem.test.unit}" if problem.test.unit else ""
        text = f"training: validation gained {problem.test.show(gain)}{unit} in its last quarter"
        if fall is not None:
            text += f", the hyper-gradient fell to {fall:.2g} of its first norm"
        facts.append(escaped(text))
    done = sum(one.finished for one in problem.entries)
    if done < len(problem.entries):
        count = len(problem.entries) - done
        facts.append(badge("bad", f"{count} of {len(problem.entries)} runs did not finish"))
    return facts


def sections(problem: Problem, album: Album, page_number: int) -> str:
    """Everything below the verdict.

    Args:
        problem: its runs.
        album: their pictures.
        page_number: of the problem on the page, for identifiers.
    """
    parts: list[tuple[str, Callable[[], str]]] = [
        ("Runs", lambda: _runs(problem)),
        ("Curves", lambda: _curves(problem)),
        ("Images", lambda: _images(album, page_number)),
        ("Convergence", lambda: _certificates(problem)),
        ("Comparison", lambda: _comparison(problem)),
        ("Differences", lambda: _differences(problem)),
    ]
    built = [(name, part()) for name, part in parts]
    built = [(name, content) for name, content in built if content]
    anchor = f"p{page_number}"
    links = "".join(f'<a href="#{anchor}-{name.lower()}">{escaped(name)}</a>' for name, _ in built)
    title = f"{problem.title}: {len(problem.entries)} runs"
    protocol = next((e.run.result.get("protocol") for e in problem.entries if e.finished), "")
    return (
        tag("h2", escaped(title))
        + tag("p", escaped(f"protocol {protocol}"), "quiet")
        + f"<nav>{links}</nav>"
        + "".join(
            tag("section", tag("h3", escaped(name)) + content, id=f"{anchor}-{name.lower()}")
            for name, content in built
        )
    )


def shown(value: Estimate, metric: Metric, *, sign: bool = False) -> str:
    """A mean with its interval."""
    spread = "" if value.interval is None else f" ± {metric.show(value.interval)}"
    return metric.show(value.mean, sign=sign) + spread


def _runs(problem: Problem) -> str:
    """A line a run, with every score; a click on a title sorts."""
    test = problem.test
    formats: dict[str, object] = {}
    for entry in problem.entries:
        formats |= mapping(mapping(entry.run.result.get("metric")).get("formats"))
    names = [n for n in formats if any(e.value(f"test/{n}") is not None for e in problem.entries)]
    names = names[:8]
    validation = [f"val {test.name.partition('/')[2]}"] if test else []
    header = ["", "run", "status", *validation, *names, "converges", "seconds", "age"]
    rows = []
    for i, (entry, label) in enumerate(zip(problem.entries, problem.labels, strict=True)):
        chosen = entry.value(problem.validation.name) if problem.validation else None
        status = str(entry.run.result.get("status"))
        state = convergence(entry)
        seconds = entry.value("train_seconds")
        swatch = _swatch(problem.number(entry)) if i < COLOURS else ""
        name = tag("b", escaped(label)) + tag("small", escaped(entry.name))
        rows.append(
            [
                swatch,
                cell(name, "run"),
                badge("good" if entry.finished else "bad", status),
                *([_value(chosen, test)] if test else []),
                *(_value(entry.value(f"test/{n}"), _format(test, n, formats)) for n in names),
                cell(badge(state.kind, state.verdict) + tag("small", escaped(state.why)), "run"),
                cell("" if seconds is None else f"{seconds:.0f}", "number", sort=seconds),
                cell(escaped(since(entry.run.age)), "number", sort=entry.run.age),
            ]
        )
    return table(header, rows, sortable=True) + _failures(problem)


def _format(test: Metric | None, name: str, formats: object) -> Metric:
    layout = str(mapping(formats).get(name))
    known = len(layout) == 3 and layout[0] == "." and layout[1].isdigit() and layout[2] in "efg"
    return Metric(name, test is None or test.larger_is_better, "", layout if known else ".4g")


def _value(value: float | None, metric: Metric | None) -> str:
    if value is None or metric is None:
        return cell("", "number")
    return cell(escaped(metric.show(value)), "number", sort=value)


def _failures(problem: Problem) -> str:
    lost = [entry for entry in problem.entries if not entry.finished]
    if not lost:
        return ""
    rows = [
        [
            tag("code", escaped(entry.name)),
            escaped(entry.run.result.get("status")),
            escaped(str(entry.run.result.get("message", ""))[:2000]),
            tag("code", escaped(f"bmo train resume={entry.name}")),
        ]
        for entry in lost
    ]
    title = tag("h4", "Not finished")
    return title + table(["run", "status", "why", "once more"], rows)


def _curves(problem: Problem) -> str:
    """Histories over one another, against steps and against seconds."""
    drawn = _drawn(problem)
    if not any(entry.history for _, _, entry in drawn):
        return ""
    charts = []
    for x in ("step", "seconds"):
        panels = "".join(_history(problem, x, *curve) for curve in _CURVES)
        hidden = "" if x == "step" else " hidden"
        charts.append(f'<div class="charts" data-axis="{x}"{hidden}>{panels}</div>')
    legend = "".join(
        f'<button type="button" aria-pressed="true" data-run="{i}">{_swatch(i)}{escaped(label)}'
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


def _drawn(problem: Problem) -> list[tuple[int, str, Entry]]:
    """Number, label and run of those that charts show: as many as there are colours."""
    entries = problem.entries[:COLOURS]
    numbers = [problem.number(entry) for entry in entries]
    return list(zip(numbers, problem.labels, entries, strict=False))


def _swatch(number_of_run: int) -> str:
    return f'<i class="swatch c{number_of_run % COLOURS}"></i>'


def _history(problem: Problem, x: str, key: str, title: str, log: bool) -> str:
    """One column of the histories."""
    metric = problem.test.name.partition("/")[2] if problem.test else "score"
    unit = f" ({problem.test.unit})" if key == "val" and problem.test and problem.test.unit else ""
    series = [
        Series(i, label, [(row[x], row[key]) for row in entry.history])
        for i, label, entry in _drawn(problem)
    ]
    x_title = {"step": "hyper-training step", "seconds": "seconds of training"}[x]
    return lines(title.format(metric=metric) + unit, x_title, series, log_y=log)


def _images(album: Album, page_number: int) -> str:
    """Viewers with a divider; the script fills them from the page's data."""
    if not album.cases:
        return ""
    size = f"{album.side} x {album.side} pixels of their middle" if album.side else ""
    notes = [f"Shown are {size}." if size else ""]
    notes += [f"{album.left_out} runs have no room here." if album.left_out else ""]
    viewers = "".join(
        f'<figure class="viewer" data-case="{i}"><figcaption>{escaped(case)}</figcaption>'
        '<div class="stage" tabindex="0" aria-label="picture: drag to move, plus and minus to '
        'zoom, arrow keys to move"><img class="left" alt=""><img class="right" alt="">'
        '<div class="divider"></div></div>'
        f'<input type="range" min="0" max="100" value="50" step="1" aria-label="divider of '
        f'{escaped(case)}: left and right picture"></figure>'
        for i, case in enumerate(album.cases)
    )
    tools = (
        '<label>left <select class="choose-left"></select></label>'
        '<label>right <select class="choose-right"></select></label>'
        '<span class="zoom">'
        '<button type="button" data-zoom="out" aria-label="zoom out">&minus;</button>'
        '<output>1 x</output><button type="button" data-zoom="in" aria-label="zoom in">+</button>'
        '<button type="button" data-zoom="reset">whole</button></span>'
    )
    hint = "Move the divider, drag to move, zoom with the wheel or the keys + and -: all follow. "
    return (
        f'<div class="album" data-album="{page_number}"><div class="tools">{tools}</div>'
        f"{tag('p', escaped(hint + ' '.join(notes)), 'quiet')}"
        f'<div class="viewers">{viewers}</div>'
        "<noscript>The pictures need JavaScript.</noscript></div>"
    )


def _certificates(problem: Problem) -> str:
    """Residuals and scores beyond K of all certified runs, and the best run's findings."""
    known = [
        (problem.number(entry), label, entry)
        for entry, label in zip(problem.entries, problem.labels, strict=True)
        if entry.certificate
    ]
    if not known:
        return tag(
            "p",
            "No run has a certificate: train with <code>certify=true</code>, or "
            "<code>bmo certify run=DIR</code>.",
        )
    panels = [_residuals(problem)]
    if problem.test is not None:
        metric = problem.test.name.partition("/")[2]
        beyond = [
            Series(i, label, sorted(_scores(entry.certificate.get(f"val_{metric}"))))
            for i, label, entry in _drawn(problem)
        ]
        panels.append(
            lines(f"validation {metric}", "iteration k", beyond, log_x=True, mark=_trained(problem))
        )
    best = known[0][2]
    details = "".join(
        tag("h4", escaped(title)) + table(["", "verdict", "number", "why"], _findings(best, key))
        for key, title in (("assumptions", "What the theory assumes"),
                           ("predictions", "What it predicts, measured"))
    )  # fmt: skip
    summary = tag("summary", escaped(f"Certificate of {known[0][1]}"))
    return f'<div class="charts">{"".join(panels)}</div><details open>{summary}{details}</details>'


def _residuals(problem: Problem) -> str:
    """Residuals far beyond K, each run's from its slowest start."""
    slowest = []
    for i, label, entry in _drawn(problem):
        curves = {name: points for name, points in residual_curves(entry).items() if points}
        if curves:
            name, points = max(curves.items(), key=lambda item: item[1][-1][1])
            slowest.append(Series(i, f"{label}, from {name}", points))
    title, mark = "residual |D(u) - u| / |u|, slowest start", _trained(problem)
    return lines(title, "iteration k", slowest, log_x=True, log_y=True, mark=mark)


def _trained(problem: Problem) -> tuple[float, str] | None:
    """A mark at K, where all certified runs have the same."""
    found = {number(entry.certificate.get("iterations_trained")) for entry in problem.entries}
    known = [k for k in found if k is not None]
    return (known[0], "K") if len(known) == 1 else None


def _scores(value: object) -> list[tuple[float, float]]:
    points = []
    for count, score in mapping(value).items():
        found = number(score)
        if found is not None and str(count).isdecimal() and len(str(count)) < 9:
            points.append((float(count), found))
    return points


def _findings(entry: Entry, kind: str) -> list[list[str]]:
    kinds = {"holds": "good", "violated": "bad"}
    rows = []
    for row in findings(entry, kind):
        verdict, value = str(row.get("verdict")), number(row.get("number"))
        rows.append(
            [
                escaped(row.get("name")),
                badge(kinds.get(verdict, "none"), verdict),
                cell("" if value is None else f"{value:.4g}", "number"),
                escaped(row.get("meaning")),
            ]
        )
    return rows


def _comparison(problem: Problem) -> str:
    """Groups of equal settings, effects of what was swept, quality against cost."""
    found = problem.comparison
    if found is None or len(found.groups) < 2:
        return ""
    metric = found.metric
    name = metric.name + (f" ({metric.unit})" if metric.unit else "")
    rows = []
    for group in found.groups:
        done = sum(entry.finished for entry in group.entries)
        score, change = group.score, group.difference
        rows.append(
            [
                cell(_swatch(problem.first + group.indices[0]) + escaped(group.label), "run"),
                cell(escaped(f"{done} of {len(group.entries)}"), "number"),
                _mean(score, metric),
                _mean(change, metric, sign=True),
                *(_cost(group.costs.get(key), key in group.front) for key in COSTS),
            ]
        )
    header = ["setting", "finished", name, "difference", *COSTS.values()]
    parts = [
        tag("p", escaped(
            "Means and 95 % intervals (Student t) over seeds. Differences are those of runs with "
            f"equal seeds, to {found.against}; bold: the interval leaves out zero. ◆ : no setting "
            "is as good for less."
        ), "quiet"),
        table(header, rows, sortable=True),
    ]  # fmt: skip
    if found.effects:
        rows = [
            [
                tag("code", escaped(f"{one.key}={one.value}")),
                tag("code", escaped(f"{one.key}={one.reference}" if one.reference else "none")),
                _mean(one.change, metric, sign=True),
                cell(str(one.change.count), "number"),
            ]
            for one in found.effects
        ]
        parts.append(tag("h4", "Effects, everything else being equal"))
        parts.append(table(["setting", "against", "changes " + name, "pairs"], rows))
    parts.append(f'<div class="charts thirds">{"".join(_fronts(problem))}</div>')
    return "".join(parts)


def _mean(value: Estimate | None, metric: Metric, *, sign: bool = False) -> str:
    if value is None:
        return cell("", "number")
    text = escaped(shown(value, metric, sign=sign))
    if sign and value.is_clear:
        text = tag("b", text)
    return cell(text, "number", sort=value.mean)


def _cost(value: float | None, on_front: bool) -> str:
    if value is None:
        return cell("", "number")
    mark = " ◆" if on_front else ""
    return cell(f"{value:.4g}{mark}", "number", sort=value)


def _fronts(problem: Problem) -> list[str]:
    found = problem.comparison
    assert found is not None
    charts = []
    for key, title in COST_TITLES.items():
        groups = [g for g in found.groups if g.score is not None and key in g.costs]
        if len(groups) > 1:
            points = [
                Series(problem.first + g.indices[0], g.label, [(g.costs[key], g.score.mean)])
                for g in groups
                if g.score is not None
            ]
            front = [key in g.front for g in groups]
            charts.append(scatter(found.metric.name, title, points, front))
    return charts


def _differences(problem: Problem) -> str:
    """What distinguishes the runs, and the whole configuration of the first."""
    found = problem.comparison
    parts = []
    if found is not None and found.factors:
        columns = range(min(len(problem.entries), _MOST_COLUMNS))
        rows = []
        for factor in found.factors:
            cells = [
                cell(
                    escaped(factor.values[i]) or "&ndash;",
                    "" if factor.values[i] == factor.values[0] else "differs",
                )
                for i in columns
            ]
            rows.append([tag("code", escaped(factor.key)), *cells])
        header = ["", *(f"{problem.labels[i]}" for i in columns)]
        parts.append(tag("p", "Highlighted: other than in the first run.", "quiet"))
        parts.append(table(header, rows))
    entry, label = problem.entries[0], problem.labels[0]
    keys = [[tag("code", escaped(k)), escaped(v[:500])] for k, v in entry.config.items()]
    if keys:
        summary = tag("summary", escaped(f"Whole configuration of {label}"))
        parts.append(f"<details>{summary}{table(['key', 'value'], keys)}</details>")
    return "".join(parts)
