"""Sizes of the package, and the stops of a configuration on its way through it.

.venv/bin/python benchmarks/structure.py [CHECKOUT]: lines, files of the largest folder, long
functions and long signatures; then, for a tiny run of `bmo train`, of a sweep job and of a cell of
`bmo table`, the functions that are handed a whole configuration (or a run that holds one), their
files, and how often a call goes from a file to one in a higher layer of
tests/test_architecture.py. CHECKOUT may be another version of this repository: its code is run.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
LONG, MANY = 40, 6

TRACER = """
import os, sys

ROOT, OUT = os.environ["STOPS_ROOT"], os.environ["STOPS_OUT"]
HOLDERS = {"Config", "EvalConfig", "TableConfig", "Checked", "Composed", "RunSpec", "Run", "Cell",
           "Order", "SweepJob"}
SEEN = set()


def holds(value):
    name = type(value).__name__
    if name == "DictConfig" or isinstance(value, dict):
        keys = set(map(str, value))
        return {"task", "train"} <= keys or {"table", "preset"} <= keys
    return name in HOLDERS and type(value).__module__.startswith("bmo_cli.")


def trace(frame, event, argument):
    code = frame.f_code
    if event != "call" or not code.co_filename.startswith(ROOT):
        return
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    names = names[1:] if names[:1] == ("self",) else names  # a run's own methods are no stops
    place = (code.co_filename[len(ROOT) + 1 :], code.co_qualname)
    if place in SEEN or code.co_name.startswith("<"):
        return
    if any(holds(frame.f_locals.get(name)) for name in names):
        SEEN.add(place)
        caller = frame.f_back.f_code.co_filename if frame.f_back else ""
        above = caller[len(ROOT) + 1 :] if caller.startswith(ROOT) else ""
        with open(OUT, "a") as stream:
            stream.write("\\t".join([*place, above]) + "\\n")


sys.setprofile(trace)
"""

TINY = ("debug=tiny", "task=toy", "device=cpu")
TABLE = """
title: T
common: [task=toy, debug=tiny, device=cpu]
rows: {bmo: [hyper=bmo]}
columns: {all: []}
scores: {test/distance: .4f}
seeds: [0]
"""


def sizes(package: Path) -> dict[str, str]:
    """Lines, folders and functions of a package."""
    folders: Counter[str] = Counter()
    lines, lengths, arguments = 0, [], []
    for file in sorted(package.rglob("*.py")):
        text = file.read_text()
        lines += text.count("\n")
        folders[file.parent.relative_to(package).as_posix()] += 1
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                lengths.append((node.end_lineno - node.lineno + 1, f"{file.name}:{node.name}"))
                named = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
                count = len(named) + len(node.args.kwonlyargs) - (named[:1] in (["self"], ["cls"]))
                arguments.append((count, f"{file.name}:{node.name}"))
    folder, files = folders.most_common(1)[0]
    return {
        "lines": str(lines),
        "files of the largest folder": f"{files} ({folder})",
        "longest function": "{} lines ({})".format(*max(lengths)),
        f"functions above {LONG} lines": str(sum(length > LONG for length, _ in lengths)),
        f"functions with more than {MANY} parameters": str(sum(n > MANY for n, _ in arguments)),
    }


def stops(checkout: Path, words: list[str], folder: Path) -> str:
    """The stops of one command, run in `folder`."""
    out = folder / "stops.txt"
    (folder / "sitecustomize.py").write_text(TRACER)
    environment = os.environ | {
        "PYTHONPATH": f"{folder}:{checkout}",
        "STOPS_ROOT": str(checkout / "bmo_cli"),
        "STOPS_OUT": str(out),
    }
    done = subprocess.run(
        [sys.executable, "-m", "bmo_cli", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    rows = [line.split("\t") for line in out.read_text().splitlines()]
    level = layers(checkout)
    climbs = sum(
        level.get(part(above), 0) < level.get(part(file), 0) for file, _, above in rows if above
    )
    files = {file for file, _, _ in rows}
    return f"{len(rows)} stops in {len(files)} files, {climbs} climbs"


def layers(checkout: Path) -> dict[str, int]:
    """Level of every part of the package, as the test of the architecture has it."""
    tree = ast.parse((checkout / "tests" / "test_architecture.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "LAYERS":
            groups = ast.literal_eval(node.value)
            return {name: level for level, names in enumerate(groups) for name in names}
    raise SystemExit("no LAYERS in tests/test_architecture.py")


def part(file: str) -> str:
    """The part of the package that a file belongs to."""
    return Path(file).parts[0].removesuffix(".py")


def main() -> None:
    """Print the sizes and the stops of a checkout."""
    checkout = Path(sys.argv[1] if len(sys.argv) > 1 else HERE).resolve()
    rows = sizes(checkout / "bmo_cli")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "conf" / "table").mkdir(parents=True)
        (folder / "conf" / "table" / "t.yaml").write_text(TABLE)
        commands = {
            "bmo train": ["train", *TINY, "hydra.run.dir=run"],
            "a sweep job": ["train", "-m", *TINY, "seed=0", "hydra.sweep.dir=sweep"],
            "bmo table": ["table", "t", "--config-dir=conf", "out=table"],
        }
        for title, words in commands.items():
            (folder / "stops.txt").unlink(missing_ok=True)
            rows[f"configuration in {title}"] = stops(checkout, words, folder)
    for title, value in rows.items():
        print(f"{title:<42}{value}")


if __name__ == "__main__":
    main()
