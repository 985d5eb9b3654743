"""`bmo report`: one HTML page about runs that opens from disk and loads nothing from a host.

The Content-Security-Policy of the page allows its own script and style by their hashes, and
embedded pictures. Text from runs is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from markupsafe import Markup

from bmo_cli import __version__
from bmo_cli.config.paths import expand_home
from bmo_cli.errors import InputError
from bmo_cli.report.comparison import problems
from bmo_cli.report.entry import Entry, with_certificates
from bmo_cli.report.exclusions import exclusion_lines
from bmo_cli.report.pictures import Album, collect
from bmo_cli.report.problem import Problem
from bmo_cli.report.render import render
from bmo_cli.report.sections import sections
from bmo_cli.report.summary import training_entries
from bmo_cli.report.verdict import verdict
from bmo_cli.results.files import write_atomically
from bmo_cli.results.runs import count_runs, select

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
        The path of the page, and the remarks.

    Raises:
        InputError: no runs, or the file cannot be written.
    """
    selection = select(words, "report", ("--force",), ("output", "title"))
    roots = selection.roots
    given = selection.values.get("output")
    if given == "":
        raise InputError("output is empty; name a file, as output=report.html")
    file = (
        Path(expand_home(given))
        if given
        else (roots[0] if len(roots) == 1 else Path()) / "report.html"
    )
    entries = with_certificates(training_entries(selection.runs), selection.runs)
    _require_place(file, force="--force" in selection.flags)
    shown = {run.path for entry in entries for run in entry.certificates}
    remarks = exclusion_lines([run for run in selection.runs if run.path not in shown])
    content = page(entries, selection.values.get("title", ""), remarks).encode()
    try:
        write_atomically(file, content)
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror or error}") from error
    return "\n".join([f"{file}: {count_runs(len(entries))}, {len(content) / 1e6:.1f} MB", *remarks])


def page(entries: Sequence[Entry], title: str = "", remarks: Sequence[str] = ()) -> str:
    """The whole page.

    Args:
        entries: runs of `bmo train`.
        title: title of the page.
        remarks: lines about results that the page leaves out.
    """
    shown, first = [], 0
    for members in problems(entries):
        shown.append(Problem(members, first))
        first += len(members)
    albums = [collect(problem.finished_runs) for problem in shown]
    style, script = (Markup((_HERE / name).read_text()) for name in ("page.css", "page.js"))
    finished = sum(entry.is_finished for entry in entries)
    when = datetime.now().strftime("%Y-%m-%d %H:%M")
    html = render(
        "page.html",
        mark=Markup(_MARK),
        style=style,
        script=script,
        hashes={"style": _hash(style), "script": _hash(script)},
        heading=title or " · ".join(dict.fromkeys(problem.title for problem in shown)),
        state=f"{count_runs(len(entries))}, {finished} finished · bmo {__version__} · {when}",
        remarks=remarks,
        problems=[
            _part(problem, album, number)
            for number, (problem, album) in enumerate(zip(shown, albums, strict=True))
        ],
        albums=[_content(album) for album in albums],
    )
    return f"{html}\n"


def _part(problem: Problem, album: Album, number: int) -> dict[str, object]:
    protocol = next((e.run.result.protocol for e in problem.entries if e.is_finished), None)
    return {
        "verdict": verdict(problem),
        "title": f"{problem.title}: {count_runs(len(problem.entries))}",
        "protocol": protocol or "",
        "sections": sections(problem, album, number),
    }


def _content(album: Album) -> dict[str, object]:
    """Convert an album to the JSON that page.js reads."""
    cases = [
        {"name": case, "pictures": [asdict(picture) for picture in pictures]}
        for case, pictures in album.cases.items()
    ]
    return {"data": album.data, "cases": cases}


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
