"""A small run and a small table for scripts that disturb them, and whether two are equal."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file

EVERY = 5
"""steps between two checkpoints"""
STARTING = 6.0
"""seconds in which a run has not begun to train"""
RUN = [
    *(
        "train",
        "debug=tiny",
        "device=cpu",
        "data.crop=32",
        "net=dncnn",
        "hyper=bmo",
        "net.width=8",
        "net.depth=3",
    ),
    *(f"train.validate_every={EVERY}", "train.log_every=1", "data.eval_crop=64"),
]
NAMES = ("task", "method", "gkm", "net", "hyper", "seed", "status")
"""entries of result.json that say what a run is"""
EARLY: dict[str, Callable[[Path], bool]] = {
    "before result.json": lambda run: (
        (run / ".hydra" / "config.yaml").is_file() and not (run / "result.json").is_file()
    ),
    "before the first checkpoint": lambda run: (
        (run / "result.json").is_file() and not saved_step(run)
    ),
}
"""Moments of a run that starts, and how a folder shows that one of them is now."""
TABLE = ["table", "toy", "preset=smoke", "jobs=2"]


def start(words: list[str]) -> subprocess.Popen[bytes]:
    """`bmo` in a process group of its own; what it says as an error can be read."""
    return subprocess.Popen(
        [sys.executable, "-m", "bmo_cli", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finish(words: list[str]) -> bool:
    """Run `bmo`; whether it ended well."""
    process = start(words)
    said = process.communicate()[1].decode()
    if process.returncode != 0:
        print(f"exit code {process.returncode}: {said[-500:]}")
    return process.returncode == 0


def listed(run: Path) -> tuple[bool, str]:
    """Whether `bmo runs` lists a killed run that has something in its folder, and its line."""
    done = subprocess.run(
        [sys.executable, "-m", "bmo_cli", "runs", str(run.parent)], capture_output=True, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.split()[0].endswith(run.name)]
    state = " ".join(lines[0].split()[1:6]) if lines else "not listed"
    if not run.exists() or not any(run.iterdir()):
        return True, f"{state}, its folder is {'empty' if run.exists() else 'not there'}"
    good = bool(lines) and lines[0].split()[1] in ("starting", "killed", "ok")
    return good or check(f"{run} is listed", False), state


def same_names(whole: Path, other: Path) -> bool:
    """Compare what two runs say that they are."""
    found = [
        json.loads((run / "result.json").read_text(encoding="utf-8")) for run in (whole, other)
    ]
    names = [{name: one.get(name) for name in NAMES} for one in found]
    return check(
        f"names equal: {', '.join(str(v) for v in names[1].values())}", names[0] == names[1]
    )


def words_again(run: Path, fresh: list[str]) -> list[str]:
    """What starts a run again: nothing has begun where there is no configuration yet."""
    overrides = run / ".hydra" / "overrides.yaml"
    if overrides.is_file() and overrides.stat().st_size:
        return ["train", f"resume={run}"]
    if run.exists():  # stopped between the folder and the configuration
        for file in sorted(run.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        run.rmdir()
    return fresh


def rows(run: Path) -> list[dict[str, str]]:
    """Rows of the history, without their times."""
    file = run / "history.csv"
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        return [_timeless(row) for row in csv.DictReader(stream)]


def last_row(run: Path) -> int:
    """Step of the last row; 0: there is none."""
    found = rows(run)
    return int(found[-1]["step"]) if found else 0


def saved_step(run: Path) -> int:
    """Step of the last checkpoint; 0: there is none."""
    file = run / "checkpoints" / "last.safetensors"
    if not file.is_file():
        return 0
    with safe_open(file, "pt") as archive:
        return int(json.loads(archive.metadata()["progress"])["step"])


def same_run(whole: Path, other: Path) -> bool:
    """Compare a disturbed run with a whole one, a line a check."""
    names = ("best.safetensors", "last.safetensors")
    pairs = [[load_file(run / "checkpoints" / name) for run in (whole, other)] for name in names]
    equal = all(
        a.keys() == b.keys() and all(bool((a[key] == b[key]).all()) for key in a) for a, b in pairs
    )
    good = check("weights and optimiser equal, bit for bit", equal)
    good &= check(
        f"{len(rows(whole))} rows of history equal, time aside", rows(whole) == rows(other)
    )
    good &= check("scores equal", _scores(whole) == _scores(other))
    return good & check("no stray file", not stray_files(other))


def same_table(whole: Path, other: Path) -> bool:
    """Compare a disturbed table with a whole one, a line a check."""
    good = check("the table's values equal, time aside", _cells(whole) == _cells(other))
    return good & check("no stray file", not stray_files(other))


def stray_files(folder: Path) -> list[Path]:
    """What a writer left that was stopped."""
    kinds = ("safetensors", "json", "csv", "md", "tex", "png", "yaml")
    return [file for kind in kinds for file in folder.rglob(f".*.{kind}*")]


def check(text: str, good: bool) -> bool:
    """Print a line; whether it is good."""
    print(f"{'yes' if good else 'NO '}  {text}", flush=True)
    return good


def _scores(run: Path) -> dict[str, float]:
    return _timeless(json.loads((run / "result.json").read_text(encoding="utf-8"))["metrics"])


def _cells(out: Path) -> list[dict[str, str]]:
    with (out / "toy-smoke.csv").open(newline="", encoding="utf-8") as stream:
        return [_timeless(row) for row in csv.DictReader(stream)]


def _timeless(row: dict) -> dict:
    return {key: value for key, value in row.items() if "seconds" not in key}
