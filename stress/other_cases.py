"""JPEG cases, BMP cases from a writer of their own, and files of other formats."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
from image_case import GRAY_LIKE, SRGB_LIKE, Case, integers, pick, size, smooth, stored
from imagecodecs import jpeg8_encode
from numpy.typing import NDArray
from PIL import Image

Random = np.random.Generator
_LOSSY = 24 / 255
_FIELDS = {
    "565": (16, (0xF800, 0x07E0, 0x001F, 0)),
    "555": (16, (0x7C00, 0x03E0, 0x001F, 0)),
    "xrgb": (32, (0xFF0000, 0xFF00, 0xFF, 0)),
    "argb": (32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
    "abgr": (32, (0xFF, 0xFF00, 0xFF0000, 0xFF000000)),
}


def jpeg(rng: Random) -> Case:
    """Gray or RGB: sampling, progressive scans, orientation, profile, resolution."""
    gray, orientation = rng.random() < 0.4, int(rng.integers(1, 9))
    pixels = smooth(rng, (*size(rng), 1 if gray else 3))
    exif = Image.Exif()
    truth: dict[str, Any] = {}
    options: dict[str, Any] = {"quality": 95, "progressive": bool(rng.integers(2))}
    if rng.random() < 0.5:
        orientation = 1
    else:
        exif[0x0112] = orientation
    options["exif"] = exif
    if rng.random() < 0.3:
        truth["profile"] = options["icc_profile"] = GRAY_LIKE if gray else SRGB_LIKE
    if rng.random() < 0.4:
        x, y = map(int, rng.integers(1, 2000, 2))
        options["dpi"] = (x, y)
        x, y = (y, x) if orientation >= 5 else (x, y)
        truth["resolution"] = (Fraction(x), Fraction(y), "inch")
    if not gray:
        options["subsampling"] = int(rng.integers(3))
    rows = np.ascontiguousarray(stored(pixels, orientation))
    stream = io.BytesIO()
    Image.fromarray(rows[..., 0] if gray else rows).save(stream, "JPEG", **options)
    return Case(
        kind="JPEG",
        suffix=".jpg",
        content=stream.getvalue(),
        pixels=pixels / 255,
        tolerance=_LOSSY,
        **truth,
    )


def other_jpeg(rng: Random) -> Case:
    """RGB without transform, CMYK, YCCK, 12 bits, and files of several pictures."""
    how = pick(rng, "rgb", "cmyk", "12 bits", "pictures")
    pixels = smooth(rng, (*size(rng), 3))
    if how == "rgb":
        content = jpeg8_encode(pixels, level=95, colorspace="rgb", outcolorspace="rgb")
        right = pixels / 255
        return Case(
            kind="JPEG of RGB", suffix=".jpg", content=content, pixels=right, tolerance=_LOSSY
        )
    if how == "12 bits":
        deep = pixels.astype(np.uint16) * 16
        return _refused("JPEG, others", ".jpg", jpeg8_encode(deep, level=95, bitspersample=12))
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    if how == "cmyk":
        image.convert("CMYK").save(stream, "JPEG")
    else:
        image.save(stream, "MPO", save_all=True, append_images=[image])
    return _refused("JPEG, others", ".jpg", stream.getvalue())


def bmp(rng: Random) -> Case:
    """1, 4, 8, 16, 24 or 32 bits, top-down or not, bit fields, runs, headers of several ages."""
    how = pick(rng, "palette", "palette", "runs", "24", "32", "fields", "core")
    height, width = size(rng)
    down = bool(rng.integers(2)) and how not in ("runs", "core")
    if how in ("palette", "runs", "core"):
        return _bmp_palette(rng, how, height, width, down)
    if how == "fields":
        return _bmp_fields(rng, height, width, down)
    values = integers(rng, (height, width, 4 if how == "32" else 3), 255)
    rows = values[..., [2, 1, 0, 3][: values.shape[2]]].astype(np.uint8)
    return _bmp(rng, _rows(rows.reshape(height, -1)), int(how), values[..., :3] / 255, down)


def _rows(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Rows of bytes, each filled up to four."""
    return np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))


def _bmp_palette(rng: Random, how: str, height: int, width: int, down: bool) -> Case:
    bits = pick(rng, 4, 8) if how == "runs" else pick(rng, 1, 4, 8)
    core = how == "core"
    colours, few = _colours(rng, 2**bits if core else int(pick(rng, 2, 2**bits, 2**bits)))
    values = integers(rng, (height, width), min(2**bits, len(colours)) - 1)
    if how == "runs":
        values = np.repeat(values, 3, axis=1)[:, :width]
        data: Any = _runs(rng, values[::-1], bits)
    else:
        shifts = np.arange(bits - 1, -1, -1)
        digits = (values[..., None] >> shifts & 1).reshape(height, -1).astype(np.uint8)
        data = _rows(np.packbits(digits, axis=1))
    table = np.pad(colours[:, ::-1], ((0, 0), (0, 0 if core else 1)))
    palette = table.astype(np.uint8).tobytes()
    pixels = colours[values] / 255
    if core:
        size_of_all = 26 + len(palette) + data.size
        head = b"BM" + struct.pack("<IHHI", size_of_all, 0, 0, 26 + len(palette))
        head += struct.pack("<IHHHH", 12, width, height, 1, bits)
        content = head + palette + data[::-1].tobytes()
        case = Case(kind="BMP", suffix=".bmp", content=content, pixels=pixels)
        return replace(case, may_refuse=few)
    compression = {8: 1, 4: 2}[bits] if how == "runs" else 0
    case = _bmp(rng, data, bits, pixels, down, compression=compression, palette=palette)
    return replace(case, may_refuse=few)


def _colours(rng: Random, count: int) -> tuple[NDArray[np.int64], bool]:
    """A palette, and whether it is of grays that a decoder may take for the image's own bits."""
    ramp = np.repeat(np.arange(count)[:, None], 3, axis=1)
    kind = pick(rng, "any", "any", "any", "gray", "index")
    if kind == "any":
        return rng.integers(0, 256, (count, 3)), False
    if kind == "gray":
        return ramp * 255 // (count - 1), count == 2
    return ramp, count < 256


def _runs(rng: Random, rows: NDArray[np.int64], bits: int) -> bytes:
    """Run-length code of rows from the bottom up: runs, literals and ends of lines."""
    code = bytearray()
    for row in rows.tolist():
        place = 0
        while place < len(row):
            run = 1
            while place + run < len(row) and run < 255 and row[place + run] == row[place]:
                run += 1
            literal = row[place : place + int(rng.integers(3, 9))]
            if run < 3 and len(literal) >= 3 and rng.random() < 0.5:
                data = bytes(literal) if bits == 8 else _nibbles(literal)
                code += bytes([0, len(literal)]) + data + b"\0" * (len(data) % 2)
                place += len(literal)
                continue
            code += bytes([run, row[place] if bits == 8 else row[place] * 17])
            place += run
        code += b"\0\0"
    return bytes(code + b"\0\1")


def _nibbles(values: list[int]) -> bytes:
    padded = [*values, 0][: len(values) + len(values) % 2]
    return bytes(a * 16 + b for a, b in zip(padded[::2], padded[1::2], strict=True))


def _bmp_fields(rng: Random, height: int, width: int, down: bool) -> Case:
    name = pick(rng, *_FIELDS)
    bits, masks = _FIELDS[name]
    used = [mask for mask in masks if mask]
    word = np.zeros((height, width), np.int64)
    bands = []
    for mask in used:
        shift = (mask & -mask).bit_length() - 1
        largest = mask >> shift
        band = integers(rng, (height, width), largest)
        word |= band << shift
        bands.append(band / largest)
    data = _rows(word.astype(f"<u{bits // 8}").view(np.uint8).reshape(height, -1))
    pixels = np.stack(bands[:3], 2)
    header = pick(rng, 56, 108, 124) if masks[3] else pick(rng, 40, 56, 108, 124)
    case = _bmp(rng, data, bits, pixels, down, compression=3, masks=masks, header=header)
    case = replace(case, tolerance=1.01 / 255)  # decoders scale 5 bits by several rules
    return replace(case, alpha=bands[3]) if masks[3] else case


def _bmp(
    rng: Random,
    data: Any,
    bits: int,
    pixels: NDArray[Any],
    down: bool,
    *,
    compression: int = 0,
    palette: bytes = b"",
    masks: tuple[int, ...] = (0, 0, 0, 0),
    header: int = 40,
) -> Case:
    height, width = pixels.shape[:2]
    truth: dict[str, Any] = {}
    x, y = map(int, rng.integers(1, 9999, 2)) if rng.random() < 0.4 else (0, 0)
    if x:
        truth["resolution"] = (Fraction(x), Fraction(y), "m")
    if isinstance(data, np.ndarray):
        data = (data if down else data[::-1]).tobytes()
    profile = SRGB_LIKE if header == 124 and rng.random() < 0.5 else b""
    fields = struct.pack(
        "<IiiHHIIiiII",
        header,
        width,
        -height if down else height,
        1,
        bits,
        compression,
        len(data),
        x,
        y,
        len(palette) // 4,
        0,
    )
    if header > 40:
        fields += struct.pack("<4I", *masks)
    elif compression == 3:
        palette = struct.pack("<3I", *masks[:3])
    fields = fields.ljust(header, b"\0")
    start = 14 + header + len(palette)
    if profile:
        truth["profile"] = profile
        fields = fields[:56] + b"DEBM" + fields[60:]
        fields = fields[:112] + struct.pack("<II", start - 14 + len(data), len(profile)) + bytes(4)
    total = start + len(data) + len(profile)
    content = b"BM" + struct.pack("<IHHI", total, 0, 0, start) + fields + palette + data + profile
    return Case(kind="BMP", suffix=".bmp", content=content, pixels=pixels, **truth)


def other_formats(rng: Random) -> Case:
    """GIF, WebP and others, of one frame or several, some with the ending of another format."""
    how = pick(rng, "GIF", "WEBP", "JPEG2000", "PPM", "ICO", "TGA", "words")
    image = Image.fromarray(smooth(rng, (*size(rng), 3)))
    stream = io.BytesIO()
    if how == "words":
        stream.write(rng.bytes(int(rng.integers(1, 400))))
    elif how in ("GIF", "WEBP") and rng.random() < 0.5:
        image.save(stream, how, save_all=True, append_images=[image.rotate(180)])
    else:
        image.save(stream, how)
    return _refused("other formats", pick(rng, ".png", ".jpg", ".tif", ".bmp"), stream.getvalue())


def _refused(kind: str, suffix: str, content: bytes) -> Case:
    return Case(kind=kind, suffix=suffix, content=content)


CASES: list[tuple[int, Callable[[Random], Case]]] = [
    *((12, jpeg), (6, other_jpeg), (14, bmp), (5, other_formats)),
]
"""How often each kind is made, and how."""
