"""Batches that threads prepare ahead: the same ones in the same order, and no thread is left."""

import threading
import time

import pytest
import torch
from conftest import result
from run_content import history, same, weights

from bmo_cli.data.patches import Patches
from bmo_cli.data.prefetch import prefetch
from bmo_cli.data.splits import Folder
from bmo_cli.errors import InputError


def workers_left():
    """Names of this module's threads that still live, after a second to end."""
    for _ in range(100):
        left = [t.name for t in threading.enumerate() if t.name.startswith("bmo-data")]
        if not left:
            break
        time.sleep(0.01)
    return left


@pytest.mark.parametrize("cache_mib", [1e-6, 100])
def test_batches_do_not_depend_on_workers_or_on_where_they_start(photos, cache_mib):
    images = Folder(train=str(photos / "train"), cache_mib=cache_mib).load("train")
    patches = Patches(images, crop=16, batch=3, seed=7)
    whole = [patches[step] for step in range(9)]
    for workers in (0, 1, 2, 5):
        later = list(prefetch(patches.__getitem__, range(2, 9), workers))
        assert len(later) == 7
        assert all(torch.equal(a, b) for a, b in zip(whole[2:], later, strict=True))
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(whole[0], Patches(images, crop=16, batch=3, seed=8)[0])
    assert whole[0].shape == (3, 1, 16, 16) and whole[0].dtype == torch.float32
    assert 0 <= whole[0].min() < whole[0].max() <= 1


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_items_come_in_order_however_long_each_takes(workers):
    def make(step):
        time.sleep(0.002 * (step % 3))
        return step

    assert list(prefetch(make, range(5, 40), workers)) == list(range(5, 40))
    assert list(prefetch(make, range(0), workers)) == []
    assert workers_left() == []


def test_threads_work_at_the_same_time_and_not_too_far_ahead():
    together, made = threading.Barrier(3, timeout=20), []

    def make(step):
        if step < 3:
            together.wait()  # three of them, or none gets past
        made.append(step)
        return step

    items = prefetch(make, range(1000), workers=3)
    for step in range(20):
        assert next(items) == step
        time.sleep(0.005)
        assert max(made) <= step + 6  # two a worker
    assert max(made) >= 20  # and ahead of what is asked for
    items.close()
    assert workers_left() == []


class OwnError(Exception):
    """Of a plug-in."""

    def __init__(self, a, b):  # which pickle could not build again
        super().__init__(f"{a} {b}")


@pytest.mark.parametrize("error", [InputError("bad.png"), OwnError(1, 2), SystemExit(3)])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_error_is_raised_as_itself_in_its_turn(error, workers):
    def make(step):
        if step == 4:
            raise error
        return step

    items = prefetch(make, range(100), workers)
    assert [next(items) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(type(error)) as caught:
        next(items)
    assert caught.value is error
    assert list(items) == []
    assert workers_left() == []


@pytest.mark.slow
def test_whole_runs_are_equal_for_every_number_of_workers(bmo, tiny, trained, tmp_path):
    words = [*tiny, "data.cache_mib=1e-6", "data.workers=2", "hydra.run.dir=ahead"]
    done = bmo("train", *words)
    assert done.returncode == 0, done.stderr
    assert history(tmp_path / "ahead") == history(trained)
    assert same(weights(tmp_path / "ahead"), weights(trained))
    scores = [result(folder)["metrics"]["test/psnr"] for folder in (tmp_path / "ahead", trained)]
    assert scores[0] == scores[1]
