"""Near-duplicates: found after compression, resizing, small crops, turning; no false alarms."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from bmo_cli.commands.evaluate import _add_leaks
from bmo_cli.data.embedded import EMBEDDED, embedded_files
from bmo_cli.data.images.file import read_image
from bmo_cli.data.images.image_set import ImageSet, image_files, similar_images
from bmo_cli.data.loaded import Photographs
from bmo_cli.data.perceptual import THRESHOLD, look_alikes, perceptual_hash
from bmo_cli.data.splits import Folder


def jpeg(image, quality):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


def resized(image, factor):
    size = [max(1, round(side * factor)) for side in image.size]
    return image.resize(size, Image.Resampling.BICUBIC)


def cropped(image, share):
    w, h = image.size
    x, y = round(w * share / 2), round(h * share / 2)
    return image.crop((x, y, w - x, h - y))


CHANGES = {
    "jpeg 10": lambda image: jpeg(image, 10),
    "half": lambda image: resized(image, 0.5),
    "double": lambda image: resized(image, 2),
    "darker": lambda image: image.point(lambda v: 0.7 * v + 10),
    "crop of 2 %": lambda image: cropped(image, 0.02),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "all of it": lambda image: cropped(jpeg(resized(image, 0.6), 40), 0.01).transpose(
        Image.Transpose.TRANSVERSE
    ),
}


def hashed(image):
    return perceptual_hash(np.asarray(image).reshape(*np.asarray(image).shape[:2], -1))


@pytest.fixture(scope="module")
def embedded():
    """The photographs that scikit-image ships, at most 256 pixels, to be quick."""
    found = {}
    for file in (file for split in EMBEDDED for file in embedded_files(split)):
        image = Image.open(file).convert("RGB")
        image.thumbnail((256, 256))
        found[file.stem] = image
    return found


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found_and_nothing_else(embedded, change):
    known = {name: hashed(image) for name, image in embedded.items()}
    changed = {name: hashed(CHANGES[change](image)) for name, image in embedded.items()}
    if "crop" in change or "all" in change:
        del known["brick"]  # a texture without coarse structure does not survive it
    assert look_alikes(known, changed) == [(name, name) for name in known]


def test_the_eight_positions_by_brute_force(embedded):
    """Comparing one hash in eight positions is comparing it with the hashes of eight images."""

    def differing(a, b):
        return (int(a, 16) ^ int(b, 16)).bit_count()

    names = list(embedded)[:5]
    pixels = {name: np.asarray(embedded[name].convert("L"))[..., None] for name in names}
    for name, other in itertools.product(names, names):
        turned = [np.rot90(pixels[other], k) for k in range(4)]
        positions = [perceptual_hash(p) for t in turned for p in (t, t[:, ::-1])]
        least = min(differing(perceptual_hash(pixels[name]), p) for p in positions)
        found = look_alikes({"a": perceptual_hash(pixels[name])}, {"b": positions[5]})
        assert bool(found) == (least <= THRESHOLD)


def test_depth_colour_and_emptiness(rng):
    pixels = np.kron(rng.integers(0, 256, (6, 5, 1)), np.ones((9, 9, 1))).astype(np.uint8)
    known = perceptual_hash(pixels)
    assert len(known) == 16
    assert perceptual_hash(pixels.astype(np.uint16) * 257) == known
    assert perceptual_hash(pixels.repeat(3, axis=2)) == known
    assert perceptual_hash(np.full((40, 40, 1), 7, np.uint8)) is None
    assert look_alikes({"a": known, "c": "no hash"}, {"b": known, "d": 5}) == [("a", "b")]
    assert look_alikes({"a": None}, {"b": None}) == look_alikes({}, {"b": known}) == []


def test_findings_are_warned_of_and_recorded(tmp_path, embedded, caplog):
    for split in ("train", "val", "test"):
        (tmp_path / split).mkdir()
    embedded["camera"].save(tmp_path / "train" / "a.png")
    CHANGES["all of it"](embedded["camera"]).save(tmp_path / "test" / "b.png")
    embedded["coins"].save(tmp_path / "val" / "c.png")
    embedded["coins"].save(tmp_path / "test" / "d.png")
    splits = {split: str(tmp_path / split) for split in ("train", "val", "test")}
    task = Photographs(Folder(**splits))
    task.prepare(["train", "val", "test"], (1, 1), "a pixel")
    found = task.fingerprints()
    assert found["similar"] == ["a.png (train) ~ b.png (test)"]
    assert found["shared"] == ["c.png (val) = d.png (test)"]
    assert "nearly the same image is in two splits: a.png (train) ~ b.png (test)" in caplog.text
    alone = Photographs(Folder(**splits))  # an evaluation reads the test split only
    alone.prepare(["test"], (1, 1), "a pixel")
    now = alone.fingerprints()
    assert now["similar"] == now["shared"] == []
    now = _add_leaks(now, found)
    assert now["similar"] == ["a.png (train of the run) ~ b.png (test)"]
    assert now["shared"] == ["c.png (val of the run) = d.png (test)"]
    nothing = {split: {"files": {}} for split in splits}
    assert _add_leaks(now, nothing) == now


def real_set(folder):
    sources = [(f.name, lambda f=f: read_image(f)) for f in image_files(str(folder), "set")]
    return ImageSet(sources, channels=1)


@pytest.mark.slow
def test_real_sets_have_no_false_alarms(real_data):
    names = ("bsd400_gray", "set12", "bsd68", "set14")
    if not all((real_data / name).is_dir() for name in names):
        pytest.skip("not all of bsd400_gray, set12, bsd68 and set14 are there")
    sets = {name: real_set(real_data / name) for name in names}
    assert similar_images(sets) == [  # the same photographs, in other versions
        "03.png (set12) ~ pepper.bmp (set14)",
        "08.png (set12) ~ lenna.bmp (set14)",
        "11.png (set12) ~ man.bmp (set14)",
    ]
    for name in ("set12", "bsd68"):
        files = image_files(str(real_data / name), "set")
        images = {file.name: Image.open(file) for file in files}
        for change, apply in CHANGES.items():
            found = look_alikes(
                sets[name].perceptual, {k: hashed(apply(image)) for k, image in images.items()}
            )
            assert found == [(k, k) for k in images], change
