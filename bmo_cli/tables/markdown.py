"""Format a sheet as a Markdown document."""

from __future__ import annotations

from bmo_cli.results.statistics import mean_and_interval
from bmo_cli.results.tables import markdown
from bmo_cli.tables.claims import describe_score
from bmo_cli.tables.summary import (
    Line,
    Mark,
    Section,
    Sheet,
    assign_marks,
    compare,
)

_MARKED = {"best": "**{}**", "second": "<u>{}</u>", "": "{}"}


def format_markdown(sheet: Sheet) -> str:
    """A section for every column of the table, then published values, remarks and commands."""
    parts = [
        f"# {sheet.title}\n",
        *(f"{remark}\n" for remark in (_format_legend(sheet),) if remark),
    ]
    parts += [_format_section(sheet, section) for section in sheet.sections]
    if sheet.published:
        parts.append(_format_published(sheet))
    if sheet.claims:
        parts.append(_format_claims(sheet))
    parts += [f"{remark}\n" for remark in sheet.remarks]
    listing = "\n".join(f"    {command}" for command in sheet.commands)
    return "\n".join([*parts, f"Every cell is one run:\n\n{listing}\n"])


def _format_legend(sheet: Sheet) -> str:
    count = len(sheet.seeds)
    sentences = (
        [f"Mean and 95 % interval (Student t) over {count} seeds; without one: a single run."]
        if count > 1
        else []
    )
    sentences += ["Best value **bold**, second <u>underlined</u>."] if sheet.best else []
    sentences += [note for note in (sheet.training_note, sheet.difference_note) if note]
    return " ".join(sentences)


def _format_section(sheet: Sheet, section: Section) -> str:
    scores = section.scores(sheet.scores)
    marked = {
        score: assign_marks(section, score, layout, sheet.best[score])
        for score, layout in scores.items()
        if score in sheet.best
    }
    rows = [
        [
            line.name,
            *(
                format_cell(line, score, layout, marked[score][i] if marked.get(score) else "")
                for score, layout in scores.items()
            ),
            line.verdict,
            line.chosen,
            line.failed,
        ]
        for i, line in enumerate(section.lines)
    ]
    header = ["", *scores, "certificate", "chosen by validation", "failed because"]
    kept = [i for i in range(len(header)) if i <= len(scores) or any(row[i] for row in rows)]
    table = markdown([header[i] for i in kept], [[row[i] for i in kept] for row in rows])
    remarks = [*_format_protocols(section), *section.remarks, *_format_flags(section)]
    return "\n\n".join([f"## {section.name}", table, *remarks]) + "\n"


def format_cell(line: Line, score: str, layout: str, mark: Mark) -> str:
    """The mean over the seeds with its mark, and for several seeds the 95 % interval."""
    values = line.values.get(score, ())
    if not values:
        return "-"
    mean, interval = mean_and_interval(values)
    width = layout.removeprefix("+")
    text = _MARKED[mark].format(format(mean, layout))
    spread = "" if interval is None else f"± {format(interval, width)}"
    return " ".join(filter(None, (text, spread, line.missing_runs_note(score))))


def _format_protocols(section: Section) -> list[str]:
    protocols = section.protocols
    if len(protocols) < 2:
        return [f"Protocol: {protocol}." for protocol in protocols]
    listed = "\n".join(f"- {', '.join(names)}: {text}" for text, names in protocols.items())
    return [f"**The protocols differ: these rows do not compare.**\n\n{listed}"]


def _format_flags(section: Section) -> list[str]:
    """One remark for each line whose runs remark something."""
    listed = [f"- {line.name}: {'; '.join(line.flags)}" for line in section.lines if line.flags]
    return ["Remarks of the runs:\n\n" + "\n".join(listed)] if listed else []


def _format_published(sheet: Sheet) -> str:
    rows = [
        [
            *(c.entry.row, c.entry.column, c.entry.score, c.ours, c.published, c.difference),
            *(c.verdict, c.protocol, c.entry.source),
        ]
        for c in compare(sheet)
    ]
    header = ["", "column", "score", "ours", "published", "difference", "verdict", "protocol"]
    return f"## Published values\n\n{markdown([*header, 'source'], rows)}\n"


def _format_claims(sheet: Sheet) -> str:
    rows = [
        [j.claim.text, j.claim.column, describe_score(j.claim), j.ours, j.claim.reading, j.verdict]
        for j in sheet.claims
    ]
    header = ["claim", "column", "score", "ours", "published", "verdict"]
    return f"## Claims\n\n{markdown(header, rows)}\n"
