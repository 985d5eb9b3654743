"""profile=true: the parts add up to the time, and change nothing."""

import re
import time

import pytest
import torch
from conftest import result

from bmo_cli.training import timer as profile
from bmo_cli.training.timer import PARTS, Profile, Untimed


@pytest.fixture
def clock(monkeypatch):
    """A clock that is moved by hand."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(profile.time, "perf_counter", lambda: Clock.now)
    return Clock


def test_parts_are_timed_and_said_in_words(clock):
    spent = {"data": 1.0, "forward": 2.0, "backward": 5.0, "validation": 1.5}
    found = Profile(torch.device("cpu"))
    for name, seconds in spent.items():
        with found.measure(name):
            clock.now += seconds
    clock.now += 3  # nobody's
    found.steps = 4
    assert found.seconds == {**dict.fromkeys(PARTS, 0.0), **spent}
    words = found.describe(10.0)
    assert words.startswith("profile: 10.0 s, 2000.0 ms a step: backward 50.0 %, forward 20.0 %, ")
    assert "validation 15.0 %" in words and "the rest 5.0 %" in words
    assert words.endswith("; train.validate_every makes it rarer")


def test_no_clock_no_time(clock):
    found = Untimed(torch.device("cpu"))
    with found.measure("data"):
        clock.now += 1
    assert set(found.seconds.values()) == {0.0}


@pytest.mark.slow
def test_a_profiled_run_is_the_same_run(bmo, tiny, tmp_path):
    done = bmo("train", *tiny, "hydra.run.dir=plain")
    start = time.perf_counter()
    timed = bmo("train", *tiny, "profile=true", "hydra.run.dir=timed")
    wall = time.perf_counter() - start
    assert done.returncode == timed.returncode == 0, timed.stderr
    assert "profile: " not in done.stdout
    (line,) = re.findall(r"^profile: .*$", timed.stdout, re.MULTILINE)
    shares = [float(share) for share in re.findall(r"([\d.]+) %", line)]
    assert sum(shares) == pytest.approx(100, abs=0.5)
    plain, found = result(tmp_path / "plain"), result(tmp_path / "timed")
    assert plain["metrics"]["test/psnr"] == found["metrics"]["test/psnr"]
    assert set(found["profile"]) == set(PARTS)
    assert all(seconds > 0 for seconds in found["profile"].values())
    assert sum(found["profile"].values()) < wall
