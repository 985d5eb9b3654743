"""Fill the disk under a training run and under a table, make room, go on, compare with whole ones.

stress/disk_full.py OUT [--rounds 10] [--seed 0]: as root (it mounts a small tmpfs in OUT), a line
a round, and exit code 0 if every full disk was told in one line with its own exit code, left the
checkpoint before it whole, and cost nothing: weights, history (time aside), scores and the table
are those of a run whose disk was never full. A disk that is read-only is told as well.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from same import (
    RUN,
    STARTING,
    TABLE,
    check,
    finish,
    last_row,
    same_run,
    same_table,
    saved_step,
    start,
    stray_files,
    words_again,
)

from bmo_cli.experiment.checkpoint import BEST, LAST, read_checkpoint

DISK_FULL, BAD_INPUT = 4, 2


def main() -> int:
    """Fill, look, make room, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    disk = given.out.absolute() / "disk"
    disk.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "bmo", disk], check=False)
    if mounted.returncode != 0:
        print("no tmpfs can be mounted here: run it as root")
        return 1
    try:
        good = _training(given.out, disk, given.rounds, given.steps, random.Random(given.seed))
        good &= _table(given.out, disk)
        good &= _read_only(disk)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
    return 0 if good else 1


def _training(out: Path, disk: Path, rounds: int, steps: int, generator: random.Random) -> bool:
    whole, run = out / "whole", disk / "run"
    words = [*RUN, f"train.steps={steps}"]
    before = time.monotonic()
    good = finish([*words, f"hydra.run.dir={whole}"])
    seconds, fresh = time.monotonic() - before, [*words, f"hydra.run.dir={run}"]
    for number in range(1, rounds + 1):
        process = start(words_again(run, fresh))
        time.sleep(STARTING + generator.uniform(0, 0.5 * seconds / rounds))
        _fill(disk, room=generator.choice([0, 0, 4096, 8192, 40_000]))
        good &= _told(f"training, round {number}", process, DISK_FULL)
        for name in (LAST, BEST):
            if (run / "checkpoints" / name).exists():
                read_checkpoint(run / "checkpoints" / name)  # raises where it is not whole
        print(
            f"     checkpoint of step {saved_step(run)}, history up to {last_row(run)}", flush=True
        )
        if stray_files(run):
            good &= check(f"nothing half-written: {stray_files(run)}", False)
        (disk / "filler").unlink()
    good &= finish(words_again(run, fresh))
    return good & same_run(whole, run)


def _table(out: Path, disk: Path) -> bool:
    whole, table = out / "table", disk / "table"
    good = finish([*TABLE, f"out={whole}"])
    for room in (0, 30_000, 200_000):
        _fill(disk, room)
        good &= _told(f"table, {room} bytes left", start([*TABLE, f"out={table}"]), DISK_FULL)
        (disk / "filler").unlink()
    good &= finish([*TABLE, f"out={table}"])
    before = (table / "toy-smoke.csv").read_bytes()
    _fill(disk, room=0)  # nothing is to run, but documents are to write
    good &= _told("table, its documents", start([*TABLE, f"out={table}"]), DISK_FULL)
    (disk / "filler").unlink()
    kept = check("documents are as they were", (table / "toy-smoke.csv").read_bytes() == before)
    return good & kept & same_table(whole, table)


def _read_only(disk: Path) -> bool:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    commands = {
        "train": ["train", "debug=tiny", "device=cpu", f"hydra.run.dir={disk / 'new'}"],
        "resume": ["train", f"resume={disk / 'run'}", "train.steps=99999"],
        "table": [*TABLE, f"out={disk / 'other'}"],
        "report": ["report", str(disk)],
    }
    good = True
    for name, words in commands.items():
        good &= _told(f"read-only: {name}", start(words), BAD_INPUT)
    return good


def _fill(disk: Path, room: int) -> None:
    """Leave about so many bytes."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as stream, suppress(OSError):
        while stream.write(bytes(4096)):
            pass
    os.truncate(filler, max(0, filler.stat().st_size - room))


def _told(what: str, process: subprocess.Popen[bytes], expected: int) -> bool:
    """Whether it ends with this code and one line of its own."""
    said = process.communicate()[1].decode()
    lines = [line for line in said.splitlines() if line.startswith("bmo: ")]
    good = process.returncode == expected and len(lines) == 1 and "Traceback" not in said
    shown = " / ".join(lines) or said.strip()[-300:]
    return check(f"{what}: exit code {process.returncode}: {shown}", good)


if __name__ == "__main__":
    sys.exit(main())
