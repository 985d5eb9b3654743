"""The value that stands for white: from the bits, from a tag, or from the user."""

import logging

import numpy as np
import pytest
import tifffile
from made_tiff import Layout, Page, tiff

from bmo_cli.data.images.file import read_image, write_image
from bmo_cli.data.images.photograph import Photograph
from bmo_cli.data.splits import Folder, Paired
from bmo_cli.errors import InputError


def save(folder, values, bits=16, white=None, name="a.tif", photometric=1):
    """A TIFF of these values (H, W), with the tag MaxSampleValue where `white` is given."""
    tags = [(262, "H", photometric)] + ([(281, "H", white)] if white else [])
    (folder / name).write_bytes(tiff(Page(values[..., None], Layout(bits=bits), tags)))
    return folder / name


@pytest.mark.parametrize("white", [1, 100, 255, 1023, 4095, 10000, 16383, 65534])
@pytest.mark.parametrize("by_tag", [False, True])
def test_every_value_goes_to_full_range_and_back(tmp_path, white, by_tag):
    values = np.arange(white + 1)[None]
    file = save(tmp_path, values, white=white if by_tag else None)
    image = read_image(file, white=None if by_tag else white)
    right = values[..., None] / white
    assert np.abs(image.pixels / 65535 - right).max() <= 0.51 / 65535
    assert (image.white, image.clipped) == (white, 0)
    write_image(tmp_path / "out.tif", image)
    with tifffile.TiffFile(tmp_path / "out.tif") as written:
        np.testing.assert_array_equal(written.asarray(), values)
        assert written.pages[0].tags[281].value == white
        assert written.pages[0].bitspersample == 16


def test_the_user_knows_better_than_the_tag(tmp_path, rng):
    file = save(tmp_path, rng.integers(0, 1001, (9, 7)), white=4095)
    assert read_image(file).white == 4095
    assert read_image(file, white=1000).white == 1000
    full = read_image(file, white=65535)
    assert full.white == 65535
    np.testing.assert_array_equal(full.pixels[..., 0], tifffile.imread(file))


def test_white_is_zero_counts_from_white(tmp_path):
    values = np.array([[0, 4095, 1000]])
    for options in ({"white": 4095}, {"bits": 12}):
        image = read_image(save(tmp_path, values, photometric=0, **options))
        np.testing.assert_allclose(image.pixels[0, :, 0] / 65535, [1, 0, 3095 / 4095], atol=1e-5)


def test_values_above_white(tmp_path):
    values = np.array([[0, 4095, 4096, 65535]])
    with pytest.raises(
        InputError, match=r"says that white is 4095 .* holds 2 larger values; white="
    ):
        read_image(save(tmp_path, values, white=4095))
    image = read_image(save(tmp_path, values), white=4095)
    assert image.clipped == 2
    np.testing.assert_array_equal(image.pixels[0, :, 0], [0, 65535, 65535, 65535])


def test_white_above_what_a_file_can_hold(tmp_path, rng):
    write_image(tmp_path / "a.png", Photograph(rng.integers(0, 256, (9, 7, 1), dtype=np.uint8)))
    message = r"data\.white=4095 is more than the largest value that .*a\.png can hold, 255"
    with pytest.raises(InputError, match=message):
        Folder(test=str(tmp_path), white=4095).load("test")


def test_a_png_is_written_at_full_range(tmp_path, rng, caplog):
    image = read_image(save(tmp_path, rng.integers(0, 4096, (9, 7)), white=4095))
    write_image(tmp_path / "out.png", image)
    assert "does not hold the white level 4095" in caplog.text
    np.testing.assert_array_equal(read_image(tmp_path / "out.png").pixels, image.pixels)


def test_folders_and_pairs_take_white(tmp_path, rng):
    values = rng.integers(0, 4096, (9, 7))
    for kind in ("clean", "rain"):
        (tmp_path / kind).mkdir()
        save(tmp_path / kind, values)
    right = np.round(values * (65535 / 4095))
    pairs = Paired(test=str(tmp_path), white=4095, channels=1)
    for images in (
        Folder(test=str(tmp_path / "rain"), white=4095).load("test"),
        pairs.load("test"),
        pairs.observed("test"),
    ):
        np.testing.assert_array_equal(images[0][0], right)


def dark_lines(caplog):
    return [message for message in caplog.messages if "a quarter of white" in message]


def test_dark_photographs_are_named_in_one_line(tmp_path, rng, caplog):
    for i in range(6):
        save(tmp_path, np.clip(rng.integers(0, 4000, (9, 7)), 0, 3900 + i), name=f"{i}.tif")
    save(tmp_path, rng.integers(0, 65536, (9, 7)), name="bright.tif")
    save(tmp_path, np.zeros((9, 7), int), name="black.tif")
    Folder(test=str(tmp_path)).load("test")
    (line,) = dark_lines(caplog)
    assert "0.tif: 39" in line
    assert "of 65535" in line
    assert "and 2 more" in line
    assert line.endswith("if white is 4095 there, say data.white=4095")
    assert "bright" not in line


@pytest.mark.parametrize(
    ("largest", "options", "white", "dark"),
    [
        (16383, {}, None, True),
        (16384, {}, None, False),
        (1023, {"bits": 12}, None, True),
        (1024, {"bits": 12}, None, False),
        (63, {"bits": 8}, None, True),
        (500, {"white": 4095}, None, False),
        (500, {}, 4095, False),
    ],
)
def test_what_counts_as_dark(tmp_path, caplog, largest, options, white, dark):
    caplog.set_level(logging.WARNING)
    save(tmp_path, np.array([[0, largest]]), **options)
    Folder(test=str(tmp_path), white=white).load("test")
    assert len(dark_lines(caplog)) == dark


def test_an_unusual_white_of_files_is_named_in_one_line(tmp_path, rng, caplog):
    for white in (4095, 3921, 1000):
        save(tmp_path, rng.integers(0, white + 1, (9, 7)), white=white, name=f"{white}.tif")
    Folder(test=str(tmp_path)).load("test")
    line = "white is what MaxSampleValue says in 1000.tif: 1000, 3921.tif: 3921; data.white=N sets"
    assert [message.startswith(line) for message in caplog.messages] == [True]
    caplog.clear()
    Folder(test=str(tmp_path), white=4095).load("test")
    assert caplog.messages == []


def test_clipped_values_are_counted_in_one_line(tmp_path, caplog):
    for i in range(2):
        save(tmp_path, np.array([[0, 4095, 5000, 6000]]), name=f"{i}.tif")
    Folder(test=str(tmp_path), white=4095).load("test")
    expected = "values above data.white=4095 were clipped in 0.tif: 2, 1.tif: 2"
    assert caplog.messages.count(expected) == 1
