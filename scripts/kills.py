"""Kill one training run at random moments, resume it until it ends, compare it with a whole one.

.venv/bin/python scripts/kills.py OUT [--kills 30] [--seed 0]: two run folders in OUT, a line a
kill, and exit code 0 if the weights and the history (time aside) are those of the run that nobody
killed, no file is damaged, and no kill cost more than one interval between checkpoints.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
import time
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file

EVERY = 5
_STARTING = 6.0
"""Seconds in which a killed run has not begun to train."""
SETTINGS = [
    *("debug=tiny", "device=cpu", "data.crop=32", "net.width=8", "net.depth=3"),
    *(f"train.validate_every={EVERY}", "train.log_every=1", "data.eval_crop=64"),
]


def main() -> int:
    """Run, kill, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    whole, killed = given.out / "whole", given.out / "killed"
    words = [*SETTINGS, f"train.steps={given.steps}"]
    start = time.monotonic()
    _bmo([*words, f"hydra.run.dir={whole}"]).wait()
    seconds, generator = time.monotonic() - start, random.Random(given.seed)
    fresh, lost = [*words, f"hydra.run.dir={killed}"], []
    for number in range(1, given.kills + 1):
        process = _bmo(_words(killed, fresh))
        time.sleep(generator.uniform(0, _STARTING + 1.2 * seconds / given.kills))
        process.kill()
        if process.wait() != -9:
            print(f"the run ended before kill {number}; take more --steps")
            return 1
        done, saved = _last_row(killed), _saved(killed)
        lost.append(done - saved)
        print(f"kill {number}: {done} steps in the history, checkpoint of step {saved}", flush=True)
    while _bmo(_words(killed, fresh)).wait() != 0:
        print("the run did not go on")
        return 1
    return _compared(whole, killed, lost)


def _bmo(words: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "bmo_cli", "train", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def _words(run: Path, fresh: list[str]) -> list[str]:
    """What starts the run again: nothing has begun where there is no configuration yet."""
    if (run / ".hydra" / "overrides.yaml").is_file():
        return [f"resume={run}"]
    if run.exists():  # killed between the folder and the configuration
        for file in sorted(run.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        run.rmdir()
    return fresh


def _rows(run: Path) -> list[dict[str, str]]:
    file = run / "history.csv"
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(stream)]


def _last_row(run: Path) -> int:
    rows = _rows(run)
    return int(rows[-1]["step"]) if rows else 0


def _saved(run: Path) -> int:
    """Step of the last checkpoint; 0: there is none."""
    file = run / "checkpoints" / "last.safetensors"
    if not file.is_file():
        return 0
    with safe_open(file, "pt") as archive:
        return int(json.loads(archive.metadata()["progress"])["step"])


def _compared(whole: Path, killed: Path, lost: list[int]) -> int:
    names = ("best.safetensors", "last.safetensors")
    pairs = [[load_file(run / "checkpoints" / name) for run in (whole, killed)] for name in names]
    checks = {
        "weights and optimiser equal, bit for bit": all(
            a.keys() == b.keys() and all(bool((a[key] == b[key]).all()) for key in a)
            for a, b in pairs
        ),
        "history equal, time aside": _rows(whole) == _rows(killed),
        "scores equal": _scores(whole) == _scores(killed),
        f"at most {EVERY} steps lost a kill": max(lost, default=0) <= EVERY,
        "no stray file": not [*killed.rglob(".*.safetensors*"), *killed.rglob(".*.json.*")],
    }
    for name, good in checks.items():
        print(f"{'yes' if good else 'NO '}  {name}")
    steps = f"{len(lost)} kills, {sum(lost)} steps lost in all, {max(lost, default=0)} at most"
    print(f"{steps}; {len(_rows(whole))} rows of history")
    return 0 if all(checks.values()) else 1


def _scores(run: Path) -> dict[str, float]:
    metrics = json.loads((run / "result.json").read_text(encoding="utf-8"))["metrics"]
    return {name: value for name, value in metrics.items() if not name.endswith("seconds")}


if __name__ == "__main__":
    sys.exit(main())
