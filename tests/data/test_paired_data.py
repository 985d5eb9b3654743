"""Pairs of degraded and clean photographs: matching, refusals, aligned crops, identity."""

import numpy as np
import pytest
import torch

from bmo_cli.data.images.file import write_image
from bmo_cli.data.images.photograph import Photograph
from bmo_cli.data.named import Named
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


def named(folder, clean, rain):
    """Pairs of these names without ending; partners have one value."""
    for kind, names in (("clean", clean), ("rain", rain)):
        for name in names:
            number = int(name.rsplit("-", 1)[-1])
            write(folder, kind, f"{name}.png", np.full((24, 30, 3), number, np.uint8))
    return Paired(test=str(folder))


@pytest.mark.parametrize(
    ("clean", "rain"),
    [
        (["norain-001", "norain-002"], ["rain-001", "rain-002"]),
        (["norain-1", "norain-10", "norain-2"], ["rain-1", "rain-10", "rain-2"]),
        (["norain-001", "002"], ["rain-001", "rain-002"]),
        (["norain-001", "norain-002"], ["001", "002"]),
        (["norain-001", "norain-002"], ["norain-001", "norain-002"]),
        (["rain-001", "norain-001"], ["norain-001", "rain-001"]),
    ],
)
def test_the_published_names_of_rain_match(tmp_path, clean, rain):
    data = named(tmp_path, clean, rain)
    images, degraded = data.load("test"), data.observed("test")
    assert len(images) == len(clean)
    for i in range(len(images)):
        np.testing.assert_array_equal(images[i], degraded[i])


@pytest.mark.parametrize(
    ("clean", "rain", "message"),
    [
        (["norain-1", "1"], ["rain-1", "2"], "holds 1.png and norain-1.png, which could both be"),
        (["norain-1", "norain-2"], ["rain-1", "1"], "which could both be the partner of '1'"),
        (["rain-1"], ["norain-1"], "2 images have no partner .norain-1, rain-1."),
        (["norain-1"], ["rain-01"], "2 images have no partner .01, 1."),
        (["norain-1"], ["rain-1", "rain-2"], "1 images have no partner .2."),
    ],
)
def test_names_of_rain_that_do_not_match(tmp_path, clean, rain, message):
    with pytest.raises(InputError, match=message):
        named(tmp_path, clean, rain).load("test")


def test_a_named_set_takes_the_published_names(tmp_path):
    names = [f"{i:03d}" for i in range(1, 4)]
    named(
        tmp_path / "rain100l",
        [f"norain-{name}" for name in names],
        [f"rain-{name}" for name in names],
    )
    data = Named(root=str(tmp_path), test_set="rain100l", train_set=None, channels=3)
    assert data.load("test").names == ["norain-001.png", "norain-002.png", "norain-003.png"]
    for i in range(3):
        np.testing.assert_array_equal(data.load("test")[i], data.observed("test")[i])
