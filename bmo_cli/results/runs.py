"""`bmo runs`: the runs below a folder, a line each. Nothing here imports torch."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from bmo_cli.config.names import read_recorded_choices
from bmo_cli.config.paths import expand_home
from bmo_cli.errors import InputError, escape_unprintable, suggest_nearest
from bmo_cli.results.result import FILE, RunResult
from bmo_cli.results.run_folder import RunFolder
from bmo_cli.results.tables import text_table

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = ("run", "status", "task", "gkm", "net", "hyper", "seed", "steps", "score", "age")
USAGE = f"""bmo runs: the runs below a folder (outputs by default), the oldest first

usage: bmo runs [DIR ...] [COLUMN=VALUE[,VALUE ...] ...] [--csv]

columns: {", ".join(COLUMNS)}
status is ok, starting, running, interrupted, failed, damaged, or killed (it says that it runs, or
nothing yet, and no process does); interrupted and killed runs go on with bmo train resume=RUN.
--csv prints all metrics and the message as well."""


Status = Literal["starting", "running", "ok", "interrupted", "failed", "killed", "damaged"]
"""Status of a run. `starting`: there is no result.json yet. `killed`: there is none, or it says
`running`, and no process works on the run."""

EMPTY = RunResult(status="running")
"""Result of a run that has not written one, and of a damaged one."""

_START_UP = 60.0
"""Seconds until a run has its first result.json; a run without one was killed."""


@dataclass(frozen=True)
class Run:
    """A folder with a result.json, or with `.hydra` of a run that did not get that far.

    Attributes:
        path: the folder.
        status: present status.
        result: values of result.json that have the expected type. `EMPTY` but for the recorded
            choices where there is no result.json, or a damaged one.
        age: seconds since result.json was written.
        message: why the run failed, stopped or was killed, or what is damaged.
    """

    path: Path
    status: Status
    result: RunResult
    age: float
    message: str = ""

    @property
    def name(self) -> str:
        """Path of the folder, relative to the present one if it lies below."""
        relative = os.path.relpath(self.path)
        return str(self.path.resolve()) if relative.startswith("..") else relative

    def cell(self, column: str) -> str:
        """A cell of the list; empty where the run has no such value."""
        cells: Mapping[str, object] = {
            "run": self.name,
            "status": self.status,
            **self.result.choices,
            "seed": self.result.seed,
            "steps": self.result.steps,
            "score": _score(self.result.metrics),
            "age": format_age(self.age),
        }
        value = cells.get(column)
        return "" if value is None else escape_unprintable(str(value))


@dataclass(frozen=True)
class Selection:
    """Parsed command line of a command about runs.

    Attributes:
        runs: the runs below the folders that pass the filters, the oldest first.
        flags: the given flags.
        values: values of the command's own keys.
        roots: the folders.
    """

    runs: Sequence[Run]
    flags: frozenset[str]
    values: Mapping[str, str]
    roots: Sequence[Path]


def select(
    words: Sequence[str], command: str, flags: Sequence[str] = (), keys: Sequence[str] = ()
) -> Selection:
    """Parse folders, COLUMN=VALUE filters, flags and KEY=VALUE words of a command about runs.

    Args:
        words: words of the command line.
        command: name of the command for messages.
        flags: flags of the command.
        keys: keys of the command in addition to the columns.

    Raises:
        InputError: no such folder, column or flag.
    """
    given, filters, values, roots = set[str](), [], dict[str, str](), list[Path]()
    for word in words:
        folder = Path(expand_home(word))
        key, equals, value = word.partition("=")
        if word in flags:
            given.add(word)
        elif _is_folder(folder) and word:  # also one whose name looks like something else
            roots.append(folder)
        elif key in keys and equals:
            values[key] = value
        elif key in COLUMNS and equals:
            filters.append((key, value.split(",")))
            if key == "status":
                _require_status(filters[-1][1])
        else:
            raise InputError(_mistake(word, command, flags, [*keys, *COLUMNS]))
    roots = roots or [Path("outputs")]
    runs = [
        run
        for run in find_runs(roots)
        if all(run.cell(column) in wanted for column, wanted in filters)
    ]
    return Selection(runs, frozenset(given), values, roots)


def _require_status(values: Sequence[str]) -> None:
    """Refuse a status that no run can have."""
    known = get_args(Status)
    for value in values:
        if value not in known:
            hint = suggest_nearest(value, known) or f"; known: {', '.join(known)}"
            raise InputError(f"no status '{value}'{hint}")


def _mistake(word: str, command: str, flags: Sequence[str], keys: Sequence[str]) -> str:
    """Error message for a word that is no folder, flag or key."""
    key, equals, _ = word.partition("=")
    if word.startswith("-"):
        return f"bmo {command} has no {word}; its flags are {', '.join(flags)} and --help"
    if not equals or "/" in key:
        return f"no folder {word or repr(word)}; name one that holds runs, as outputs"
    hint = suggest_nearest(key, keys) or f"; columns: {', '.join(COLUMNS)}"
    return f"no column '{key}'{hint} (and no folder {word})"


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long
        return False


def list_runs(words: Sequence[str]) -> str:
    """The output of `bmo runs`.

    Args:
        words: folders, COLUMN=VALUE filters, --csv.

    Raises:
        InputError: no such folder, column or flag.
    """
    selection = select(words, "runs", ("--csv",))
    if "--csv" in selection.flags:
        text: str = _frame(selection.runs).to_csv(index=False, lineterminator="\n")
        return text.rstrip("\n")
    if not selection.runs:
        return "no runs"
    lines = [COLUMNS, *([run.cell(column) for column in COLUMNS] for run in selection.runs)]
    return text_table(lines, left=len(COLUMNS))


def find_runs(roots: Sequence[Path]) -> list[Run]:
    """The runs in or below some folders, the oldest first."""
    folders = {folder.absolute(): folder for root in roots for folder in _folders(root)}
    now = time.time()
    return sorted((_read(folder, now) for folder in folders.values()), key=lambda run: -run.age)


def _folders(root: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(root):  # which follows no links
        if "result.json" in files:
            yield Path(folder)
            below.clear()  # a run holds no runs
        elif ".hydra" in below:
            yield Path(folder)
            below[:] = [name for name in below if name != "earlier"]  # attempts of this run
        below.sort()


def _read(path: Path, now: float) -> Run:
    file = path / FILE
    try:
        result = RunResult.read_tolerantly(path)
    except InputError as error:
        return Run(path, "damaged", EMPTY, _age(file, now) or 0.0, str(error))
    age = _age(file, now)
    if result is None or age is None:
        if file.is_symlink():
            return Run(path, "damaged", EMPTY, 0.0, f"{file} cannot be read")
        return _without_result(path, now)
    killed = result.status == "running" and not RunFolder(path).is_claimed()
    return Run(path, "killed" if killed else result.status, result, age, result.message)


def _without_result(path: Path, now: float) -> Run:
    """A run that has written (part of) its configuration, but no result."""
    hydra = path / ".hydra"
    age = _age(hydra / "config.yaml", now) or _age(hydra, now) or 0.0
    result = replace(EMPTY, choices=read_recorded_choices(path))
    if age < _START_UP or RunFolder(path).is_claimed():
        return Run(path, "starting", result, age)
    message = _EARLY if (hydra / "overrides.yaml").is_file() else _EARLIEST
    return Run(path, "killed", result, age, message)


_EARLY = "it was killed before its first result.json"
_EARLIEST = "it was killed before its configuration was whole: start it with its command once more"


def _age(file: Path, now: float) -> float | None:
    try:
        return max(0.0, now - file.stat().st_mtime)  # clocks jump
    except OSError:
        return None


def _score(metrics: Mapping[str, float | None]) -> str:
    """The first score of the test split, or else of validation. Integers are counts, not scores."""
    for split in ("test/", "val/"):
        for name, value in metrics.items():
            if name.startswith(split) and isinstance(value, float):
                return f"{name}={value:.4g}"
    return ""


def count_runs(count: int) -> str:
    """ "1 run", "2 runs", ..."""
    return "1 run" if count == 1 else f"{count} runs"


def format_age(seconds: float) -> str:
    """An age in the largest unit that it exceeds."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def frame(roots: Sequence[Path]) -> DataFrame:
    """The runs in or below some folders as a table, a row a run, the oldest first.

    Returns:
        Columns: run, status, task, gkm, net, hyper, seed, steps, age_seconds, every metric,
        message, and the keys of the configuration whose values differ. Control characters in text
        are visible.
    """
    runs = find_runs(roots)
    table = _frame(runs)
    configs = [_settings(run.path) for run in runs]
    for key in dict.fromkeys(key for config in configs for key in config):
        values = [_visible(config.get(key)) for config in configs]
        if key not in table and any(value != values[0] for value in values):
            table[escape_unprintable(key)] = values
    return table.infer_objects()


def _settings(path: Path) -> dict[str, Any]:
    """The configuration of a run by dotted key; empty where it cannot be read."""
    from bmo_cli.config.snapshot import read_raw_snapshot

    with contextlib.suppress(InputError):
        return dict(leaves(read_raw_snapshot(path)))
    return {}


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a nested configuration."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _frame(runs: Sequence[Run]) -> DataFrame:
    import pandas

    metrics = sorted({name for run in runs for name in run.result.metrics})
    groups = ("task", "gkm", "net", "hyper")
    rows = [
        [
            *(run.name, run.status),
            *(run.result.choices.get(group) for group in groups),
            *(run.result.seed, run.result.steps, round(run.age)),
            *(run.result.metrics.get(name) for name in metrics),
            run.message,
        ]
        for run in runs
    ]
    columns = ["run", "status", *groups, "seed", "steps", "age_seconds", *metrics, "message"]
    cells = [list(map(_visible, row)) for row in rows]
    return pandas.DataFrame(cells, columns=list(map(escape_unprintable, columns)), dtype=object)


def _visible(value: Any) -> Any:
    return escape_unprintable(value) if isinstance(value, str) else value
