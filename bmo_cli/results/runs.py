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

from bmo_cli.errors import Busy, InputError, nearest, printable
from bmo_cli.results.run_folder import RunFolder

COLUMNS = ("run", "status", "task", "gkm", "net", "hyper", "seed", "steps", "score", "age")
USAGE = f"""bmo runs: the runs below a folder (outputs by default), the oldest first

usage: bmo runs [DIR ...] [COLUMN=VALUE[,VALUE ...] ...] [--csv]

columns: {", ".join(COLUMNS)}
status is ok, running, interrupted, failed, damaged, or killed (it says that it runs, and no
process does); interrupted and killed runs go on with bmo train resume=RUN.
--csv prints all metrics and the message as well."""


@dataclass(frozen=True)
class Run:
    """A folder with a result.json.

    Attributes:
        name: of the folder, relative to where one stands if it is below.
        result: its content; of a damaged one status and message alone.
        age: seconds since it was written.
    """

    name: str
    result: Mapping[str, Any]
    age: float

    def shown(self, column: str) -> str:
        """A cell of the list; empty where the run has no such thing."""
        if column == "run":
            value: Any = self.name
        elif column == "age":
            value = _since(self.age)
        elif column == "score":
            value = _score(self.result.get("metrics"))
        else:
            value = self.result.get(column)
        return "" if value is None else printable(str(value))


def list_runs(words: Sequence[str]) -> str:
    """What `bmo runs` prints.

    Args:
        words: folders, COLUMN=VALUE filters, --csv.

    Raises:
        InputError: no such folder, column or flag.
    """
    if "--help" in words or "-h" in words:
        return USAGE
    flags = [word for word in words if word.startswith("-")]
    if set(flags) - {"--csv"}:
        raise InputError(f"bmo runs has no {flags[0]}; its flags are --csv and --help")
    filters = [word.partition("=") for word in words if "=" in word]
    for column, _, _ in filters:
        if column not in COLUMNS:
            known = f"; columns: {', '.join(COLUMNS)}"
            raise InputError(f"no column '{column}'{nearest(column, COLUMNS) or known}")
    roots = [Path(word) for word in words if word not in flags and "=" not in word]
    for root in roots:
        if not root.is_dir():
            raise InputError(f"no folder {root}; name one that holds runs, as outputs")
    found = [
        run
        for run in find_runs(roots or [Path("outputs")])
        if all(run.shown(column) in values.split(",") for column, _, values in filters)
    ]
    if "--csv" in flags:
        return _csv(found)
    if not found:
        return "no runs"
    lines = [COLUMNS, *([run.shown(column) for column in COLUMNS] for run in found)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ((c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)


def find_runs(roots: Sequence[Path]) -> list[Run]:
    """The runs in or below some folders, the oldest first."""
    files = {file.absolute(): file for root in roots for file in _results(root)}
    found = [_read(file) for file in files.values()]
    return sorted(found, key=lambda run: -run.age)


def _results(root: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(root):  # which follows no links
        if "result.json" in files:
            yield Path(folder) / "result.json"
            below.clear()  # a run holds no runs
        below.sort()


def _read(file: Path) -> Run:
    folder = RunFolder(file.parent)
    try:
        result = folder.read_result()
    except InputError as error:
        result = {"status": "damaged", "message": str(error)}
    if result.get("status") == "running" and not _is_claimed(folder):
        result["status"] = "killed"
    age = max(0.0, time.time() - file.stat().st_mtime)  # clocks jump
    return Run(os.path.relpath(file.parent), result, age)


def _is_claimed(folder: RunFolder) -> bool:
    try:
        with folder.claimed(clean=False):
            return False
    except (Busy, OSError):
        return True


def _score(metrics: object) -> str:
    """The first score of the test split, or of validation."""
    if not isinstance(metrics, Mapping):
        return ""
    for start in ("test/", "val/"):
        for name, value in metrics.items():
            if str(name).startswith(start) and isinstance(value, int | float):
                return f"{name}={value:.4g}"
    return ""


def _since(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _csv(runs: Sequence[Run]) -> str:
    measured = [run.result.get("metrics") for run in runs]
    metrics = [dict(found) if isinstance(found, Mapping) else {} for found in measured]
    names = sorted({name for found in metrics for name in found})
    plain = [column for column in COLUMNS if column not in ("score", "age")]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*plain, "age_seconds", *names, "message"])
    for run, found in zip(runs, metrics, strict=True):
        cells = [run.shown(column) for column in plain]
        scores = ["" if found.get(name) is None else found[name] for name in names]
        writer.writerow([*cells, f"{run.age:.0f}", *scores, run.result.get("message", "")])
    return stream.getvalue().rstrip("\n")
