"""Checkpoints: whole or recognised as damaged, two of them, one process a folder."""

import json
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from conftest import result
from safetensors import safe_open
from safetensors.torch import save_file

from bmo_cli.errors import InputError, RunLocked
from bmo_cli.experiment.checkpoint import (
    LAST,
    PREVIOUS,
    DamagedCheckpoint,
    Progress,
    load_checkpoint,
    load_last,
    save_checkpoint,
    save_last,
)
from bmo_cli.results.run_folder import History, RunFolder


def made(step=0):
    """A module and an optimiser after a step, with the numbers of the step in them."""
    module = torch.nn.Linear(3, 2)
    torch.nn.init.constant_(module.weight, step)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    module(torch.ones(3)).sum().backward()
    optimizer.step()
    return module, optimizer


def saved(folder, *steps):
    for step in steps:
        module, optimizer = made(step)
        save_last(folder, module, Progress(step=step), optimizer)


def test_a_checkpoint_is_what_was_saved(tmp_path):
    saved(tmp_path, 3)
    expected, _ = made(3)
    module, optimizer = made(9)
    progress = load_last(tmp_path, module, optimizer)
    assert progress.step == 3
    assert torch.equal(module.weight, expected.weight)
    assert optimizer.state_dict()["state"][0]["step"] == 1


def test_the_last_two_are_kept_and_nothing_else(tmp_path):
    saved(tmp_path, 1, 2, 3)
    assert sorted(file.name for file in tmp_path.iterdir()) == [LAST, PREVIOUS]
    steps = [load_checkpoint(tmp_path / name, made()[0]).step for name in (PREVIOUS, LAST)]
    assert steps == [2, 3]


def test_every_changed_byte_is_noticed(tmp_path, rng):
    saved(tmp_path, 1)
    file = tmp_path / LAST
    content = file.read_bytes()
    places = {*range(0, 64), *rng.integers(0, len(content), 200).tolist(), len(content) - 1}
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        with pytest.raises(InputError):
            load_checkpoint(file, *made())
    file.write_bytes(content)
    assert load_checkpoint(file, *made()).step == 1


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "swapped"])
def test_the_one_before_is_used_where_the_last_is_damaged(tmp_path, caplog, damage):
    saved(tmp_path, 1, 2)
    last = tmp_path / LAST
    content = last.read_bytes()
    if damage == "missing":
        last.unlink()
    elif damage == "swapped":  # valid safetensors, other values
        with safe_open(last, "pt") as archive:
            tensors = {key: archive.get_tensor(key) + 1 for key in archive.keys()}  # noqa: SIM118
            save_file(tensors, last, archive.metadata())
    else:
        last.write_bytes(content[: 0 if damage == "empty" else len(content) // 2])
    module, optimizer = made(7)
    assert load_last(tmp_path, module, optimizer).step == 1
    assert torch.equal(module.weight, made(1)[0].weight)
    assert "going on from the one before, of step 1" in caplog.text
    (tmp_path / PREVIOUS).write_bytes(b"")
    with pytest.raises(DamagedCheckpoint):
        load_last(tmp_path, module, optimizer)


def test_another_network_is_no_damage(tmp_path):
    saved(tmp_path, 1, 2)
    with pytest.raises(InputError, match="another network") as raised:
        load_last(tmp_path, torch.nn.Linear(4, 2), None)
    assert not isinstance(raised.value, DamagedCheckpoint)


def test_a_full_disk_leaves_the_checkpoint_that_was_there(tmp_path, monkeypatch):
    saved(tmp_path, 1, 2)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    module, optimizer = made(3)
    with pytest.raises(OSError, match="No space left"):
        save_last(tmp_path, module, Progress(step=3), optimizer)
    monkeypatch.undo()
    assert load_last(tmp_path, *made()).step == 2
    assert sorted(file.name for file in tmp_path.iterdir()) == [LAST, PREVIOUS]
    assert save_checkpoint(tmp_path / "x", module, Progress(), optimizer) is None


HOLD = """
import sys, time
from pathlib import Path
from bmo_cli.results.run_folder import History, RunFolder
with RunFolder(Path(sys.argv[1])).claimed():
    print("claimed", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_a_folder_is_one_process_own_and_a_killed_one_holds_nothing(trained, bmo):
    before = json.dumps(result(trained))
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, trained], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "claimed\n"
        with pytest.raises(RunLocked), RunFolder(trained).claimed():
            pass
        done = bmo("train", "resume=run", "train.steps=6")
        assert done.returncode == 2
        assert "another process is training in" in done.stderr
        assert done.stderr.count("\n") == 1
        assert json.dumps(result(trained)) == before
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    with RunFolder(trained).claimed():
        pass


@pytest.mark.slow
def test_a_damaged_last_checkpoint_costs_an_interval_and_no_more(bmo, tiny, tmp_path):
    steps = ["train.steps=6", "train.schedule=constant"]
    assert bmo("train", *tiny, *steps, "hydra.run.dir=whole").returncode == 0
    first = ["train.steps=4", "train.schedule=constant", "hydra.run.dir=parts"]
    assert bmo("train", *tiny, *first).returncode == 0
    last = tmp_path / "parts" / "checkpoints" / LAST
    last.write_bytes(last.read_bytes()[:-100])
    done = bmo("train", "resume=parts", "train.steps=6")
    assert done.returncode == 0, done.stderr
    assert "going on from the one before, of step 2" in done.stdout
    files = [tmp_path / name / "history.csv" for name in ("whole", "parts")]
    without_time = [np.delete(np.genfromtxt(f, delimiter=","), 1, axis=1) for f in files]
    np.testing.assert_array_equal(*without_time)


def test_after_a_damaged_last_one_a_whole_one_is_there_at_every_moment(tmp_path, monkeypatch):
    saved(tmp_path, 1, 2)
    (tmp_path / LAST).write_bytes(b"damaged")
    module, optimizer = made(9)
    assert load_last(tmp_path, module, optimizer).step == 1

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bmo_cli.experiment.checkpoint.write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        save_last(tmp_path, module, Progress(step=3), optimizer)
    assert load_last(tmp_path, *made()).step == 1


def test_a_history_that_was_cut_off_in_a_line_loses_that_line(tmp_path):
    folder, keys = RunFolder(tmp_path), ("step", "seconds", "loss", "val", "hypergrad_norm")
    history = History(folder, "psnr")
    for step in (119, 120):
        history.add({**dict.fromkeys((*keys, "residual", "lr"), 1.0), "step": step})
    content = (tmp_path / "history.csv").read_text()
    for length in range(content.rfind("120,"), len(content) - 1):
        (tmp_path / "history.csv").write_text(content[:length])
        assert [row["step"] for row in folder.read_history()] == [119]


def test_who_asks_whether_a_run_is_claimed_is_in_nobodys_way(tmp_path):
    folder = RunFolder(tmp_path)
    assert not folder.is_claimed()
    with folder.claimed():
        assert RunFolder(tmp_path).is_claimed()
    done = threading.Event()

    def ask():
        while not done.is_set():
            folder.is_claimed()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(300):
            with RunFolder(tmp_path).claimed():
                pass
    finally:
        done.set()
        thread.join()


@pytest.mark.slow
def test_a_damaged_best_checkpoint_is_replaced_by_the_best_from_now_on(bmo, tiny, tmp_path):
    assert bmo("train", *tiny, "hydra.run.dir=run").returncode == 0
    best = tmp_path / "run" / "checkpoints" / "best.safetensors"
    best.write_bytes(best.read_bytes()[:-7])
    done = bmo("train", "resume=run", "train.steps=6")
    assert done.returncode == 0, done.stderr
    assert "the best one from now on takes its place" in done.stdout
    assert result(tmp_path / "run")["best_step"] == 6
