"""Photographs as they come from cameras and editors, on every way into the program."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from bmo_cli.data.images.file import Photograph, read_image, write_image
from bmo_cli.data.splits import Folder, Paired
from bmo_cli.errors import InputError

ROTATED = 6
"""EXIF: the first row is the right-hand side."""


@pytest.fixture
def colour(rng):
    return rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)


def pair(folder, clean, rain):
    """A folder of one pair; both are functions that write a file."""
    for kind, write in (("clean", clean), ("rain", rain)):
        (folder / kind).mkdir()
        write(folder / kind)
    return Paired(test=str(folder))


def png(pixels, name="a.png"):
    return lambda folder: Image.fromarray(pixels).save(folder / name)


def exif(orientation):
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def test_alpha_is_left_out_of_pairs(tmp_path, colour):
    with_alpha = np.dstack([colour, np.full(colour.shape[:2], 77, np.uint8)])
    data = pair(tmp_path, png(with_alpha), png(255 - colour))
    np.testing.assert_array_equal(data.load("test")[0], colour.transpose(2, 0, 1))
    np.testing.assert_array_equal(data.observed("test")[0], 255 - data.load("test")[0])


def test_gray_with_alpha_is_gray(tmp_path, colour):
    Image.fromarray(colour[..., :2], mode="LA").save(tmp_path / "a.png")
    found = Folder(test=str(tmp_path)).load("test")
    assert found.bands == [1]
    np.testing.assert_array_equal(found[0][0], colour[..., 0])


@pytest.mark.parametrize("transparent", [False, True])
def test_palette_in_a_pair_is_colour(tmp_path, colour, transparent):
    few = colour // 128 * 255
    image = Image.fromarray(few).quantize(8)
    options = {"transparency": 0} if transparent else {}
    data = pair(tmp_path, lambda f: image.save(f / "a.png", **options), png(colour))
    np.testing.assert_array_equal(data.load("test")[0], few.transpose(2, 0, 1))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_depths_within_a_pair_may_differ(tmp_path, colour, suffix):
    deep = Photograph(colour.astype(np.uint16) * 257)
    data = pair(tmp_path, png(colour), lambda folder: write_image(folder / f"a{suffix}", deep))
    clean, rain = data.load("test")[0], data.observed("test")[0]
    np.testing.assert_allclose(rain / 65535, clean / 255)


def test_exif_rotation_counts_before_sizes_are_compared(tmp_path, colour):
    def stored_on_its_side(folder):
        Image.fromarray(np.rot90(colour)).save(folder / "a.png", exif=exif(ROTATED))

    data = pair(tmp_path, png(colour), stored_on_its_side)
    np.testing.assert_array_equal(data.observed("test")[0], data.load("test")[0])
    (tmp_path / "b").mkdir()
    on_its_side = pair(tmp_path / "b", png(colour), png(np.rot90(colour)))
    with pytest.raises(InputError, match=r"is 12 x 16 but its partner .* is 16 x 12"):
        on_its_side.load("test")


def test_cmyk_in_a_pair_is_named(tmp_path, colour):
    data = pair(
        tmp_path, png(colour), lambda f: Image.new("CMYK", (16, 12)).save(f / "a.jpg", quality=90)
    )
    with pytest.raises(InputError, match=r"rain/a\.jpg is a CMYK image; expected gray or RGB"):
        data.load("test")


def test_gray_rain_against_a_colour_background(tmp_path, colour):
    data = pair(tmp_path, png(colour), png(colour[..., 0]))
    with pytest.raises(InputError, match=r"is colour but its partner .* is gray; both must be"):
        data.load("test")


def claims(kind, folder):
    """A file of 300 x 400 pixels in few bytes."""
    pixels = np.zeros((300, 400), np.uint16 if "16" in kind else np.uint8)
    if kind.startswith("tiff"):
        tifffile.imwrite(folder / "a.tif", pixels, compression="zlib")
        return folder / "a.tif"
    write_image(folder / "a.png", Photograph(pixels[..., None]))
    return folder / "a.png"


@pytest.mark.parametrize("kind", ["png 8", "png 16", "tiff 8", "tiff 16"])
def test_files_beyond_the_limit_are_refused_before_they_are_decoded(tmp_path, kind, monkeypatch):
    file = claims(kind, tmp_path)
    assert Folder(test=str(file), max_megapixels=0.12).load("test").sizes == [(300, 400)]

    def decoded(*_args, **_kwargs):
        raise AssertionError("decoded")

    monkeypatch.setattr("bmo_cli.data.images.png.png_decode", decoded)
    monkeypatch.setattr(tifffile.TiffPage, "asarray", decoded)
    message = r"claims 400 x 300 pixels, more than the 0.1 megapixels.*; data.max_megapixels=1 allo"
    with pytest.raises(InputError, match=message):
        Folder(test=str(file), max_megapixels=0.1).load("test")
    with pytest.raises(InputError, match=r"megapixels that are read$"):
        read_image(file, 0.1)
