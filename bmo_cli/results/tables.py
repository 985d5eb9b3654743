"""Tables as plain text, Markdown, LaTeX (booktabs) and CSV."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$",
    "#": r"\#", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$", "\N{MINUS SIGN}": "$-$",
}  # fmt: skip


def text_table(cells: Sequence[Sequence[str]], left: int = 1) -> str:
    """Align cells in columns.

    Args:
        cells: rows of equal length.
        left: number of left-aligned columns; the others are right-aligned.
    """
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; bars inside cells are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |"
        for line in lines
    )


def comma_separated(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Content of a CSV file."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue()


def latex_escaped(text: str) -> str:
    """Escape text for LaTeX. A hyphen before a number becomes a minus sign."""
    escaped = "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
    return re.sub(r"^-(?=\d)", "$-$", escaped)


def booktabs(
    columns: str,
    headers: Sequence[Sequence[str]],
    rows: Sequence[Sequence[str]],
    *,
    caption: str,
    label: str,
    rules: str = "",
    notes: Sequence[str] = (),
) -> str:
    """A LaTeX table float in the style of the package booktabs.

    Args:
        columns: specification, as `lrr`.
        headers: lines above the middle rule, of LaTeX cells.
        rows: lines below it, of LaTeX cells.
        caption: LaTeX text.
        label: for references.
        rules: `\\cmidrule` commands after the first header line.
        notes: LaTeX text below the table, a paragraph each.
    """
    shown = [" & ".join(line) + r" \\" for line in headers]
    if rules:
        shown.insert(1, rules)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\label{{{label}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            *shown,
            r"\midrule",
            *(" & ".join(line) + r" \\" for line in rows),
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\raggedright\footnotesize {note}" for note in notes),
            r"\end{table}",
            "",
        ]
    )


def score_table(rows: Mapping[str, Mapping[str, float]], columns: Mapping[str, str]) -> str:
    """A text table: row names, then a column for every key with its format."""
    keys = [key for key in columns if any(key in row for row in rows.values())]
    cells = [["", *keys]]
    for name, row in rows.items():
        cells.append([name, *(format(row.get(key, math.nan), columns[key]) for key in keys)])
    return text_table(cells)
