"""`bmo runs`: the runs below a folder, a line each; nothing here imports torch."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bmo_cli.config.names import recorded_names
from bmo_cli.config.paths import at_home
from bmo_cli.errors import InputError, nearest, printable
from bmo_cli.results.result import RunResult
from bmo_cli.results.run_folder import RunFolder
from bmo_cli.results.tables import text_table

COLUMNS = ("run", "status", "task", "gkm", "net", "hyper", "seed", "steps", "score", "age")
USAGE = f"""bmo runs: the runs below a folder (outputs by default), the oldest first

usage: bmo runs [DIR ...] [COLUMN=VALUE[,VALUE ...] ...] [--csv]

columns: {", ".join(COLUMNS)}
status is ok, starting, running, interrupted, failed, damaged, or killed (it says that it runs, or
nothing yet, and no process does); interrupted and killed runs go on with bmo train resume=RUN.
--csv prints all metrics and the message as well."""


_START_UP = 60.0
"""seconds in which a run writes its first result.json; without one it was killed"""


@dataclass(frozen=True)
class Run:
    """A folder with a result.json, or with `.hydra` of a run that did not get that far.

    Attributes:
        path: of the folder.
        result: its content; of a damaged one status and message alone.
        age: seconds since it was written.
    """

    path: Path
    result: Mapping[str, Any]
    age: float

    @property
    def name(self) -> str:
        """Of the folder, relative to where one stands if it is below."""
        relative = os.path.relpath(self.path)
        return str(self.path.resolve()) if relative.startswith("..") else relative

    def shown(self, column: str) -> str:
        """A cell of the list; empty where the run has no such thing."""
        if column == "run":
            value: Any = self.name
        elif column == "age":
            value = since(self.age)
        elif column == "score":
            value = _score(self.result.get("metrics"))
        else:
            value = self.result.get(column)
        return "" if value is None else printable(str(value))


@dataclass(frozen=True)
class Selection:
    """What a command line about runs asks for.

    Attributes:
        runs: below the folders that it names, those that its filters leave, the oldest first.
        flags: that it has.
        values: of the command's own keys.
        roots: the folders.
    """

    runs: Sequence[Run]
    flags: frozenset[str]
    values: Mapping[str, str]
    roots: Sequence[Path]


def select(
    words: Sequence[str], command: str, flags: Sequence[str] = (), keys: Sequence[str] = ()
) -> Selection:
    """Read the words of a command about runs: folders, COLUMN=VALUE filters, flags, its own keys.

    Args:
        words: of the command line.
        command: for messages.
        flags: that the command has.
        keys: that it has beside the columns, as KEY=VALUE.

    Raises:
        InputError: no such folder, column or flag.
    """
    given, filters, values, roots = set[str](), [], dict[str, str](), list[Path]()
    for word in words:
        folder = Path(at_home(word))
        key, equals, value = word.partition("=")
        if word in flags:
            given.add(word)
        elif _is_folder(folder) and word:  # also one whose name looks like something else
            roots.append(folder)
        elif word.startswith("-"):
            raise InputError(
                f"bmo {command} has no {word}; its flags are {', '.join(flags)} and --help"
            )
        elif key in keys and equals:
            values[key] = value
        elif key in COLUMNS and equals:
            filters.append((key, value.split(",")))
        elif not equals or "/" in key:
            raise InputError(
                f"no folder {word or repr(word)}; name one that holds runs, as outputs"
            )
        else:
            known = f"; columns: {', '.join(COLUMNS)}"
            hint = nearest(key, [*keys, *COLUMNS]) or known
            raise InputError(f"no column '{key}'{hint} (and no folder {word})")
    roots = roots or [Path("outputs")]
    found = [
        run
        for run in find_runs(roots)
        if all(run.shown(column) in wanted for column, wanted in filters)
    ]
    return Selection(found, frozenset(given), values, roots)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long
        return False


def list_runs(words: Sequence[str]) -> str:
    """What `bmo runs` prints.

    Args:
        words: folders, COLUMN=VALUE filters, --csv.

    Raises:
        InputError: no such folder, column or flag.
    """
    selection = select(words, "runs", ("--csv",))
    if "--csv" in selection.flags:
        return _csv(selection.runs)
    if not selection.runs:
        return "no runs"
    lines = [COLUMNS, *([run.shown(column) for column in COLUMNS] for run in selection.runs)]
    return text_table(lines, left=len(COLUMNS))


def find_runs(roots: Sequence[Path]) -> list[Run]:
    """The runs in or below some folders, the oldest first."""
    folders = {folder.absolute(): folder for root in roots for folder in _folders(root)}
    found = [_read(folder) for folder in folders.values()]
    return sorted(found, key=lambda run: -run.age)


def _folders(root: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(root):  # which follows no links
        if "result.json" in files:
            yield Path(folder)
            below.clear()  # a run holds no runs
        elif ".hydra" in below:
            yield Path(folder)
            below[:] = [name for name in below if name != "earlier"]  # attempts of this run
        below.sort()


def _read(path: Path) -> Run:
    folder, file = RunFolder(path), path / "result.json"
    if not file.is_file() and not file.is_symlink():
        return _without_result(folder)
    try:
        read = RunResult.read_tolerantly(path)
        result = {} if read is None else read.content()
    except InputError as error:
        result = {"status": "damaged", "message": str(error)}
    if result.get("status") == "running" and not folder.is_claimed():
        result["status"] = "killed"
    age = _age(file)
    if age is None:  # a link that leads nowhere
        return Run(path, {"status": "damaged", "message": f"{file} cannot be read"}, 0.0)
    return Run(path, result, age)


def _without_result(folder: RunFolder) -> Run:
    """A run that has written its configuration, or part of it, and no result yet."""
    hydra = folder.path / ".hydra"
    whole = (hydra / "overrides.yaml").is_file()
    age = _age(hydra / "config.yaml") or _age(hydra) or 0.0
    starts = folder.is_claimed() or age < _START_UP
    message = _EARLY if whole else _EARLIEST
    status = {"status": "starting"} if starts else {"status": "killed", "message": message}
    return Run(folder.path, {**recorded_names(folder.path), **status}, age)


_EARLY = "it was killed before its first result.json"
_EARLIEST = "it was killed before its configuration was whole: start it with its command once more"


def _age(file: Path) -> float | None:
    try:
        return max(0.0, time.time() - file.stat().st_mtime)  # clocks jump
    except OSError:
        return None


def _score(metrics: object) -> str:
    """The first score of the test split, or of validation."""
    if not isinstance(metrics, Mapping):
        return ""
    for start in ("test/", "val/"):
        for name, value in metrics.items():
            if str(name).startswith(start) and isinstance(value, float):
                return f"{name}={value:.4g}"
    return ""


def counted(count: int) -> str:
    """So many runs, in words."""
    return "1 run" if count == 1 else f"{count} runs"


def since(seconds: float) -> str:
    """An age in its largest unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _csv(runs: Sequence[Run]) -> str:
    measured = [run.result.get("metrics") for run in runs]
    metrics = [dict(found) if isinstance(found, Mapping) else {} for found in measured]
    names = sorted({str(name) for found in metrics for name in found})
    plain = [column for column in COLUMNS if column not in ("score", "age")]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    shown = [printable(str(name)) for name in names]
    writer.writerow([*plain, "age_seconds", *shown, "message"])
    for run, found in zip(runs, metrics, strict=True):
        cells = [run.shown(column) for column in plain]
        scores = ["" if found.get(name) is None else printable(str(found[name])) for name in names]
        message = printable(str(run.result.get("message", "")))
        writer.writerow([*cells, f"{run.age:.0f}", *scores, message])
    return stream.getvalue().rstrip("\n")
