"""Loggers beside history.csv: they say the same, change nothing, and cannot stop a run."""

import csv
import importlib.util
import json
import math
import signal
import struct
import sys

import pytest
import torch
from conftest import result
from safetensors.torch import load_file

from bmo_cli.errors import InputError
from bmo_cli.loggers.tensorboard import TensorBoard
from bmo_cli.results.run_folder import RunFolder

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed"
)
needs_wandb = pytest.mark.skipif(
    importlib.util.find_spec("wandb") is None, reason="wandb is not installed"
)


def heard(folder):
    """Scalars of the event files: {tag: {step: value}}, purged steps left out as it shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), {"scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def written(folder, metric="psnr"):
    """The same of history.csv."""
    found = {}
    for row in RunFolder(folder).read_history():
        for key, value in row.items():
            if key != "step" and math.isfinite(value):
                name = f"val/{metric}" if key == "val" else f"train/{key}"
                found.setdefault(name, []).append((int(row["step"]), value))
    return found


def same_numbers(a, b):
    names = ("best.safetensors", "last.safetensors")
    pairs = [[load_file(run / "checkpoints" / name) for run in (a, b)] for name in names]
    rows = [list(csv.DictReader((run / "history.csv").read_text().splitlines())) for run in (a, b)]
    timeless = [[{**row, "seconds": ""} for row in found] for found in rows]
    return timeless[0] == timeless[1] and all(
        x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in pairs
    )


def assert_scalars(folder):
    events, rows = heard(folder), written(folder)
    for name, values in rows.items():
        assert [step for step, _ in events[name]] == [step for step, _ in values], name
        assert [v for _, v in events[name]] == pytest.approx([v for _, v in values], rel=1e-6)
    metrics = result(folder)["metrics"]
    assert events["test/psnr"][-1][1] == pytest.approx(metrics["test/psnr"], rel=1e-6)


@pytest.mark.slow
@needs_tensorboard
def test_tensorboard_says_what_history_says_and_changes_no_number(bmo, tiny, tmp_path):
    words = ["train", *tiny, "train.steps=6", "train.log_every=1"]
    assert bmo(*words, "hydra.run.dir=plain").returncode == 0
    done = bmo(*words, "logger=tensorboard", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert same_numbers(tmp_path / "plain", tmp_path / "run")
    assert_scalars(tmp_path / "run")


@pytest.mark.slow
@needs_tensorboard
def test_tensorboard_of_a_resumed_run_has_every_step_once(bmo, tiny, tmp_path):
    words = ["train", *tiny, "train.log_every=1", "logger=tensorboard", "hydra.run.dir=run"]
    assert bmo(*words, "train.steps=4").returncode == 0
    done = bmo("train", "resume=run", "train.steps=8")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 2
    assert_scalars(tmp_path / "run")


@needs_tensorboard
def test_what_an_earlier_attempt_said_beyond_its_checkpoint_is_taken_back(tmp_path):
    folder = RunFolder(tmp_path)

    def row(step, value):
        return {"step": step, "loss": value, "val": math.nan}

    first = TensorBoard()
    first.open(folder, {}, [], "psnr")
    for step in range(1, 8):
        first.row(row(step, 10.0 + step))
    first.close({})
    second = TensorBoard()
    second.open(folder, {}, [row(step, float(step)) for step in (1, 2, 3)], "psnr")
    second.row(row(4, 4.0))
    second.close({})
    assert heard(tmp_path)["train/loss"] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]


BROKEN = """
from bmo_cli.loggers.logger import Logger

class Broken(Logger):
    def row(self, row):
        raise OSError("the server is gone")
"""


@pytest.mark.slow
def test_a_logger_of_ones_own_that_fails_costs_a_line(bmo, tiny, tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    words = ["train", *tiny]
    assert bmo(*words, "hydra.run.dir=plain").returncode == 0
    own = ["plugins=[broken.py]", "logger._target_=broken.Broken", "hydra.run.dir=run"]
    done = bmo(*words, *own)
    assert done.returncode == 0
    said = "Broken failed, the run goes on without it: broken.py, line 6, in row: OSError: the ser"
    assert done.stdout.count(said) == 1
    assert same_numbers(tmp_path / "plain", tmp_path / "run")


def test_a_package_that_is_missing_is_named_before_training(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"pip install 'bmo-cli\[tensorboard\]'"):
        TensorBoard()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_without_wandb_nothing_is_spent(bmo, tiny, tmp_path):
    done = bmo("train", *tiny, "logger=wandb", "hydra.run.dir=run")
    assert done.returncode == 2
    assert done.stderr == (
        "bmo: logger=wandb needs the package wandb: pip install 'bmo-cli[wandb]'\n"
    )
    assert not (tmp_path / "run").exists()


def messages(content):
    """Records of a .wandb file, which is a LevelDB log behind 7 bytes: blocks of 32 KiB that hold
    pieces of (checksum: 4, length: 2, kind: 1; 1 whole, 2 first, 3 middle, 4 last) and data."""
    place, parts = 7, []
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        parts.append(content[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (1, 4):
            yield b"".join(parts)
            parts = []


def records(file):
    """History rows and summary of a .wandb file."""
    from wandb.proto import wandb_internal_pb2

    rows, summary = [], {}
    for message in messages(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(message)
        row, new = (
            {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
            for items in (record.history.item, record.summary.update)
        )
        rows += [row] if row else []
        summary |= new
    return rows, summary


@needs_wandb
def test_wandb_stays_in_the_run_folder_and_says_what_history_says(bmo, tiny, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    words = ["train", *tiny, "train.steps=6", "train.log_every=1"]
    assert bmo(*words, "hydra.run.dir=plain").returncode == 0
    before = sorted(tmp_path.iterdir())
    done = bmo(*words, "logger=wandb", "hydra.run.dir=run", HOME=str(home))
    assert done.returncode == 0, done.stderr
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "run"])
    assert not [file for file in home.rglob("*") if "wandb" in file.name]
    assert same_numbers(tmp_path / "plain", tmp_path / "run")
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    rows, summary = records(file)
    for name, values in written(tmp_path / "run").items():
        own = [(row["_step"], row[name]) for row in rows if name in row]
        assert [step for step, _ in own] == [step for step, _ in values], name
        assert [v for _, v in own] == pytest.approx([v for _, v in values]), name
    assert summary["test/psnr"] == result(tmp_path / "run")["metrics"]["test/psnr"]
    assert bmo("train", "resume=run", "train.steps=8", HOME=str(home)).returncode == 0
    files = list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1


@pytest.mark.slow
def test_a_stopped_run_closes_its_logger(bmo, tiny, tmp_path):
    (tmp_path / "ears.py").write_text(
        "import os, signal\n"
        "from pathlib import Path\n"
        "from bmo_cli.loggers.logger import Logger\n"
        "class Ears(Logger):\n"
        "    def row(self, row):\n"
        f"        os.kill(os.getpid(), {int(signal.SIGTERM)})\n"
        "    def close(self, result):\n"
        "        Path('closed').write_text(result['status'])\n"
    )
    own = ["plugins=[ears.py]", "logger._target_=ears.Ears", "hydra.run.dir=run"]
    assert bmo("train", *tiny, *own).returncode == 143
    assert (tmp_path / "closed").read_text() == "running"
