"""Image files of every kind: read as they are, or refused by a line that names what they are."""

import io
import json
import re
import struct
import zlib
from dataclasses import replace

import numpy as np
import png_cases
import pytest
import tifffile
from image_case import SRGB_LIKE, stored
from imagecodecs import jpeg8_encode
from made_tiff import Layout, Page, tiff
from PIL import Image
from png_cases import chunk

from bmo_cli.data.images.file import read_image, write_image
from bmo_cli.data.images.image_set import image_files
from bmo_cli.errors import InputError

GRAY, RGB = (262, "H", 1), (262, "H", 2)


@pytest.fixture
def scene():
    """(64, 64) of a scene in [0.1, 0.9]."""
    y, x = np.mgrid[:64, :64]
    return 0.5 + 0.2 * np.sin(y / 5) + 0.2 * np.cos(x / 7)


def save(folder, content, name="a.tif"):
    (folder / name).write_bytes(content)
    return folder / name


def refusal(folder, content, name="a.tif"):
    with pytest.raises(InputError) as error:
        read_image(save(folder, content, name))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("inverted", [False, True])
def test_white_of_a_packed_tiff_is_that_of_its_bits(tmp_path, scene, bits, inverted):
    white = 2**bits - 1
    values = np.round(scene[..., None] * white).astype(int)
    page = Page(
        white - values if inverted else values, Layout(bits=bits), [(262, "H", not inverted)]
    )
    image = read_image(save(tmp_path, tiff(page)))
    assert image.depth == (8 if bits <= 8 else 16)
    assert np.abs(image.pixels / image.levels - values / white).max() <= 0.51 / image.levels


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    ("photometric", "bands", "name"),
    [
        (5, 4, "CMYK"),
        (8, 3, "CIELab"),
        (9, 3, "ICCLab"),
        (6, 3, "YCbCr"),
        (32803, 1, r"raw (CFA)"),
        (34892, 3, "linear raw"),
        (4, 1, "transparency mask"),
        (1234, 3, "photometric 1234"),
    ],
)
def test_other_colour_models_are_named(tmp_path, rng, bits, photometric, bands, name):
    values = rng.integers(0, 2**bits, (9, 7, bands))
    page = Page(values, Layout(bits=bits), [(262, "H", photometric)])
    assert f"is a {name} image; expected gray or RGB" in refusal(tmp_path, tiff(page))


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_palettes_are_resolved(tmp_path, rng, bits):
    colours = rng.integers(0, 65536, (2**bits, 3))
    values = rng.integers(0, 2**bits, (9, 7, 1))
    tags = [(262, "H", 3), (320, "H", colours.T.reshape(-1).tolist())]
    image = read_image(save(tmp_path, tiff(Page(values, Layout(bits=bits), tags))))
    right = colours[values[..., 0]]
    np.testing.assert_array_equal(image.pixels, right if bits == 16 else right // 256)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    ("planes", "extra"), [(3, [0]), (1, [0]), (3, None), (3, [0, 0]), (1, [2, 2]), (3, [1, 0])]
)
def test_bands_that_are_no_alpha_are_refused(tmp_path, rng, bits, planes, extra):
    values = rng.integers(0, 2**bits, (9, 7, planes + len(extra or [0])))
    tags = [GRAY if planes == 1 else RGB] + ([(338, "H", extra)] if extra else [])
    said = refusal(tmp_path, tiff(Page(values, Layout(bits=bits), tags)))
    assert "alpha" in said
    assert "expected" in said


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_premultiplied_alpha_is_divided_out(tmp_path, rng, bits):
    white = 2**bits - 1
    alpha = rng.integers(0, white + 1, (9, 7))
    alpha[0] = 0
    colour = rng.integers(0, white + 1, (9, 7, 3)) * alpha[..., None] // white
    page = Page(np.dstack([colour, alpha]), Layout(bits=bits), [RGB, (338, "H", 1)])
    image = read_image(save(tmp_path, tiff(page)))
    seen = colour[1:] / np.maximum(alpha[1:, :, None], 1)
    assert np.abs(image.pixels[1:] / image.levels - seen).max() <= 0.51 / image.levels
    assert not image.pixels[0].any()
    brighter = Page(
        np.full((2, 2, 2), [white, white // 2]), Layout(bits=bits), [GRAY, (338, "H", 1)]
    )
    assert (read_image(save(tmp_path, tiff(brighter))).pixels == image.levels).all()
    assert np.abs(image.alpha / image.levels - alpha / white).max() <= 0.51 / image.levels


@pytest.mark.parametrize(
    ("layout", "reason"),
    [
        (Layout(bits=16, predictor=True), "predictor 2 without a compression"),
        (Layout(bits=16, predictor=True, compression="packbits"), "predictor 2 without"),
        (Layout(bits=12, predictor=True, compression="lzw"), "predictor 2 on samples of 12 bits"),
        (Layout(bits=8, tile=(16384, 16)), None),
    ],
)
def test_layouts_that_programs_read_differently_are_refused(tmp_path, rng, layout, reason):
    values = rng.integers(0, 2**layout.bits, (9, 7, 1))
    content = tiff(Page(values, layout, [GRAY]))
    if reason is None:
        assert read_image(save(tmp_path, content)).pixels.shape == (9, 7, 1)
        content = content.replace(struct.pack("<I", 16384), struct.pack("<I", 1 << 24))
        reason = "has tiles of 16 x 16777216 pixels"
    assert reason in refusal(tmp_path, content)


def test_values_that_mean_nothing_are_refused(tmp_path, rng):
    values = rng.integers(0, 256, (9, 7, 1))
    assert "PhotometricInterpretation" in refusal(tmp_path, tiff(Page(values, Layout(bits=8))))


@pytest.mark.parametrize(
    ("code", "bits", "kind"), [(1, 32, "uint32"), (2, 16, "int16"), (3, 32, "float32")]
)
def test_samples_that_are_no_photograph(tmp_path, rng, code, bits, kind):
    values = rng.integers(0, 100, (9, 7, 1)).astype("f4" if code == 3 else int)
    content = tiff(Page(values, Layout(bits=bits), [GRAY, (339, "H", code)]))
    assert f"holds {kind} samples" in refusal(tmp_path, content)


def planes(rng, count=3):
    return [rng.integers(0, 65536, (9, 7, 1)) for _ in range(count)]


@pytest.mark.parametrize(
    "tags",
    [
        [(270, "A", "ImageJ=1.53t\nimages=3\nslices=3\n")],
        [(270, "A", "ImageJ=1.53t\nchannels=3\nhyperstack=true\n")],
        [(270, "A", "ImageJ=1.53t\nimages=6\nchannels=3\nframes=2\n")],
        [(270, "A", json.dumps({"shape": [3, 9, 7], "truncated": True}))],
        [(32997, "I", 3)],
    ],
)
def test_one_page_that_stands_for_three_planes(tmp_path, rng, tags):
    first, *others = planes(rng)
    more = b"".join(v.astype("<u2").tobytes() for v in others)
    content = tiff(Page(first, Layout(bits=16), [GRAY, *tags]), tail=more)
    assert re.search("holds [36] pages or frames", refusal(tmp_path, content))
    alone = read_image(save(tmp_path, tiff(Page(first, Layout(bits=16), [GRAY]))))
    np.testing.assert_array_equal(alone.pixels, first)


@pytest.mark.parametrize(
    ("note", "frames"),
    [
        ("images=3\nslices=3", 3),
        ("images=3\nchannels=3", 1),
        ("images=6\nchannels=3\nslices=2", 2),
        ("images=1", 1),
    ],
)
def test_bands_of_imagej_are_no_planes_but_planes_of_colour_are(tmp_path, rng, note, frames):
    values = rng.integers(0, 256, (9, 7, 3))
    content = tiff(Page(values, Layout(bits=8), [RGB, (270, "A", f"ImageJ=1.53t\n{note}\n")]))
    if frames > 1:
        assert f"holds {frames} pages or frames" in refusal(tmp_path, content)
    else:
        np.testing.assert_array_equal(read_image(save(tmp_path, content)).pixels, values)


def test_a_smaller_copy_is_no_second_page_but_comes_second(tmp_path, rng):
    first, second, _ = planes(rng)
    whole = Page(first, Layout(bits=16), [GRAY])
    copy = Page(first[::2], Layout(bits=16), [GRAY, (254, "I", 1)])
    np.testing.assert_array_equal(read_image(save(tmp_path, tiff(whole, copy))).pixels, first)
    assert "begins with the preview" in refusal(tmp_path, tiff(copy))
    assert "holds 2 pages" in refusal(tmp_path, tiff(whole, replace(whole, values=second)))


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "MPO", "TIFF"])
def test_files_of_several_frames_are_refused(tmp_path, scene, kind):
    frames = [Image.fromarray(np.uint8(a * 255)) for a in (scene, scene[::-1], scene.T)]
    stream = io.BytesIO()
    frames[0].convert("RGB").save(stream, kind, save_all=True, append_images=frames[1:])
    named = {"GIF": "is a GIF file", "WEBP": "is a WebP file"}
    said = refusal(tmp_path, stream.getvalue(), "a.png")
    assert named.get(kind, "holds 3 pages or frames") in said


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PPM", "ICO", "JPEG2000", "TGA"])
def test_other_formats_are_refused_whatever_their_ending(tmp_path, scene, kind):
    stream = io.BytesIO()
    Image.fromarray(np.uint8(scene * 255)).save(stream, kind)
    assert "PNG, JPEG, BMP or TIFF" in refusal(tmp_path, stream.getvalue(), "a.png")


def test_a_folder_takes_no_ending_that_cannot_be_read(tmp_path, scene, caplog):
    for suffix in ("png", "gif", "webp", "BMP", "tiff", "jpeg", "tif", "jpg"):
        Image.fromarray(np.uint8(scene * 255)).save(tmp_path / f"a.{suffix}")
    names = [file.name for file in image_files(str(tmp_path), "data.test")]
    assert names == ["a.BMP", "a.jpeg", "a.jpg", "a.png", "a.tif", "a.tiff"]
    assert "ignored 2 other files: a.gif, a.webp" in caplog.text
    for name in names:
        assert read_image(tmp_path / name).pixels.shape == (64, 64, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("bits", [1, 8, 16])
def test_orientation_of_png_and_tiff_of_any_depth(tmp_path, rng, orientation, bits):
    upright = rng.integers(0, 2**bits, (9, 7, 1))
    rows = stored(upright, orientation)
    exif = chunk(b"eXIf", png_cases._exif(orientation))
    plain = png_cases.png(rng, rows, bits, 0, b"")
    contents = [
        png_cases.png(rng, rows, bits, 0, exif),
        plain[:-12] + exif + plain[-12:],
        tiff(Page(rows, Layout(bits=bits), [GRAY, (274, "H", orientation)])),
    ]
    for content in contents:
        image = read_image(save(tmp_path, content))
        np.testing.assert_array_equal(
            image.pixels.astype(int) * (2**bits - 1) // image.levels, upright
        )
        assert image.description.orientation == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_jpeg(tmp_path, orientation):
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    rows = np.ascontiguousarray(stored(upright, orientation))
    Image.fromarray(rows).save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    assert np.abs(read_image(tmp_path / "a.jpg").pixels.astype(int) - upright).max() < 12


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_colour_of_a_png_is_alpha(tmp_path, rng, bits):
    values = rng.integers(0, 2**bits, (9, 7, 1))
    key = int(values[3, 3, 0])
    content = png_cases.png(rng, values, bits, 0, chunk(b"tRNS", struct.pack(">H", key)))
    image = read_image(save(tmp_path, content))
    np.testing.assert_array_equal(image.alpha == 0, values[..., 0] == key)
    np.testing.assert_array_equal(image.pixels.astype(int) * (2**bits - 1) // image.levels, values)


def test_an_interlaced_png_says_nothing_to_the_standard_error(tmp_path, rng, capfd):
    values = rng.integers(0, 65536, (9, 7, 4))
    for _ in range(8):  # the writer draws whether it interlaces
        content = png_cases.png(rng, values, 16, 6, chunk(b"sBIT", b"\x99"))
        image = read_image(save(tmp_path, content))
        np.testing.assert_array_equal(np.dstack([image.pixels, image.alpha]), values)
    assert capfd.readouterr().err == ""


def test_every_checksum_of_a_png_counts(tmp_path, rng):
    values = rng.integers(0, 256, (9, 7, 3))
    extra = chunk(b"gAMA", struct.pack(">I", 45455)) + chunk(b"tEXt", b"a\0b")
    content = png_cases.png(rng, values, 8, 2, extra)
    for place in range(8, len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        assert "a.tif" in refusal(tmp_path, bytes(damaged))
    for length in range(1, len(content)):
        refusal(tmp_path, content[:length])
    assert read_image(save(tmp_path, content + b"more")).pixels.shape == (9, 7, 3)


def test_a_png_whose_pixels_are_incomplete(tmp_path):
    header = struct.pack(">IIBBBBB", 7, 9, 8, 0, 0, 0, 1)
    whole = zlib.compress(bytes(82))  # seven passes of 4, 4, 3, 9, 10, 20 and 32 bytes
    wrong_sum = whole[:-1] + bytes([whole[-1] ^ 1])
    for data in (zlib.compress(bytes(81)), zlib.compress(bytes(83)), whole[:-2], wrong_sum):
        content = (
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND")
        )
        reason = refusal(tmp_path, content)
        assert "pixels are incomplete" in reason or "incorrect data check" in reason
    content = content.replace(chunk(b"IDAT", wrong_sum), chunk(b"IDAT", whole))
    assert read_image(save(tmp_path, content)).pixels.shape == (9, 7, 1)


def test_kinds_of_jpeg(tmp_path, scene):
    colour = np.uint8(255 * np.dstack([scene, scene[::-1], scene.T]))
    rgb = jpeg8_encode(colour, level=95, colorspace="rgb", outcolorspace="rgb")
    image = read_image(save(tmp_path, rgb, "a.jpg"))
    assert np.abs(image.pixels.astype(int) - colour).max() < 12
    deep = jpeg8_encode(colour.astype(np.uint16) * 16, level=95, bitspersample=12)
    assert "is a JPEG of 12 bits" in refusal(tmp_path, deep, "a.jpg")
    cmyk = io.BytesIO()
    Image.fromarray(colour).convert("CMYK").save(cmyk, "JPEG")
    assert "is a CMYK image" in refusal(tmp_path, cmyk.getvalue(), "a.jpg")


def test_a_jpeg_that_is_cut_off_is_refused(tmp_path, scene):
    stream = io.BytesIO()
    Image.fromarray(np.uint8(scene * 255)).save(stream, "JPEG", quality=95)
    content = stream.getvalue()
    for length in range(1, len(content), 7):
        refusal(tmp_path, content[:length], "a.jpg")
    filled = content[: len(content) // 2].ljust(len(content), b"\0")  # as some copies are left
    assert "it has no end marker" in refusal(tmp_path, filled, "a.jpg")


def bitmap(rows, bits, compression=0, masks=(), palette=b"", header=40, used=0):
    height, width = rows.shape[:2]
    data = np.ascontiguousarray(rows[::-1]).tobytes()
    fields = struct.pack(
        "<IiiHHIIiiII", header, width, height, 1, bits, compression, len(data), 0, 0, used, 0
    )
    fields += struct.pack(f"<{len(masks)}I", *masks)
    fields = fields.ljust(header, b"\0")
    start = 14 + len(fields) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + fields + palette + data


def test_the_fourth_byte_of_a_bmp_is_alpha_only_where_it_is_declared(tmp_path, rng):
    rows = rng.integers(0, 256, (9, 8, 4), dtype=np.uint8)
    plain = read_image(save(tmp_path, bitmap(rows, 32), "a.bmp"))
    np.testing.assert_array_equal(plain.pixels, rows[..., 2::-1])
    assert plain.alpha is None
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    declared = bitmap(rows, 32, compression=3, masks=masks, header=108)
    image = read_image(save(tmp_path, declared, "a.bmp"))
    np.testing.assert_array_equal(image.alpha, rows[..., 3])
    np.testing.assert_array_equal(image.pixels, rows[..., 2::-1])


def test_alpha_that_the_decoder_leaves_out_is_not_lost(tmp_path, rng):
    rows = rng.integers(0, 256, (9, 8, 2), dtype=np.uint8)
    masks = (0x7C00, 0x3E0, 0x1F, 0x8000)
    content = bitmap(rows, 16, compression=3, masks=masks, header=108)
    assert "its header says 8 x 9 with 4 samples a pixel" in refusal(tmp_path, content, "a.bmp")
    opaque = bitmap(rows, 16, compression=3, masks=(*masks[:3], 0), header=108)
    assert read_image(save(tmp_path, opaque, "a.bmp")).alpha is None


def test_a_profile_in_a_bmp_is_read_whole(tmp_path, rng):
    rows = rng.integers(0, 256, (9, 8, 3), dtype=np.uint8)
    content = bitmap(rows, 24, header=124)
    place = struct.pack("<II", len(content) - 14, len(SRGB_LIKE))
    content = content[:70] + b"DEBM" + content[74:126] + place + content[134:] + SRGB_LIKE
    image = read_image(save(tmp_path, content, "a.bmp"))
    assert image.description.profile == SRGB_LIKE
    np.testing.assert_array_equal(image.pixels, rows[..., ::-1])
    assert "its ICC profile is cut off" in refusal(tmp_path, content[:-1], "a.bmp")


def test_a_bmp_that_pillow_takes_for_other_bits_is_refused(tmp_path, rng):
    rows = rng.integers(0, 2, (9, 8, 1), dtype=np.uint8)
    content = bitmap(rows, 8, palette=bytes(4) + b"\xff\xff\xff\0", used=2)
    assert "a palette of few grays for 8 bits" in refusal(tmp_path, content, "a.bmp")


def test_what_is_missing_in_a_tiff_is_not_filled_with_zeros(tmp_path, rng):
    values = rng.integers(0, 65536, (9, 7, 1))
    content = tiff(Page(values, Layout(bits=16, rows=2), [GRAY, (257, "I", 40)]))
    assert "it lists 5 of 20 strips or tiles" in refusal(tmp_path, content)
    whole = io.BytesIO()
    tifffile.imwrite(whole, values[..., 0].astype(np.uint16), rowsperstrip=2, compression="zlib")
    content = whole.getvalue()
    for length in range(1, len(content)):
        refusal(tmp_path, content[:length])


def test_a_strip_without_bytes_and_a_page_that_is_not_there(tmp_path, rng):
    values = rng.integers(0, 65536, (9, 7, 1))
    content = tiff(Page(values, Layout(bits=16, rows=2), [GRAY]))
    for place, number in ((1, 0), (4, 1 << 20)):
        counts = [28, 28, 28, 28, 14]
        whole = struct.pack("<5I", *counts)
        counts[place] = number
        damaged = content.replace(whole, struct.pack("<5I", *counts))
        assert "a strip or tile lies outside the file" in refusal(tmp_path, damaged)
    pages = tiff(*[Page(values, Layout(bits=16), [GRAY])] * 2)
    second = pages.index(struct.pack("<HHII", 256, 4, 1, 7), len(pages) // 2) - 2
    assert "it names a second page that is not there" in refusal(tmp_path, pages[:second])


@pytest.mark.parametrize("reduced", [False, True])
def test_pages_below_a_page(tmp_path, rng, reduced):
    values = rng.integers(0, 256, (8, 6)).astype(np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(values, subifds=1, photometric="minisblack", metadata=None)
        file.write(values[::2], subfiletype=int(reduced), photometric="minisblack", metadata=None)
    if reduced:
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels[..., 0], values)
        return
    with pytest.raises(InputError, match="holds 2 pages or frames"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("bands", "bits", "tags", "reason"),
    [
        (3, 16, [RGB, (281, "H", [100, 200, 300])], "states a white level .MaxSampleValue. for"),
        (3, 16, [RGB, (258, "H", [5, 6, 5])], "has bands of 5, 6, 5 bits"),
        (1, 8, [GRAY, (259, "H", 4)], "compressed as a fax, but not black and white"),
        (1, 8, [GRAY, (259, "H", 34712)], "is compressed by the method JPEG2000"),
        (1, 8, [GRAY, (259, "H", 6)], "is compressed by the method OJPEG"),
        (1, 8, [GRAY, (259, "H", 65432)], "is compressed by the method 65432"),
        (2, 8, [(262, "H", 3), (320, "H", [0] * 768)], "has a palette and more bands"),
        (4, 8, [RGB, (259, "H", 7), (338, "H", 2)], "holds a JPEG of 8 bits, a palette or alpha"),
        (3, 12, [RGB, (259, "H", 7)], "holds a JPEG of 12 bits"),
        (1, 8, [GRAY, (339, "H", 5)], "complex8 samples"),
    ],
)
def test_kinds_of_tiff_that_are_refused(tmp_path, rng, bands, bits, tags, reason):
    values = rng.integers(0, 32, (9, 7, bands))
    said = refusal(tmp_path, tiff(Page(values, Layout(bits=bits), tags)))
    assert re.search(reason, said)


@pytest.mark.parametrize("photometric", ["rgb", "minisblack"])
def test_a_jpeg_in_a_tiff(tmp_path, scene, photometric):
    """Its YCbCr is the codec's own, and comes out as RGB."""
    bands = [scene, scene[::-1], scene.T] if photometric == "rgb" else [scene]
    pixels = np.uint8(255 * np.dstack(bands))
    array = pixels if photometric == "rgb" else pixels[..., 0]
    tifffile.imwrite(tmp_path / "a.tif", array, photometric=photometric, compression="jpeg")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.pages[0].photometric.name == {"rgb": "YCBCR"}.get(photometric, "MINISBLACK")
    image = read_image(tmp_path / "a.tif")
    assert np.abs(image.pixels.astype(int) - pixels).max() < 12


def test_a_tag_that_cannot_be_read_is_not_left_out(tmp_path, rng):
    values = rng.integers(0, 65536, (9, 7, 2))
    content = tiff(Page(values, Layout(bits=16), [GRAY, (338, "H", 2), (34675, "B", bytes(200))]))
    assert read_image(save(tmp_path, content)).alpha is not None
    assert "its tag 34675 cannot be read" in refusal(tmp_path, content[:-1])
    unknown = content.replace(struct.pack("<HH", 338, 3), struct.pack("<HH", 338, 99))
    assert "its tag 338 cannot be read" in refusal(tmp_path, unknown)


def test_a_file_that_may_not_be_read_is_one_line(tmp_path, monkeypatch, rng):
    file = save(tmp_path, b"some", "a.png")

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", denied)
    with pytest.raises(InputError, match=r"a\.png cannot be read: Permission denied"):
        read_image(file)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 5, 3), (5, 1, 3), (1, 4, 1)])
def test_narrow_images_of_any_orientation_are_written(tmp_path, rng, orientation, shape):
    upright = rng.integers(0, 256, shape)
    tags = [GRAY if shape[2] == 1 else RGB, (274, "H", orientation)]
    content = tiff(Page(stored(upright, orientation), Layout(bits=8), tags))
    image = read_image(save(tmp_path, content))
    for suffix in (".png", ".tif", ".bmp"):
        write_image(tmp_path / f"out{suffix}", image)
        np.testing.assert_array_equal(read_image(tmp_path / f"out{suffix}").pixels, upright)
