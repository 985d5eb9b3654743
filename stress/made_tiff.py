"""TIFF files of every kind from a writer of its own, so that no library is its own judge."""

from __future__ import annotations

import io
import lzma
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tag = tuple[int, str, Any]
"""Number, type and value or values: H, I (32 bits), R (rational), B (bytes) or A (text)."""
_TYPES = {"A": (2, 1), "H": (3, 2), "I": (4, 4), "R": (5, 8), "B": (7, 1)}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the pixels of a page lie in the file.

    Attributes:
        bits: of a sample.
        big_endian: byte order.
        big: BigTIFF.
        planar: planes one after the other.
        compression: a key of `COMPRESSIONS`.
        predictor: horizontal differences, of 8 or 16 bits.
        tile: (height, width), multiples of 16; None: strips.
        rows: of a strip.
        reversed_bits: FillOrder 2.
    """

    bits: int
    big_endian: bool = False
    big: bool = False
    planar: bool = False
    compression: str = "none"
    predictor: bool = False
    tile: tuple[int, int] | None = None
    rows: int = 1 << 20
    reversed_bits: bool = False


@dataclass(frozen=True)
class Page:
    """Values (H, W, S), the tags that are not of the layout, and strips that are compressed."""

    values: NDArray[Any]
    layout: Layout
    tags: list[Tag] = field(default_factory=list)
    segments: list[bytes] = field(default_factory=list)


def tiff(*pages: Page, tail: bytes = b"") -> bytes:
    """A file of these pages, all of one byte order and size of offsets.

    Args:
        pages: in order.
        tail: bytes right behind the pixels of the last page: further planes without a page.
    """
    layout = pages[0].layout
    order = ">" if layout.big_endian else "<"
    stream = io.BytesIO()
    mark = b"MM" if layout.big_endian else b"II"
    stream.write(
        mark
        + struct.pack(
            f"{order}HHHQ" if layout.big else f"{order}HI",
            *((43, 8, 0, 16) if layout.big else (42, 8)),
        )
    )
    link = stream.tell() - (8 if layout.big else 4)
    for page in pages:
        segments, tags = _stored(page)
        if page is pages[-1]:
            segments[-1] += tail
        link = _write_page(stream, order, layout.big, segments, tags, link, len(tail))
    return stream.getvalue()


def _write_page(
    stream: io.BytesIO,
    order: str,
    big: bool,
    segments: list[bytes],
    tags: list[Tag],
    link: int,
    tail: int,
) -> int:
    """Pixels, then the directory; where the number of the next directory stands."""
    starts = []
    for segment in segments:
        stream.write(b"\0" * (stream.tell() % 2))
        starts.append(stream.tell())
        stream.write(segment)
    counts = [len(segment) for segment in segments]
    counts[-1] -= tail if counts else 0
    tiled = any(number == 322 for number, *_ in tags)
    tags = [*tags, (324 if tiled else 273, "I", starts), (325 if tiled else 279, "I", counts)]
    stream.write(b"\0" * (stream.tell() % 2))
    room = 8 if big else 4
    entries, later = [], []
    start = stream.tell()
    place = start + (8 if big else 2) + len(tags) * (20 if big else 12) + room
    for number, kind, value in sorted(tags, key=lambda tag: tag[0]):
        code, _ = _TYPES[kind]
        data, count = _packed(order, kind, value)
        entry = struct.pack(f"{order}HH{'Q' if big else 'I'}", number, code, count)
        if len(data) <= room:
            entries.append(entry + data.ljust(room, b"\0"))
            continue
        entries.append(entry + struct.pack(f"{order}{'Q' if big else 'I'}", place))
        data += b"\0" * (len(data) % 2)
        later.append(data)
        place += len(data)
    stream.write(struct.pack(f"{order}{'Q' if big else 'H'}", len(entries)))
    stream.write(b"".join(entries))
    following = stream.tell()
    stream.write(b"\0" * room + b"".join(later))
    stream.seek(link)
    stream.write(struct.pack(f"{order}{'Q' if big else 'I'}", start))
    stream.seek(0, io.SEEK_END)
    return following


def _packed(order: str, kind: str, value: Any) -> tuple[bytes, int]:
    if kind in "AB":
        data = value.encode() + b"\0" if kind == "A" else bytes(value)
        return data, len(data)
    values = list(value) if isinstance(value, list | tuple) else [value]
    letter = "I" if kind == "R" else kind
    return struct.pack(f"{order}{len(values)}{letter}", *values), len(values) // (1 + (kind == "R"))


def _stored(page: Page) -> tuple[list[bytes], list[Tag]]:
    layout, values = page.layout, page.values
    height, width, samples = values.shape
    planes = [values[..., i : i + 1] for i in range(samples)] if layout.planar else [values]
    segments = page.segments or [
        _segment(part, layout) for plane in planes for part in _parts(plane, layout)
    ]
    tags: list[Tag] = [(256, "I", width), (257, "I", height), (258, "H", [layout.bits] * samples)]
    tags += [(259, "H", COMPRESSIONS[layout.compression][0]), (277, "H", samples)]
    if layout.tile:
        tags += [(322, "I", layout.tile[1]), (323, "I", layout.tile[0])]
    else:
        tags.append((278, "I", layout.rows))
    tags += [(284, "H", 2)] if layout.planar else []
    tags += [(317, "H", 2)] if layout.predictor else []
    tags += [(266, "H", 2)] if layout.reversed_bits else []
    own = {number for number, *_ in page.tags}
    return segments, [tag for tag in tags if tag[0] not in own] + page.tags


def _parts(plane: NDArray[Any], layout: Layout) -> list[NDArray[Any]]:
    height, width, samples = plane.shape
    if layout.tile is None:
        return [plane[top : top + layout.rows] for top in range(0, height, layout.rows)]
    down, across = layout.tile
    parts = []
    for top in range(0, height, down):
        for left in range(0, width, across):
            part = np.zeros((down, across, samples), plane.dtype)
            inside = plane[top : top + down, left : left + across]
            part[: inside.shape[0], : inside.shape[1]] = inside
            parts.append(part)
    return parts


def _segment(part: NDArray[Any], layout: Layout) -> bytes:
    order = ">" if layout.big_endian else "<"
    if layout.predictor:
        first = part[:, :1]
        part = np.concatenate([first, np.diff(part.astype(np.int64), axis=1)], 1) % 2**layout.bits
    if part.dtype.kind == "f":
        data = part.astype(f"{order}f{layout.bits // 8}").tobytes()
    elif layout.bits in (8, 16, 32):
        kind = "i" if part.min() < 0 else "u"
        data = part.astype(f"{order}{kind}{layout.bits // 8}").tobytes()
    else:
        data = _bits_packed(part, layout.bits)
    data = COMPRESSIONS[layout.compression][1](data)
    if layout.reversed_bits:
        table = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
        data = data.translate(table)
    return data


def _bits_packed(part: NDArray[Any], bits: int) -> bytes:
    """Rows of samples, highest bit first; every row ends with a byte."""
    shifts = np.arange(bits - 1, -1, -1)
    rows = part.reshape(len(part), -1, 1).astype(np.int64) >> shifts & 1
    return np.packbits(rows.reshape(len(part), -1).astype(np.uint8), axis=1).tobytes()


def pack_bits(data: bytes) -> bytes:
    """PackBits, with runs and literals."""
    packed, place = bytearray(), 0
    while place < len(data):
        run = 1
        while run < 128 and data[place : place + 1] == data[place + run : place + run + 1]:
            run += 1
        if run > 1:
            packed += bytes([257 - run, data[place]])
        else:
            run = min(7, len(data) - place)
            packed += bytes([run - 1]) + data[place : place + run]
        place += run
    return bytes(packed)


def lzw(data: bytes) -> bytes:
    """LZW as in TIFF 6.0, section 13: highest bit first, codes of 9 to 12 bits."""
    codes: dict[bytes, int] = {}
    bits: list[str] = []

    def emit(code: int, size: int) -> None:
        bits.append(f"{code:0{size}b}")

    width, word = 9, b""
    emit(256, 9)
    codes = {bytes([i]): i for i in range(256)}
    following = 258
    for i in range(len(data)):
        longer = word + data[i : i + 1]
        if longer in codes:
            word = longer
            continue
        emit(codes[word], width)
        codes[longer] = following
        following += 1
        if following == 2**width:  # one earlier than its own need, as the format has it
            width += 1
        word = data[i : i + 1]
        if following == 4094:
            emit(codes[word], width)
            emit(256, width)
            codes = {bytes([j]): j for j in range(256)}
            following, width, word = 258, 9, b""
    if word:
        emit(codes[word], width)
        following += 1
        if following == 2**width and width < 12:
            width += 1
    emit(257, width)
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


COMPRESSIONS: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "none": (1, bytes),
    "lzw": (5, lzw),
    "deflate": (8, zlib.compress),
    "jpeg": (7, bytes),
    "old deflate": (32946, zlib.compress),
    "packbits": (32773, pack_bits),
    "lzma": (34925, lambda data: lzma.compress(data, lzma.FORMAT_XZ)),
}
WITH_PREDICTOR = ("lzw", "deflate", "old deflate", "lzma")
"""Compressions that the horizontal predictor goes with (TIFF 6.0, section 14)."""
