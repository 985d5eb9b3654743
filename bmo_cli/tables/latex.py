"""Format a sheet as LaTeX tables, with the package booktabs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bmo_cli.results.statistics import mean_and_interval
from bmo_cli.results.tables import booktabs, latex_escaped
from bmo_cli.tables.claims import describe_score
from bmo_cli.tables.summary import (
    Line,
    Mark,
    Section,
    Sheet,
    assign_marks,
    compare,
)

_MARKED = {"best": r"\textbf{%s}", "second": r"\underline{%s}", "": "%s"}
_MAX_COLUMNS = 8
"""Columns that fit on a page. A wider table is split."""


def format_latex(sheet: Sheet, name: str) -> str:
    """One table if it fits on a page, otherwise one for every column; then the published values.

    Args:
        sheet: content.
        name: of the table, for labels.
    """
    together = sum(_count_columns(sheet, s) for s in sheet.sections) <= _MAX_COLUMNS
    groups = [list(sheet.sections)] if together else [[section] for section in sheet.sections]
    tables = [
        _format_table(
            sheet, group, f"tab:{_sanitize_label(name)}" + (f":{i}" if len(groups) > 1 else "")
        )
        for i, group in enumerate(groups, 1)
    ]
    if sheet.published:
        tables.append(_format_published(sheet, f"tab:{_sanitize_label(name)}:published"))
    if sheet.claims:
        tables.append(_format_claims(sheet, f"tab:{_sanitize_label(name)}:claims"))
    return "\n".join(["% \\usepackage{booktabs}", *tables])


def _sanitize_label(name: str) -> str:
    return re.sub(r"[^\w-]+", "-", name)


def _format_table(sheet: Sheet, sections: Sequence[Section], label: str) -> str:
    names = list(dict.fromkeys(line.name for section in sections for line in section.lines))
    rows = [
        [latex_escaped(name), *(text for s in sections for text in _format_cells(sheet, s, name))]
        for name in names
    ]
    counts = [_count_columns(sheet, section) for section in sections]
    groups = [
        rf"\multicolumn{{{count}}}{{c}}{{{latex_escaped(section.name)}}}"
        for section, count in zip(sections, counts, strict=True)
    ]
    ends = [1 + sum(counts[: i + 1]) for i in range(len(counts))]
    spans = [(end - count + 1, end) for end, count in zip(ends, counts, strict=True)]
    return booktabs(
        "l" + "".join(_align(sheet, section) for section in sections),
        [
            ["", *groups],
            ["", *(header for section in sections for header in _format_headers(sheet, section))],
        ],
        rows,
        caption=_format_caption(sheet, sections),
        label=label,
        rules=" ".join(rf"\cmidrule(lr){{{first}-{last}}}" for first, last in spans),
        notes=[*_format_failures(sections), *_format_flags(sections)],
    )


def _has_verdicts(section: Section) -> bool:
    """Whether the section has a column of verdicts."""
    return any(line.verdict for line in section.lines)


def _count_columns(sheet: Sheet, section: Section) -> int:
    return len(section.scores(sheet.scores)) + _has_verdicts(section)


def _align(sheet: Sheet, section: Section) -> str:
    return "r" * len(section.scores(sheet.scores)) + "l" * _has_verdicts(section)


def _format_headers(sheet: Sheet, section: Section) -> list[str]:
    scores = [_format_header(sheet, score) for score in section.scores(sheet.scores)]
    return [*scores, *["certificate"] * _has_verdicts(section)]


def _format_failures(sections: Sequence[Section]) -> list[str]:
    """One note for each line that failed, with the reason."""
    return [
        latex_escaped(
            f"{line.name}{f' ({section.name})' if len(sections) > 1 else ''} failed: {line.failed}"
        )
        for section in sections
        for line in section.lines
        if line.failed
    ]


def _format_flags(sections: Sequence[Section]) -> list[str]:
    """One note for each line whose runs remark something, with its sections where there are more.

    A training that serves several sections remarks the same in all of them.
    """
    places: dict[tuple[str, str], list[str]] = {}
    for section in sections:
        for line in section.lines:
            if line.flags:
                places.setdefault((line.name, "; ".join(line.flags)), []).append(section.name)
    return [
        latex_escaped(
            f"{name} ({'; '.join(own)}): {text}" if len(sections) > 1 else f"{name}: {text}"
        )
        for (name, text), own in places.items()
    ]


def _format_cells(sheet: Sheet, section: Section, name: str) -> list[str]:
    scores = section.scores(sheet.scores)
    at = next((i for i, line in enumerate(section.lines) if line.name == name), None)
    if at is None:
        return ["--"] * _count_columns(sheet, section)
    cells = []
    for score, layout in scores.items():
        direction = sheet.best.get(score)
        mark: Mark = assign_marks(section, score, layout, direction)[at] if direction else ""
        cells.append(format_cell(section.lines[at], score, layout, mark))
    verdict = section.lines[at].verdict or "--"
    return [*cells, *[latex_escaped(verdict)] * _has_verdicts(section)]


def format_cell(line: Line, score: str, layout: str, mark: Mark) -> str:
    """The mean over the seeds with its mark, and for several seeds the 95 % interval, as LaTeX."""
    values = line.values.get(score, ())
    if not values:
        return "--"
    mean, interval = mean_and_interval(values)
    width = layout.removeprefix("+")
    text = _MARKED[mark] % latex_escaped(format(mean, layout))
    spread = "" if interval is None else rf"$\pm$ {latex_escaped(format(interval, width))}"
    return " ".join(filter(None, (text, spread, line.missing_runs_note(score))))


def _format_header(sheet: Sheet, score: str) -> str:
    arrow = {"max": r" $\uparrow$", "min": r" $\downarrow$"}.get(sheet.best.get(score, ""), "")
    name = score.removeprefix("test/")
    head, at, count = name.partition("@")
    shown = head.upper() if head in ("psnr", "ssim", "nmse") else head
    return latex_escaped(shown + at + count) + arrow


def _format_caption(sheet: Sheet, sections: Sequence[Section]) -> str:
    sentences = [sheet.title.rstrip(".") + "."]
    if len(sections) == 1 and len(sheet.sections) > 1:
        sentences.append(f"{sections[0].name}.")
    if len(sheet.seeds) > 1:
        sentences.append(f"Mean and 95 % interval (Student t) over {len(sheet.seeds)} seeds.")
    sentences += [note for note in (sheet.training_note, sheet.difference_note) if note]
    text = latex_escaped(" ".join(sentences))
    if sheet.best:
        text += r" Best value \textbf{bold}, second \underline{underlined}."
    protocols = list(dict.fromkeys(p for section in sections for p in section.protocols))
    if len(protocols) == 1:
        text += " " + latex_escaped(f"Protocol: {protocols[0]}.")
    for section in sections if len(protocols) > 1 else ():
        shown = "; ".join(
            f"{protocol} ({', '.join(names)})" if len(section.protocols) > 1 else protocol
            for protocol, names in section.protocols.items()
        )
        text += " " + latex_escaped(f"Protocol, {section.name}: {shown}.")
        if len(section.protocols) > 1:
            text += r" \textbf{The protocols differ: these rows do not compare.}"
    return text


def _format_published(sheet: Sheet, label: str) -> str:
    rows = [
        [
            latex_escaped(text)
            for text in (
                *(c.entry.row, c.entry.column, c.entry.score, c.ours, c.published),
                *(c.difference, c.verdict, c.entry.source),
            )
        ]
        for c in compare(sheet)
    ]
    header = ["", "column", "score", "ours", "published", "difference", "verdict", "source"]
    title = latex_escaped(sheet.title.rstrip("."))
    return booktabs("lllrrrll", [header], rows, caption=f"{title}: published values.", label=label)


def _format_claims(sheet: Sheet, label: str) -> str:
    rows = [
        [
            latex_escaped(text)
            for text in (
                *(j.claim.text, j.claim.column, describe_score(j.claim), j.ours),
                *(j.claim.reading, j.verdict),
            )
        ]
        for j in sheet.claims
    ]
    header = ["claim", "column", "score", "ours", "published", "verdict"]
    title = latex_escaped(sheet.title.rstrip("."))
    wide = r"p{0.2\linewidth}"
    align = f"{wide}ll{wide}{wide}l"
    return booktabs(align, [header], rows, caption=f"{title}: claims.", label=label)
