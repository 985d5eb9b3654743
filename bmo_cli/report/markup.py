"""The few pieces of HTML that the page is made of; text from a run goes through `escaped`."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bmo_cli.errors import printable


def escaped(text: object) -> str:
    """Text as the page shows it literally, control characters visible."""
    return escape(printable(str(text)))


def tag(name: str, content: str, kind: str = "", **attributes: str) -> str:
    """An element.

    Args:
        name: of the element.
        content: HTML.
        kind: its class.
        attributes: values are escaped; `data_run` becomes data-run.
    """
    given = {"class": kind, **attributes} if kind else attributes
    text = "".join(f' {k.replace("_", "-")}="{escaped(v)}"' for k, v in given.items())
    return f"<{name}{text}>{content}</{name}>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, sortable: bool = False) -> str:
    """A table whose cells are HTML; it scrolls in itself where the screen is narrow.

    Args:
        header: texts.
        rows: cells of HTML, or whole `<td ...>` elements.
        sortable: whether a click on a title sorts it.
    """
    names = [escaped(title) for title in header]
    if sortable:
        names = [f"<button type=button>{name}</button>" if name else "" for name in names]
    first = [*(rows[0] if rows else ()), *([""] * len(names))]
    kinds = [' class="number"' if c.startswith('<td class="number"') else "" for c in first]
    titles = [f"<th scope=col{k}>{name}</th>" for k, name in zip(kinds, names, strict=False)]
    lines = [
        "<tr>" + "".join(c if c.startswith("<td") else f"<td>{c}</td>" for c in row) + "</tr>"
        for row in rows
    ]
    kind = ' class="sortable"' if sortable else ""
    return (
        f'<div class="scroll" tabindex="0"><table{kind}><thead><tr>{"".join(titles)}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def cell(content: str, kind: str = "", *, sort: float | None = None) -> str:
    """A cell with a class, and the number that it is sorted by."""
    attributes = f' class="{kind}"' if kind else ""
    attributes += "" if sort is None else f' data-sort="{sort!r}"'
    return f"<td{attributes}>{content}</td>"


def badge(kind: str, text: str) -> str:
    """A verdict: good, bad, unsure or none, always in words as well."""
    return tag("span", escaped(text), f"badge {kind}")
