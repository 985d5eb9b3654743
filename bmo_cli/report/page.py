"""`bmo report`: one HTML page about runs that opens from disk and asks no host for anything.

The page's policy (Content-Security-Policy) allows its own script and style alone, by their hashes,
and pictures that it holds itself. Whatever comes from a run is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from bmo_cli import __version__
from bmo_cli.config.paths import at_home
from bmo_cli.errors import InputError
from bmo_cli.report.comparison import problems
from bmo_cli.report.entry import Entry, with_certificates
from bmo_cli.report.left_out import left_out
from bmo_cli.report.markup import escaped, tag
from bmo_cli.report.pictures import Album, collect
from bmo_cli.report.problem import Problem
from bmo_cli.report.sections import sections
from bmo_cli.report.summary import trained
from bmo_cli.report.verdict import verdict
from bmo_cli.results.files import write_atomically
from bmo_cli.results.runs import counted, select

USAGE = """bmo report: one HTML page about runs: which is best, did it converge, curves, images

usage: bmo report [DIR ...] [COLUMN=VALUE[,VALUE ...] ...] [output=FILE] [title=TEXT] [--force]

output   by default report.html in DIR, or in the present folder where there are several
--force  replace a file that is not a report

The page holds all it shows, and opens from disk. Filters as in bmo runs."""

_MARK = "<!-- bmo report -->"
_HERE = Path(__file__).parent


def write_report(words: Sequence[str]) -> str:
    """Write the page.

    Args:
        words: folders, filters and keys as in `USAGE`.

    Returns:
        A line that says where it is.

    Raises:
        InputError: no runs, or the file cannot be written.
    """
    selection = select(words, "report", ("--force",), ("output", "title"))
    roots = selection.roots
    given = selection.values.get("output")
    if given == "":
        raise InputError("output is empty; name a file, as output=report.html")
    file = (
        Path(at_home(given)) if given else (roots[0] if len(roots) == 1 else Path()) / "report.html"
    )
    entries = with_certificates(trained(selection.runs), selection.runs)
    _require_place(file, force="--force" in selection.flags)
    shown = {run.path for entry in entries for run in entry.certificates}
    remarks = left_out([run for run in selection.runs if run.path not in shown])
    content = page(entries, selection.values.get("title", ""), remarks).encode()
    try:
        write_atomically(file, content)
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror or error}") from error
    return "\n".join([f"{file}: {counted(len(entries))}, {len(content) / 1e6:.1f} MB", *remarks])


def page(entries: Sequence[Entry], title: str = "", remarks: Sequence[str] = ()) -> str:
    """The whole page.

    Args:
        entries: runs that `bmo train` made.
        title: of the page.
        remarks: on results that are not on it.
    """
    found, first = [], 0
    for members in problems(entries):
        found.append(Problem(members, first))
        first += len(members)
    albums = [collect(problem.ranked_labels) for problem in found]
    style, script = ((_HERE / name).read_text() for name in ("page.css", "page.js"))
    done = sum(entry.finished for entry in entries)
    state = f"{counted(len(entries))}, {done} finished"
    heading = title or " · ".join(dict.fromkeys(problem.title for problem in found))
    when = datetime.now().strftime("%Y-%m-%d %H:%M")
    body = [
        '<header class="top"><div>',
        tag("h1", escaped(heading)),
        tag("p", escaped(f"{state} · bmo {__version__} · {when}"), "quiet"),
        *(tag("p", escaped(remark), "quiet") for remark in remarks),
        '</div><button id="theme" type="button">dark / light</button></header><main>',
        *(tag("section", verdict(problem), "verdict") for problem in found),
        *(
            tag("section", sections(problem, album, number), "problem")
            for number, (problem, album) in enumerate(zip(found, albums, strict=True))
        ),
        "</main>",
        _data(albums),
    ]
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; "
        f"script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    head = [
        f"<!doctype html>{_MARK}",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<title>{escaped(heading)}</title><link rel="icon" href="data:,">',
        f"<style>{style}</style></head><body>",
    ]
    return "\n".join([*head, *body, f"<script>{script}</script></body></html>\n"])


def _data(albums: Sequence[Album]) -> str:
    """The pictures as JSON that no content can end early."""
    content = [
        {
            "data": album.data,
            "cases": [
                {
                    "name": case,
                    "pictures": [
                        {"name": one.name, "key": one.key, "run": one.run} for one in pictures
                    ],
                }
                for case, pictures in album.cases.items()
            ],
        }
        for album in albums
    ]
    text = json.dumps(content)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="albums">{text}</script>'


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _require_place(file: Path, *, force: bool) -> None:
    if file.is_dir():
        raise InputError(f"output={file} is a folder; name a file in it, as {file / 'report.html'}")
    if not file.absolute().parent.is_dir():
        raise InputError(f"no folder {file.parent}; make it, or choose another output=FILE")
    if file.exists() and not force:
        with file.open("rb") as stream:
            start = stream.read(200)
        if _MARK.encode() not in start:
            raise InputError(f"{file} exists and is no report; choose another output=FILE")
