"""Pairs of degraded and clean photographs: matching, refusals, aligned crops, identity."""

import numpy as np
import pytest
import torch

from bmo_cli.data.image_file import Photograph, write_image
from bmo_cli.data.patches import Patches
from bmo_cli.data.splits import Paired
from bmo_cli.errors import InputError


def write(folder, kind, name, pixels):
    (folder / kind).mkdir(parents=True, exist_ok=True)
    write_image(folder / kind / name, Photograph(pixels), overwrite=True)


@pytest.fixture
def pairs(tmp_path, rng):
    for i in range(4):
        clean = rng.integers(0, 120, (24, 30, 3), dtype=np.uint8)
        write(tmp_path, "clean", f"{i}.png", clean)
        write(tmp_path, "rain", f"{i}.bmp", 255 - clean)
    return tmp_path


def test_partners_and_held_out_pairs(pairs):
    data = Paired(train=str(pairs), test=str(pairs), val_count=1)
    assert data.load("train").names == ["0.png", "1.png", "2.png"]
    assert data.load("val").names == ["3.png"]
    assert len(data.load("test")) == 4
    for split in ("train", "val", "test"):
        for i in range(len(data.load(split))):
            np.testing.assert_array_equal(data.observed(split)[i], 255 - data.load(split)[i])


def test_crops_of_pairs_are_aligned(pairs):
    data = Paired(train=str(pairs), val_count=1)
    patches = Patches(data.load("train"), data.observed("train"), crop=8, batch=5, seed=0)
    clean, rain = patches[3].chunk(2, 1)
    assert clean.shape == (5, 3, 8, 8)
    torch.testing.assert_close(rain, 1 - clean)
    alone = Patches(data.load("train"), crop=8, batch=5, seed=0)
    assert torch.equal(alone[3], clean)


def test_digest_follows_contents_not_places(pairs, tmp_path_factory):
    other = tmp_path_factory.mktemp("elsewhere")
    for kind in ("clean", "rain"):
        (other / kind).mkdir()
        for file in (pairs / kind).iterdir():
            (other / kind / file.name).write_bytes(file.read_bytes())
    assert Paired(train=str(pairs)).digest() == Paired(train=str(other)).digest()
    before = Paired(train=str(other)).digest()
    write(other, "rain", "0.bmp", np.zeros((24, 30, 3), np.uint8))
    assert Paired(train=str(other)).digest() != before


def test_digest_knows_splits_and_which_images_are_degraded(pairs, tmp_path_factory):
    other = tmp_path_factory.mktemp("elsewhere")
    for kind in ("clean", "rain"):
        (other / kind).mkdir()
        for file in sorted((pairs / kind).iterdir())[2:]:
            file.rename(other / kind / file.name)
    few, many = str(pairs), str(other)
    assert Paired(train=few, val=many).digest() != Paired(train=few, test=many).digest()
    given = {"train": few, "degraded": "rain", "clean": "clean"}
    swapped = {"train": few, "degraded": "clean", "clean": "rain"}
    before = [Paired(**given).digest(), Paired(**swapped).digest()]
    assert before[0] != before[1]
    for kind in ("clean", "rain"):  # a pair goes from validation to training
        file = min((other / kind).iterdir())
        file.rename(pairs / kind / file.name)
    moved = Paired(train=few, val=many).digest()
    for kind in ("clean", "rain"):
        file = max((pairs / kind).iterdir())
        file.rename(other / kind / file.name)
    assert Paired(train=few, val=many).digest() != moved


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("rain", "extra.png", (24, 30, 3)), r"1 images have no partner \(extra\)"),
        (("rain", "0.bmp", (24, 31, 3)), "is 24 x 30 but its partner .* is 24 x 31"),
        (("rain", "0.bmp", (24, 30, 1)), "is colour but its partner .* is gray"),
        (("rain", "0.png", (24, 30, 3)), "two images of one name"),
    ],
)
def test_what_does_not_match_is_refused(pairs, change, message):
    kind, name, shape = change
    write(pairs, kind, name, np.zeros(shape, np.uint8))
    with pytest.raises(InputError, match=message):
        Paired(test=str(pairs)).load("test")


def test_missing_folders_and_too_few_pairs(pairs):
    with pytest.raises(InputError, match="holds no folder 'snow'"):
        Paired(test=str(pairs), degraded="snow").load("test")
    with pytest.raises(InputError, match="leaves nothing to train on"):
        Paired(train=str(pairs), val_count=4).load("train")
    with pytest.raises(InputError, match=r"data\.test is not set"):
        Paired(train=str(pairs)).load("test")
