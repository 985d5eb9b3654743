"""What a file says beside its pixels, and what a file that is written says of the same."""

import io
import struct
from dataclasses import replace
from fractions import Fraction

import numpy as np
import png_cases
import pytest
import tifffile
from image_case import GRAY_LIKE, SRGB_LIKE
from made_tiff import Layout, Page, tiff
from PIL import Image
from png_cases import chunk

from bmo_cli.data.images.description import Resolution
from bmo_cli.data.images.file import read_image, write_image
from bmo_cli.data.images.photograph import Photograph

SUFFIXES = (".png", ".jpg", ".bmp", ".tif")
CMYK_LIKE = SRGB_LIKE.replace(b"RGB ", b"CMYK")


@pytest.fixture
def colour(rng):
    return rng.integers(0, 256, (16, 24, 3), dtype=np.uint8)


def source(folder, pixels, suffix, resolution=(300, 300), **options):
    """A photograph that Pillow has written."""
    Image.fromarray(pixels).save(folder / f"in{suffix}", dpi=resolution, **options)
    return read_image(folder / f"in{suffix}")


def said_by_pillow(file):
    with Image.open(file) as image:
        return image.info.get("icc_profile"), image.info.get("dpi")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("target", [".png", ".jpg", ".tif"])
def test_profile_and_resolution_go_from_format_to_format(tmp_path, colour, suffix, target, caplog):
    image = source(tmp_path, colour, suffix, (300, 150), icc_profile=SRGB_LIKE)
    write_image(tmp_path / f"out{target}", image)
    profile, dpi = said_by_pillow(tmp_path / f"out{target}")
    assert profile == SRGB_LIKE
    assert dpi == pytest.approx((300, 150), abs=0.02)
    assert caplog.text == ""


def test_a_bmp_holds_a_resolution_and_no_profile(tmp_path, colour, caplog):
    image = source(tmp_path, colour, ".png", (300, 150), icc_profile=SRGB_LIKE)
    write_image(tmp_path / "out.bmp", image)
    again = read_image(tmp_path / "out.bmp")
    assert again.description.resolution == Resolution(Fraction(11811), Fraction(5906), "m")
    assert said_by_pillow(tmp_path / "out.bmp")[1] == pytest.approx((300, 150), abs=0.02)
    assert caplog.messages == [f"{tmp_path / 'out.bmp'} does not hold the ICC profile"]


@pytest.mark.parametrize(
    ("gray", "profile", "reason"),
    [
        (False, CMYK_LIKE, "which is for CMYK images, this one is RGB"),
        (True, SRGB_LIKE, "which is for RGB images, this one is GRAY"),
        (False, b"no profile", "which is damaged"),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_a_profile_of_other_colours_is_left_out(
    tmp_path, colour, gray, profile, reason, suffix, caplog
):
    pixels = colour[..., 0] if gray else colour
    image = source(tmp_path, pixels, suffix, icc_profile=profile)
    assert image.description.profile == profile
    write_image(tmp_path / f"out{suffix}", image)
    assert not said_by_pillow(tmp_path / f"out{suffix}")[0]
    assert len(caplog.messages) == 1
    assert reason in caplog.text


def test_a_gray_profile_stays_with_a_gray_image(tmp_path, colour):
    image = source(tmp_path, colour[..., 0], ".jpg", icc_profile=GRAY_LIKE)
    write_image(tmp_path / "out.tif", image)
    assert read_image(tmp_path / "out.tif").description.profile == GRAY_LIKE


@pytest.mark.parametrize("unit", ["um", "nm", "mm", "cm", "inch", "\\u00B5m", "micron", "sec"])
def test_units_of_imagej(tmp_path, rng, unit, caplog):
    values = rng.integers(0, 65536, (9, 7)).astype(np.uint16)
    tifffile.imwrite(
        tmp_path / "in.tif", values, imagej=True, resolution=(10.0, 7.5), metadata={"unit": unit}
    )
    image = read_image(tmp_path / "in.tif")
    write_image(tmp_path / "out.tif", image)
    again = read_image(tmp_path / "out.tif")
    assert again.description.resolution == image.description.resolution
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        tags = file.pages[0].tags
        assert tags["XResolution"].value == (10, 1)
        assert tags["YResolution"].value == (15, 2)
        known = {"\\u00B5m": "um", "micron": "um"}.get(unit, unit)
        if unit in ("cm", "inch"):
            assert tags["ResolutionUnit"].value == {"inch": 2, "cm": 3}[unit]
        else:
            assert file.imagej_metadata["unit"] == known
    assert caplog.text == ""
    write_image(tmp_path / "out.png", image)
    metres = {"um": 1e6, "nm": 1e9, "mm": 1e3, "cm": 100, "inch": 1 / 0.0254}.get(known)
    lost = metres is None or 10 * metres > 2**31
    assert ("does not hold the resolution" in caplog.text) == lost
    if not lost:
        actual = read_image(tmp_path / "out.png").description.resolution
        assert float(actual.x) == pytest.approx(10 * metres, abs=0.5)
        assert float(actual.y) == pytest.approx(7.5 * metres, abs=0.5)


def test_size_of_a_pixel_in_an_ome_tiff(tmp_path, rng):
    values = rng.integers(0, 65536, (9, 7)).astype(np.uint16)
    metadata = {"PhysicalSizeX": 0.1, "PhysicalSizeY": 0.2, "PhysicalSizeXUnit": "µm"}
    metadata["PhysicalSizeYUnit"] = "µm"
    tifffile.imwrite(tmp_path / "in.ome.tif", values, ome=True, metadata=metadata)
    write_image(tmp_path / "out.tif", read_image(tmp_path / "in.ome.tif"))
    actual = read_image(tmp_path / "out.tif").description.resolution
    assert actual == Resolution(Fraction(10), Fraction(5), "um")


def test_what_a_jpeg_cannot_hold_is_said(tmp_path, rng, caplog):
    values = rng.integers(0, 256, (9, 7, 1))
    tags = [(262, "H", 1), (282, "R", [254000, 1]), (283, "R", [254000, 1]), (296, "H", 3)]
    (tmp_path / "in.tif").write_bytes(tiff(Page(values, Layout(bits=8), tags)))
    write_image(tmp_path / "out.jpg", read_image(tmp_path / "in.tif"))
    assert "does not hold the resolution (254000 x 254000 pixels per cm)" in caplog.text


def test_a_square_pixel_without_a_unit_is_nothing_to_lose(tmp_path, rng, caplog):
    values = rng.integers(0, 256, (9, 7, 1))
    for x, lost in ((30, False), (31, True)):
        tags = [(262, "H", 1), (282, "R", [x, 1]), (283, "R", [30, 1]), (296, "H", 1)]
        (tmp_path / "in.tif").write_bytes(tiff(Page(values, Layout(bits=8), tags)))
        write_image(tmp_path / "out.bmp", read_image(tmp_path / "in.tif"), overwrite=True)
        assert ("does not hold the resolution" in caplog.text) == lost


def test_a_resolution_that_rounds_by_more_than_a_hundredth_is_left_out(tmp_path, rng, caplog):
    values = rng.integers(0, 256, (9, 7, 1))
    tags = [(262, "H", 1), (282, "R", [3, 200]), (283, "R", [3, 200]), (296, "H", 3)]  # 1.5 a metre
    (tmp_path / "in.tif").write_bytes(tiff(Page(values, Layout(bits=8), tags)))
    for suffix in (".png", ".bmp", ".jpg"):
        write_image(tmp_path / f"out{suffix}", read_image(tmp_path / "in.tif"))
    assert len(caplog.messages) == 3


@pytest.mark.parametrize(("unit", "expected"), [(1, (0, 3, 2)), (2, (1, 30, 20)), (3, (2, 30, 20))])
def test_units_of_a_jpeg(tmp_path, rng, unit, expected):
    values = rng.integers(0, 256, (9, 7, 1))
    tags = [(262, "H", 1), (282, "R", [30, 1]), (283, "R", [20, 1]), (296, "H", unit)]
    (tmp_path / "in.tif").write_bytes(tiff(Page(values, Layout(bits=8), tags)))
    write_image(tmp_path / "out.jpg", read_image(tmp_path / "in.tif"))
    with Image.open(tmp_path / "out.jpg") as image:
        assert (image.info["jfif_unit"], *image.info["jfif_density"]) == expected


def test_resolution_of_exif_where_jfif_says_nothing(tmp_path, colour):
    exif = Image.Exif()
    exif[0x011A], exif[0x011B], exif[0x0128] = 72.5, 36.25, 2
    image = source(tmp_path, colour, ".jpg", (0, 0), exif=exif)
    assert image.description.resolution == Resolution(Fraction(145, 2), Fraction(145, 4), "inch")


def test_resolution_turns_with_the_image(tmp_path, rng):
    values = rng.integers(0, 256, (9, 7, 1))
    tags = [(262, "H", 1), (274, "H", 6), (282, "R", [300, 1]), (283, "R", [150, 1])]
    (tmp_path / "in.tif").write_bytes(tiff(Page(values, Layout(bits=8), tags)))
    image = read_image(tmp_path / "in.tif")
    assert image.pixels.shape == (7, 9, 1)
    assert image.description.resolution == Resolution(Fraction(150), Fraction(300), "inch")
    assert (image.description.width, image.description.height) == (9, 7)


def test_resolution_follows_the_size(tmp_path, colour):
    image = source(tmp_path, colour, ".png")
    larger = image.with_pixels(colour.repeat(2, axis=0).repeat(3, axis=1), None)
    write_image(tmp_path / "out.png", larger)
    assert said_by_pillow(tmp_path / "out.png")[1] == pytest.approx((900, 600), abs=0.03)
    same = image.with_pixels(colour, None)
    assert same.description == image.description


@pytest.mark.parametrize("suffix", [".tif", ".png"])
@pytest.mark.parametrize("bits", [8, 16])
def test_alpha_is_written_as_what_it_was(tmp_path, rng, suffix, bits):
    white = 2**bits - 1
    alpha = rng.integers(1, white + 1, (9, 7))
    colour = rng.integers(0, white + 1, (9, 7, 3)) * alpha[..., None] // white
    for kind in (1, 2):
        tags = [(262, "H", 2), (338, "H", kind)]
        content = tiff(Page(np.dstack([colour, alpha]), Layout(bits=bits), tags))
        (tmp_path / "in.tif").write_bytes(content)
        image = read_image(tmp_path / "in.tif")
        write_image(tmp_path / f"out{suffix}", image, overwrite=True)
        if suffix == ".tif":
            with tifffile.TiffFile(tmp_path / "out.tif") as file:
                assert file.pages[0].extrasamples == (kind,)
                np.testing.assert_array_equal(file.asarray(), np.dstack([colour, alpha]))
        else:  # which knows no other alpha
            again = read_image(tmp_path / "out.png")
            np.testing.assert_array_equal(again.pixels, image.pixels)
            np.testing.assert_array_equal(again.alpha, alpha)


def test_what_a_png_says_of_its_colours_stays(tmp_path, rng, caplog):
    gamma = chunk(b"gAMA", struct.pack(">I", 100000))
    content = png_cases.png(rng, rng.integers(0, 256, (9, 7, 3)), 8, 2, gamma)
    (tmp_path / "in.png").write_bytes(content)
    image = read_image(tmp_path / "in.png")
    write_image(tmp_path / "out.png", image)
    assert gamma in (tmp_path / "out.png").read_bytes()
    np.testing.assert_array_equal(read_image(tmp_path / "out.png").pixels, image.pixels)
    assert caplog.text == ""
    write_image(tmp_path / "out.jpg", image)
    assert "does not hold the PNG's gAMA" in caplog.text


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_metadata_that_are_not_written_are_named(tmp_path, colour, suffix, caplog):
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image(tmp_path / "plain.png", source(tmp_path, colour, suffix, exif=exif))
    assert caplog.text == ""
    exif[0x010F] = "a camera"
    write_image(tmp_path / "camera.png", source(tmp_path, colour, suffix, exif=exif))
    (line,) = caplog.messages
    assert line.endswith("camera.png does not hold the EXIF")


def test_a_geographic_reference_that_is_not_written_is_named(tmp_path, rng, caplog):
    values = rng.integers(0, 256, (9, 7, 1))
    tags = [(262, "H", 1), (34735, "H", [1, 1, 0, 0]), (700, "B", b"<xmp/>")]
    (tmp_path / "in.tif").write_bytes(tiff(Page(values, Layout(bits=8), tags)))
    write_image(tmp_path / "out.tif", read_image(tmp_path / "in.tif"))
    assert caplog.messages[0].endswith("does not hold the XMP; the geographic reference")


def test_a_photograph_without_a_file_is_written_as_before(tmp_path, rng, caplog):
    pixels = rng.integers(0, 65536, (9, 7, 3)).astype(np.uint16)
    for suffix in (".png", ".tif"):
        write_image(tmp_path / f"out{suffix}", Photograph(pixels))
        again = read_image(tmp_path / f"out{suffix}")
        np.testing.assert_array_equal(again.pixels, pixels)
        assert replace(again.description, resolution=None).profile is None
    assert caplog.text == ""
    stream = io.BytesIO((tmp_path / "out.tif").read_bytes())
    assert 281 not in tifffile.TiffFile(stream).pages[0].tags
