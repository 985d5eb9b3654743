"""TIFF cases: what a photograph may look like in one, and what must not be taken for one."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import tifffile
from image_case import GRAY_LIKE, SRGB_LIKE, Case, integers, pick, size, smooth, stored
from imagecodecs import jpeg8_encode
from made_tiff import COMPRESSIONS, WITH_PREDICTOR, Layout, Page, Tag, tiff
from numpy.typing import NDArray
from PIL import Image

Random = np.random.Generator
_GRAY, _RGB, _PALETTE = 1, 2, 3
_REFUSED = {4: 1, 5: 4, 6: 3, 8: 3, 9: 3, 10: 3, 32803: 1, 34892: 3, 32844: 1, 51177: 1}
"""Photometric meanings that are no photograph, and their samples."""


def layout(rng: Random, bits: int) -> Layout:
    """Any layout of samples of this many bits."""
    compression = (
        "none"
        if rng.random() < 0.5
        else pick(rng, *(name for name in COMPRESSIONS if name != "jpeg"))
    )
    return Layout(
        bits=bits,
        big_endian=bool(rng.integers(2)),
        big=rng.random() < 0.1,
        planar=rng.random() < 0.2,
        compression=compression,
        predictor=bits in (8, 16) and compression in WITH_PREDICTOR and rng.random() < 0.4,
        tile=(pick(rng, 16, 32), pick(rng, 16, 48)) if rng.random() < 0.25 else None,
        rows=pick(rng, 1, 3, 7, 1 << 20),
        reversed_bits=rng.random() < 0.1,
    )


def _described(rng: Random, gray: bool) -> tuple[list[Tag], dict[str, Any], int]:
    """Tags of profile, resolution and orientation; what a reader finds; and the orientation."""
    tags: list[Tag] = []
    truth: dict[str, Any] = {}
    orientation = int(rng.integers(1, 9)) if rng.random() < 0.4 else 1
    if orientation > 1:
        tags.append((274, "H", orientation))
    if rng.random() < 0.3:
        truth["profile"] = GRAY_LIKE if gray else SRGB_LIKE
        tags.append((34675, "B", truth["profile"]))
    if rng.random() < 0.4:
        unit = int(rng.integers(1, 4))
        x, y = (Fraction(int(rng.integers(1, 9999)), int(rng.integers(1, 99))) for _ in "xy")
        tags += [(282, "R", [x.numerator, x.denominator]), (283, "R", [y.numerator, y.denominator])]
        tags.append((296, "H", unit))
        x, y = (y, x) if orientation >= 5 else (x, y)
        truth["resolution"] = (x, y, {1: "", 2: "inch", 3: "cm"}[unit])
    return tags, truth, orientation


def photograph(rng: Random) -> Case:
    """Gray or RGB, 1 to 16 bits, with or without alpha, of any layout."""
    gray = rng.random() < 0.5
    bits = pick(rng, 1, 2, 4, 8, 8, 10, 12, 14, 16, 16, int(rng.integers(1, 17)))
    alpha = pick(rng, None, None, None, "straight", "premultiplied")
    inverted = gray and alpha != "premultiplied" and rng.random() < 0.3
    white = largest = 2**bits - 1
    tags, truth, orientation = _described(rng, gray)
    if bits > 8 and rng.random() < 0.25:
        white = pick(rng, *(w for w in (255, 1023, 4095, 16383, 1000) if w <= largest))
    planes = 1 if gray else 3
    values = integers(rng, (*size(rng), planes + (alpha is not None)), white)
    if white < largest:
        tags.append((281, "H", [white] * values.shape[2]))
    colour, opacity = values[..., :planes], values[..., -1] if alpha else None
    if alpha == "premultiplied":
        assert opacity is not None
        colour = colour * opacity[..., None] // white
        values = np.dstack([colour, opacity])
    pixels = colour / white
    if alpha == "premultiplied":
        assert opacity is not None
        pixels = np.divide(colour, opacity[..., None], out=0 * pixels, where=opacity[..., None] > 0)
    if alpha:
        tags.append((338, "H", {"premultiplied": 1, "straight": 2}[alpha]))
    tags.append((262, "H", 0 if inverted else _GRAY if gray else _RGB))
    rows = stored(values, orientation)
    return Case(
        kind=f"TIFF {bits} bit",
        suffix=".tif",
        content=tiff(Page(rows, layout(rng, bits), tags)),
        pixels=1 - pixels if inverted else pixels,
        alpha=None if opacity is None else opacity / white,
        tolerance=0.51 / (255 if bits <= 8 else 65535),
        values=(largest - colour if inverted else colour).squeeze(2) if gray else colour,
        **truth,
    )


def palette(rng: Random) -> Case:
    """1 to 16 bits into a palette of 16 bits, or of 8 as careless writers have it."""
    bits = pick(rng, 1, 2, 4, 8, 8, 16)
    values = integers(rng, (*size(rng), 1), 2**bits - 1)
    careless = bits <= 8 and rng.random() < 0.2
    colours = rng.integers(0, 256 if careless else 65536, (2**bits, 3))
    if careless:
        colours[0] = 255
    tags, truth, orientation = _described(rng, gray=False)
    tags += [(262, "H", _PALETTE), (320, "H", colours.T.reshape(-1).tolist())]
    return Case(
        kind="TIFF palette",
        suffix=".tif",
        content=tiff(Page(stored(values, orientation), layout(rng, bits), tags)),
        pixels=colours[values[..., 0]] / (255 if careless else 65535),
        tolerance=1.01 / (255 if bits <= 8 else 65535),
        **truth,
    )


def other_colours(rng: Random) -> Case:
    """CMYK, CIELab, YCbCr, CFA, ..."""
    photometric = pick(rng, *_REFUSED)
    bits = pick(rng, 8, 16)
    values = integers(rng, (*size(rng), _REFUSED[photometric]), 2**bits - 1)
    tags: list[Tag] = [(262, "H", photometric)]
    return _refused("TIFF other colours", tiff(Page(values, layout(rng, bits), tags)))


def other_samples(rng: Random) -> Case:
    """Signed, floating-point or 32-bit samples: numbers, but no photograph."""
    code, bits = pick(rng, (1, 32), (2, 8), (2, 16), (2, 32), (3, 16), (3, 32), (3, 64))
    values: NDArray[Any] = integers(rng, (*size(rng), pick(rng, 1, 3)), 2 ** min(bits, 31) - 1)
    if code == 2:
        values -= 2 ** (bits - 1)
    if code == 3:
        values = (values % 1000 / 64 - 5).astype(f"f{bits // 8}")
    tags: list[Tag] = [(262, "H", _GRAY if values.shape[2] == 1 else _RGB)]
    tags.append((339, "H", [code] * values.shape[2]))
    plain = replace(layout(rng, bits), predictor=False)
    case = _refused("TIFF other samples", tiff(Page(values, plain, tags)))
    return replace(case, values=values[..., 0] if values.shape[2] == 1 else values)


def other_bands(rng: Random) -> Case:
    """Bands behind the colour that are no alpha, or more than one that is."""
    planes, extra = pick(rng, (1, [0]), (3, [0]), (3, None), (3, [0, 0]), (1, [2, 2]), (3, [1, 2]))
    count = planes + len(extra or [0])
    bits = pick(rng, 8, 12, 16)
    values = integers(rng, (*size(rng), count), 2**bits - 1)
    tags: list[Tag] = [(262, "H", _GRAY if planes == 1 else _RGB)]
    if extra:
        tags.append((338, "H", extra))
    return _refused("TIFF other bands", tiff(Page(values, layout(rng, bits), tags)))


def frames(rng: Random) -> Case:
    """Several pages, or one page that stands for several planes."""
    bits = pick(rng, 8, 16)
    shape, count = size(rng), int(rng.integers(2, 5))
    gray: list[Tag] = [(262, "H", _GRAY)]
    plain = Layout(bits=bits, big_endian=bool(rng.integers(2)))
    planes = [integers(rng, (*shape, 1), 2**bits - 1) for _ in range(count)]
    how = pick(rng, "pages", "ImageJ", "tifffile", "depth", "MetaMorph", "OME")
    if how == "pages":
        return _refused("TIFF frames", tiff(*(Page(v, plain, gray) for v in planes)))
    if how == "OME":
        stream = io.BytesIO()
        array = np.stack(planes)[..., 0].astype(f"u{bits // 8}")
        tifffile.imwrite(stream, array, ome=True, photometric="minisblack")
        return _refused("TIFF frames", stream.getvalue())
    tags = {
        "ImageJ": [(270, "A", f"ImageJ=1.53t\nimages={count}\nslices={count}\nloop=false\n")],
        "tifffile": [(270, "A", json.dumps({"shape": [count, *shape], "truncated": True}))],
        "depth": [(32997, "I", count)],
        "MetaMorph": [(33629, "R", [1, 1, 0, 0, 0, 0] * count)],
    }[how]
    order = ">" if plain.big_endian else "<"
    more = b"".join(v.astype(f"{order}u{bits // 8}").tobytes() for v in planes[1:])
    first = planes[0]
    if how == "depth":
        first, more = np.concatenate(planes), b""
        tags += [(257, "I", shape[0]), (278, "I", shape[0] * count)]
    content = tiff(Page(first, plain, gray + tags), tail=more)
    if how == "MetaMorph":  # its tag counts planes, not numbers
        content = _with_count(content, order, 33629, count)
    return _refused("TIFF frames", content)


def pages_of_one(rng: Random) -> Case:
    """A photograph with a smaller copy of it, or with more pages that ask for nothing."""
    values = integers(rng, (*size(rng), 3), 255)
    plain = Layout(bits=8)
    small: list[Tag] = [(262, "H", _RGB), (254, "I", 1)]
    content = tiff(
        Page(values, plain, [(262, "H", _RGB), (254, "I", 0)]), Page(values[::2, ::2], plain, small)
    )
    return Case(kind="TIFF thumbnail", suffix=".tif", content=content, pixels=values / 255)


def lies(rng: Random) -> Case:
    """White below the values, missing strips, bands of several depths, unusual predictors."""
    how = pick(rng, "white", "strips", "bands", "whites", "predictor")
    bits = pick(rng, 12, 16)
    values = integers(rng, (*size(rng), 3 if how in ("bands", "whites") else 1), 2**bits - 1)
    tags: list[Tag] = [(262, "H", _GRAY if values.shape[2] == 1 else _RGB)]
    if how == "white":
        tags.append((281, "H", 1000))
    if how == "whites":
        tags.append((281, "H", [1000, 2000, 3000]))
    if how == "bands":
        tags.append((258, "H", [5, 6, 5]))
        values = values % 32
    plain = Layout(bits=16 if how == "bands" else bits, rows=2, predictor=how == "predictor")
    if how == "strips":
        tags.append((257, "I", values.shape[0] + 40))
    return _refused("TIFF contradictions", tiff(Page(values, plain, tags)))


def of_tifffile(rng: Random) -> Case:
    """What tifffile writes, with its descriptions and compressions."""
    bits = pick(rng, 8, 16)
    values = integers(rng, (*size(rng), pick(rng, 1, 3)), 2**bits - 1).astype(f"u{bits // 8}")
    stream = io.BytesIO()
    gray = values.shape[2] == 1
    how = pick(rng, "plain", "imagej", "ome", "zstd", "truncated")
    options: dict[str, Any] = {
        "plain": {},
        "imagej": {"imagej": gray or bits == 8, "resolution": (10.0, 20.0), "metadata": {}},
        "ome": {"ome": True},
        "zstd": {"compression": "zstd", "predictor": True},
        "truncated": {"truncate": True},
    }[how]
    if how == "imagej" and options["imagej"]:
        options["metadata"] = {"unit": "um"}
    array = values[..., 0] if gray else values
    tifffile.imwrite(stream, array, photometric="minisblack" if gray else "rgb", **options)
    return Case(
        kind="TIFF of tifffile",
        suffix=".tif",
        content=stream.getvalue(),
        pixels=values / (2**bits - 1),
        tolerance=0.51 / (2**bits - 1),
    )


def of_image_codecs(rng: Random) -> Case:
    """Pixels compressed by a codec of photographs, in strips or tiles."""
    how = pick(rng, "jpeg", "jpeg", "jpeg2000", "png", "webp", "jpegxl", "lerc")
    tiled = bool(rng.integers(2))
    sides = (32, 96) if tiled else size(rng)  # a tile filled up with black would ring in a JPEG
    pixels = smooth(rng, (*sides, 3 if how == "webp" else pick(rng, 1, 3)))
    gray = pixels.shape[2] == 1
    options: dict[str, Any] = {"compression": how, "photometric": "minisblack" if gray else "rgb"}
    if how == "jpeg" and not gray:
        if rng.random() < 0.3:
            return _jpeg_of_rgb(pixels)
        options["subsampling"] = pick(rng, (1, 1), (2, 1), (2, 2))
    if tiled:
        options["tile"] = (32, 48)
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels[..., 0] if gray else pixels, **options)
    return Case(
        kind="TIFF, image codecs",
        suffix=".tif",
        content=stream.getvalue(),
        pixels=pixels / 255,
        tolerance=24 / 255,
        may_refuse=how != "jpeg",
    )


def _jpeg_of_rgb(pixels: NDArray[np.uint8]) -> Case:
    """A JPEG whose bands are RGB, as the page says."""
    data = jpeg8_encode(pixels, level=95, colorspace="rgb", outcolorspace="rgb")
    layout = Layout(bits=8, compression="jpeg")
    content = tiff(Page(pixels, layout, [(262, "H", _RGB)], [data]))
    return Case(
        kind="TIFF, image codecs",
        suffix=".tif",
        content=content,
        pixels=pixels / 255,
        tolerance=24 / 255,
    )


def of_libtiff(rng: Random) -> Case:
    """What libtiff writes (of Pillow), fax and JPEG among it."""
    how = pick(rng, "group3", "group4", "tiff_ccitt", "tiff_lzw", "jpeg", "tiff_adobe_deflate")
    height, width = size(rng)
    stream = io.BytesIO()
    tolerance = 0.51 / 255
    if how in ("group3", "group4", "tiff_ccitt"):
        pixels = (smooth(rng, (height, width, 1)) > 127).astype(np.uint8) * 255
        Image.fromarray(pixels[..., 0]).convert("1").save(stream, "TIFF", compression=how)
    else:
        pixels = smooth(rng, (height, width, pick(rng, 1, 3)))
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        options = {"quality": 95} if how == "jpeg" else {}
        image.save(stream, "TIFF", compression=how, **options)
        tolerance = 20 / 255 if how == "jpeg" else tolerance
    return Case(
        kind="TIFF of libtiff",
        suffix=".tif",
        content=stream.getvalue(),
        pixels=pixels / 255,
        tolerance=tolerance,
    )


def _refused(kind: str, content: bytes) -> Case:
    return Case(kind=kind, suffix=".tif", content=content)


def _with_count(content: bytes, order: str, number: int, count: int) -> bytes:
    """The file with another count in the entry of a tag."""
    head = number.to_bytes(2, "big" if order == ">" else "little")
    kind = (5).to_bytes(2, "big" if order == ">" else "little")
    place = content.index(head + kind) + 4
    return (
        content[:place]
        + count.to_bytes(4, "big" if order == ">" else "little")
        + content[place + 4 :]
    )


CASES: list[tuple[int, Callable[[Random], Case]]] = [
    *((40, photograph), (6, palette), (6, other_colours), (5, other_samples), (6, other_bands)),
    *((6, frames), (2, pages_of_one), (4, lies), (5, of_tifffile), (6, of_libtiff)),
    (3, of_image_codecs),
]
"""How often each kind is made, and how."""
