"""PNG cases, from a writer of their own: any depth, filter, interlace and ancillary chunk."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from image_case import GRAY_LIKE, SRGB_LIKE, Case, integers, pick, size, stored
from numpy.typing import NDArray

Random = np.random.Generator
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KINDS = {"gray": 0, "RGB": 2, "palette": 3, "gray alpha": 4, "RGB alpha": 6}
_DEPTHS = {"gray": (1, 2, 4, 8, 16), "palette": (1, 2, 4, 8)}
_PASSES = (
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
)
"""Of Adam7: first row and column, and the steps between them."""


def chunk(name: bytes, data: bytes = b"") -> bytes:
    """A chunk with its checksum."""
    checksum = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + checksum


def png(rng: Random, values: NDArray[Any], bits: int, kind: int, extra: bytes) -> bytes:
    """A file of values (H, W, S), with these chunks before its pixels."""
    height, width, _ = values.shape
    interlaced = bool(rng.integers(2))
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, interlaced)
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    parts = [values[top::down, left::across] for top, left, down, across in passes]
    data = b"".join(_filtered(rng, part, bits) for part in parts if part.size)
    packed = zlib.compress(data, int(rng.integers(0, 10)))
    cut = int(rng.integers(len(packed) + 1))
    pixels = chunk(b"IDAT", packed[:cut]) + chunk(b"IDAT", packed[cut:])
    return _SIGNATURE + chunk(b"IHDR", header) + extra + pixels + chunk(b"IEND")


def _filtered(rng: Random, part: NDArray[Any], bits: int) -> bytes:
    """Rows behind the number of a filter each (PNG, section 9)."""
    if bits == 16:
        rows = part.astype(">u2").view(np.uint8).reshape(len(part), -1)
    else:
        shifts = np.arange(bits - 1, -1, -1)
        digits = part.reshape(len(part), -1, 1) >> shifts & 1
        rows = np.packbits(digits.reshape(len(part), -1).astype(np.uint8), axis=1)
    step = max(1, bits * part.shape[2] // 8)
    above = np.zeros_like(rows[0])
    filtered = bytearray()
    for row in rows:
        left = np.concatenate([np.zeros(step, np.uint8), row[:-step]])[: len(row)]
        corner = np.concatenate([np.zeros(step, np.uint8), above[:-step]])[: len(row)]
        number = int(rng.integers(5))
        predicted = (0 * row, left, above, _average(left, above), _paeth(left, above, corner))[
            number
        ]
        filtered += bytes([number]) + (row - predicted).astype(np.uint8).tobytes()
        above = row
    return bytes(filtered)


def _average(left: NDArray[np.uint8], above: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return ((left.astype(int) + above) // 2).astype(np.uint8)


def _paeth(a: NDArray[np.uint8], b: NDArray[np.uint8], c: NDArray[np.uint8]) -> NDArray[np.uint8]:
    left, above, corner = (v.astype(int) for v in (a, b, c))
    guess = left + above - corner
    far = [abs(guess - v) for v in (left, above, corner)]
    nearest = np.where(far[1] <= far[2], above, corner)
    return np.where((far[0] <= far[1]) & (far[0] <= far[2]), left, nearest).astype(np.uint8)


def photograph(rng: Random) -> Case:
    """Gray, RGB or a palette, with alpha as a band or as a transparent colour."""
    name = pick(rng, *_KINDS)
    bits = pick(rng, *_DEPTHS.get(name, (8, 16)))
    largest, orientation = 2**bits - 1, 1
    samples = {"RGB": 3, "gray alpha": 2, "RGB alpha": 4}.get(name, 1)
    values = integers(rng, (*size(rng), samples), largest)
    pixels, alpha, extra = values / largest, None, b""
    if name.endswith("alpha"):
        pixels, alpha = pixels[..., :-1], pixels[..., -1]
    if name == "palette":
        colours = rng.integers(0, 256, (2**bits, 3))
        extra = chunk(b"PLTE", colours.astype(np.uint8).tobytes())
        pixels = colours[values[..., 0]] / 255
    if rng.random() < 0.3 and not name.endswith("alpha"):
        transparent, alpha = _transparent(rng, name, values, bits)
        extra += transparent
    before, truth, behind = _metadata(rng, gray=name.startswith("gray"))
    if rng.random() < 0.3:
        orientation = int(rng.integers(1, 9))
        before += chunk(b"eXIf", _exif(orientation))
        if "resolution" in truth and orientation >= 5:
            x, y, unit = truth["resolution"]
            truth["resolution"] = (y, x, unit)
    rows = stored(values, orientation)
    content = png(rng, rows, bits, _KINDS[name], before + extra)
    return Case(
        kind=f"PNG {bits} bit",
        suffix=".png",
        content=content[:-12] + behind + content[-12:],
        pixels=pixels,
        alpha=alpha,
        tolerance=0.51 / (65535 if bits == 16 else 255),
        guarded=True,
        **truth,
    )


def _transparent(
    rng: Random, name: str, values: NDArray[Any], bits: int
) -> tuple[bytes, NDArray[np.float64]]:
    """The chunk tRNS, and the alpha that it means."""
    if name == "palette":
        table = np.full(2**bits, 255)
        count = int(rng.integers(1, len(table) + 1))
        table[:count] = rng.integers(0, 256, count)
        return chunk(b"tRNS", table[:count].astype(np.uint8).tobytes()), table[values[..., 0]] / 255
    colour = values[0, 0]
    shown = (values != colour).any(axis=2)
    return chunk(b"tRNS", struct.pack(f">{len(colour)}H", *map(int, colour))), shown.astype(float)


def _metadata(rng: Random, gray: bool) -> tuple[bytes, dict[str, Any], bytes]:
    """Chunks before the pixels, what a reader finds in them, and chunks behind the pixels."""
    truth: dict[str, Any] = {}
    chunks = b""
    if rng.random() < 0.3:
        chunks += chunk(b"gAMA", struct.pack(">I", pick(rng, 45455, 100000)))
    if rng.random() < 0.2:
        chunks += chunk(b"sBIT", b"\5" * 1) if gray else b""
    if rng.random() < 0.3:
        truth["profile"] = GRAY_LIKE if gray else SRGB_LIKE
        chunks += chunk(b"iCCP", b"name\0\0" + zlib.compress(truth["profile"]))
    elif rng.random() < 0.2:
        chunks += chunk(b"sRGB", b"\0")
    if rng.random() < 0.4:
        x, y, unit = *map(int, rng.integers(1, 20000, 2)), int(rng.integers(2))
        chunks += chunk(b"pHYs", struct.pack(">IIB", x, y, unit))
        truth["resolution"] = (Fraction(x), Fraction(y), "m" if unit else "")
    behind = chunk(b"tEXt", b"Comment\0made") if rng.random() < 0.3 else b""
    return chunks, truth, behind


def _exif(orientation: int) -> bytes:
    return b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 274, 3, 1, orientation, 0) + bytes(4)


def animated(rng: Random) -> Case:
    """APNG of several frames."""
    values = integers(rng, (*size(rng), 3), 255)
    still = png(rng, values, 8, 2, b"")
    height, width, _ = values.shape
    control = chunk(b"acTL", struct.pack(">II", 2, 0))
    frame = struct.pack(">IIIIHHBB", width, height, 0, 0, 1, 10, 0, 0)
    data = next(_pixel_data(still))
    first, end = still.index(b"IDAT") - 4, len(still) - 12
    second = chunk(b"fcTL", struct.pack(">I", 1) + frame) + chunk(
        b"fdAT", struct.pack(">I", 2) + data
    )
    content = still[:first] + control + chunk(b"fcTL", struct.pack(">I", 0) + frame)
    return Case(
        kind="APNG", suffix=".png", content=content + still[first:end] + second + still[end:]
    )


def _pixel_data(content: bytes) -> Iterator[bytes]:
    place = len(_SIGNATURE)
    data = b""
    while place < len(content):
        (length,) = struct.unpack_from(">I", content, place)
        if content[place + 4 : place + 8] == b"IDAT":
            data += content[place + 8 : place + 8 + length]
        place += 12 + length
    yield data


CASES: list[tuple[int, Callable[[Random], Case]]] = [(30, photograph), (2, animated)]
"""How often each kind is made, and how."""
