"""A small run of stress/images.py, and whether it would find what it is for."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace

import images
import numpy as np
import pytest
from conftest import ROOT


def test_made_files_are_read_right_or_refused(tmp_path):
    counts = Counter()
    for number in range(150):
        case = images.make(np.random.default_rng([2024, number]))
        verdict = images.judge(case, tmp_path / f"made{case.suffix}")
        assert verdict in images.GOOD, f"{number}, {case.kind}: {verdict}"
        counts[verdict] += 1
    assert counts[images.RIGHT] > 60
    assert counts[images.REFUSED] > 30


def ordinary():
    for number in range(1000):
        case = images.make(np.random.default_rng([1, number]))
        if case.pixels is not None and not case.may_refuse and case.pixels.size > 30:
            yield case


@pytest.mark.parametrize(
    "change",
    [
        lambda case: {"pixels": np.clip(case.pixels + 0.3, 0, 2)},
        lambda case: {"pixels": case.pixels[:, ::-1]},
        lambda case: {"pixels": None},
        lambda case: {"alpha": np.zeros((1, 1))},
        lambda case: {"profile": b"another"},
        lambda case: {"resolution": (1, 1, "mile")},
        lambda case: {"content": case.content[:40]},
    ],
)
def test_files_that_are_not_as_they_were_made_are_found(tmp_path, change):
    flagged = 0
    for case in (case for case, _ in zip(ordinary(), range(20), strict=False)):
        changed = replace(case, **change(case))
        verdict = images.judge(changed, tmp_path / f"made{case.suffix}")
        flagged += verdict not in images.GOOD
    assert flagged >= 18


def test_its_command_ends_with_its_count(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "stress" / "images.py"), "--files", "20", "--seed", "3"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith("0 read wrong")
    assert done.stderr == ""
