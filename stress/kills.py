"""Kill a training run and a table at random moments, start them again, compare with whole ones.

.venv/bin/python stress/kills.py OUT [--kills 30] [--starts 10] [--tables 10] [--seed 0]: a line a
kill, and exit code 0 if what was killed ends as what nobody killed, no file is damaged or left
behind, and no kill cost a run more than one interval between checkpoints. --starts kills so many
new runs each at a random moment of their start, before their first result.json and before their
first checkpoint: `bmo runs` has to list them, and their names have to be whole once they went on.
Of the table, which runs two cells at a time, the process itself is killed, or all of it, or a child
of it first.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from same import (
    EARLY,
    EVERY,
    RUN,
    STARTING,
    TABLE,
    check,
    finish,
    last_row,
    listed,
    same_names,
    same_run,
    same_table,
    saved_step,
    start,
    words_again,
)


def main() -> int:
    """Run, kill, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--tables", type=int, default=10)
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    generator = random.Random(given.seed)
    good = _run(given.out, given.kills, given.steps, generator) if given.kills else True
    if given.starts:
        good &= _starts(given.out, given.starts, generator)
    if given.tables:
        good &= _table(given.out, given.tables, generator)
    return 0 if good else 1


def _run(out: Path, kills: int, steps: int, generator: random.Random) -> bool:
    whole, killed = out / "whole", out / "killed"
    words = [*RUN, f"train.steps={steps}"]
    before = time.monotonic()
    good = finish([*words, f"hydra.run.dir={whole}"])
    seconds = time.monotonic() - before
    fresh, lost = [*words, f"hydra.run.dir={killed}"], []
    for number in range(1, kills + 1):
        process = start(words_again(killed, fresh))
        time.sleep(generator.uniform(0, STARTING + 1.2 * seconds / kills))
        process.kill()
        process.communicate()
        if process.returncode != -signal.SIGKILL:
            return check(f"the run ended before kill {number}; take more --steps", False)
        done, saved = last_row(killed), saved_step(killed)
        lost.append(done - saved)
        print(f"kill {number}: {done} steps in the history, checkpoint of step {saved}", flush=True)
    good &= finish(words_again(killed, fresh)) and same_run(whole, killed)
    said = f"{kills} kills, {sum(lost)} steps lost in all, {max(lost)} at most"
    return good & check(f"{said}, of {EVERY} allowed", max(lost) <= EVERY)


def _starts(out: Path, kills: int, generator: random.Random) -> bool:
    """Kill new runs before they have anything, a folder each."""
    whole, words = out / "whole_start", [*RUN, f"train.steps={2 * EVERY}"]
    good = finish([*words, f"hydra.run.dir={whole}"])
    for moment in ("at a random moment", *EARLY):
        for number in range(1, kills + 1):
            killed = out / f"{moment.replace(' ', '_')}_{number}"
            fresh = [*words, f"hydra.run.dir={killed}"]
            for _ in range(_MOST):
                was_killed = _kill_early(killed, fresh, moment, generator)
                if was_killed and (moment not in EARLY or EARLY[moment](killed)):
                    break
            else:
                return check(f"no kill {moment} in {_MOST} tries", False)
            there, state = listed(killed)
            print(f"kill {number} {moment}: {state}", flush=True)
            good &= there and finish(words_again(killed, fresh))
            good &= same_names(whole, killed) and same_run(whole, killed)
    return good


_MOST = 20


def _kill_early(folder: Path, fresh: list[str], moment: str, generator: random.Random) -> bool:
    """Kill a run that starts in this folder, which is emptied before; whether it had not ended."""
    if folder.exists():
        shutil.rmtree(folder)
    process = start(fresh)
    if moment in EARLY:
        while process.poll() is None and not EARLY[moment](folder):
            time.sleep(0.002)
        time.sleep(generator.uniform(0, 0.3 if "checkpoint" in moment else STARTING / 2))
    else:
        time.sleep(generator.uniform(0, 1.2 * STARTING))
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


def _table(out: Path, kills: int, generator: random.Random) -> bool:
    whole, killed = out / "table", out / "killed_table"
    good = finish([*TABLE, f"out={whole}"])
    words = [*TABLE, f"out={killed}"]
    for number in range(1, kills + 1):
        process = start(words)
        time.sleep(generator.uniform(2, 1.5 * STARTING))
        victim = generator.choice(["itself", "a child and later the rest", "all of it"])
        if victim.startswith("a child"):
            workers = [pid for server in _children(process.pid) for pid in _children(server)]
            for pid in workers[:1]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(generator.uniform(0.5, 2))
        if victim == "itself":
            process.kill()
        else:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        said = process.communicate()[1].decode()
        done = sum("cell_seconds" in file.read_text() for file in killed.rglob("result.json"))
        print(f"kill {number}, of {victim}: {done} cells are done", flush=True)
        if process.returncode == 0 or "Traceback" in said:
            good = check(f"it was to be killed, and not to end: {said[-300:]}", False)
    good &= finish(words)
    return good and same_table(whole, killed)


def _children(pid: int) -> list[int]:
    file = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in file.read_text().split()] if file.exists() else []


if __name__ == "__main__":
    sys.exit(main())
