"""The parts of the page about one problem, as HTML."""

from __future__ import annotations

from bmo_cli.report.charts import COLOURS, Series, scatter
from bmo_cli.report.comparison import COSTS, Estimate
from bmo_cli.report.curves import certificates, curves, swatch
from bmo_cli.report.entry import Metric, layout_of
from bmo_cli.report.markup import badge, cell, escaped, table, tag
from bmo_cli.report.pictures import Album
from bmo_cli.report.problem import Problem, convergence
from bmo_cli.results.runs import counted, since

_MOST_COLUMNS = 12
COST_TITLES = {
    "evaluations": "evaluations of T and products in training",
    "seconds": "seconds of training",
    "memory": "largest memory of the process (MiB)",
}


def sections(problem: Problem, album: Album, page_number: int) -> str:
    """Everything below the verdict.

    Args:
        problem: its runs.
        album: their pictures.
        page_number: of the problem on the page, for identifiers.
    """
    parts = {
        "Runs": _runs(problem),
        "Curves": curves(problem),
        "Images": _images(album, page_number),
        "Convergence": certificates(problem),
        "Comparison": _comparison(problem),
        "Differences": _differences(problem),
    }
    built = {name: content for name, content in parts.items() if content}
    anchor = f"p{page_number}"
    links = "".join(f'<a href="#{anchor}-{name.lower()}">{escaped(name)}</a>' for name in built)
    title = f"{problem.title}: {counted(len(problem.entries))}"
    protocol = next((e.run.result.protocol for e in problem.entries if e.finished), "")
    return (
        tag("h2", escaped(title))
        + tag("p", escaped(f"protocol {protocol}"), "quiet")
        + f"<nav>{links}</nav>"
        + "".join(
            tag("section", tag("h3", escaped(name)) + content, id=f"{anchor}-{name.lower()}")
            for name, content in built.items()
        )
    )


def _runs(problem: Problem) -> str:
    """A line a run, with every score; a click on a title sorts."""
    test = problem.test
    metrics = [entry.run.result.metric for entry in problem.entries]
    formats = {name: text for m in metrics if m for name, text in m.formats.items()}
    names = [n for n in formats if any(e.value(f"test/{n}") is not None for e in problem.entries)]
    names = names[:8]
    validation = [f"val {test.score}"] if test else []
    header = ["", "run", "status", *validation, *names, "converges", "seconds", "age"]
    rows = []
    for i, (entry, label) in enumerate(zip(problem.entries, problem.labels, strict=True)):
        chosen = entry.value(problem.validation.name) if problem.validation else None
        state = convergence(entry)
        seconds = entry.value("train_seconds")
        colour = swatch(problem.number(entry)) if i < COLOURS else ""
        name = tag("b", escaped(label)) + tag("small", escaped(entry.name))
        rows.append(
            [
                colour,
                cell(name, "run"),
                badge("good" if entry.finished else "bad", entry.run.status),
                *([_value(chosen, test.layout)] if test else []),
                *(_value(entry.value(f"test/{n}"), formats[n]) for n in names),
                cell(badge(state.kind, state.verdict) + tag("small", escaped(state.why)), "run"),
                cell("" if seconds is None else f"{seconds:.0f}", "number", sort=seconds),
                cell(escaped(since(entry.run.age)), "number", sort=entry.run.age),
            ]
        )
    return table(header, rows, sortable=True) + _failures(problem)


def _value(value: float | None, layout: str) -> str:
    if value is None:
        return cell("", "number")
    return cell(format(value, layout_of(layout)), "number", sort=value)


def _failures(problem: Problem) -> str:
    lost = [entry for entry in problem.entries if not entry.finished]
    if not lost:
        return ""
    rows = [
        [
            tag("code", escaped(entry.name)),
            escaped(entry.run.status),
            escaped(entry.run.message[:2000]),
            tag("code", escaped(entry.resume_command)),
        ]
        for entry in lost
    ]
    title = tag("h4", "Not finished")
    return title + table(["run", "status", "why", "once more"], rows)


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


def _comparison(problem: Problem) -> str:
    """Groups of equal settings, effects of what was swept, quality against cost."""
    found = problem.comparison
    if found is None or len(found.groups) < 2:
        return ""
    metric = found.metric
    name = metric.titled
    rows = []
    for group in found.groups:
        score, change = group.score, group.difference
        rows.append(
            [
                cell(swatch(problem.first + group.indices[0]) + escaped(group.label), "run"),
                cell(escaped(f"{group.finished} of {len(group.entries)}"), "number"),
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
    text = escaped(value.show(metric, sign=sign))
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
