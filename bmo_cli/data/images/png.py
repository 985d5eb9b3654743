"""PNG files: Pillow reads the metadata, libpng (of imagecodecs) every pixel.

Pillow would cut 16-bit colour to 8 bits, and does not compare the checksum of the pixels.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from imagecodecs import png_decode, png_encode
from numpy.typing import NDArray
from PIL import Image

from bmo_cli.data.images.description import Description, ImageSource, Resolution, resolution
from bmo_cli.data.images.exif import exif_orientation, exif_resolution, unwritten_metadata
from bmo_cli.data.images.photograph import Photograph

Chunk = tuple[bytes, bytes]
"""Name and content."""
MAGIC = b"\x89PNG\r\n\x1a\n"
_COLOURS = {0: "gray", 2: "RGB", 3: "palette", 4: "gray", 6: "RGB"}
_PALETTE, _WITH_ALPHA = 3, (4, 6)
_COLOUR_CHUNKS = (b"gAMA", b"cHRM", b"sRGB", b"cICP")
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = (
    *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)),
    *((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)),
)
"""Of each pass: first row and column, and the steps from row to row and column to column."""
_HEADER = struct.Struct(">IIBBBBB")
_DENSITY = struct.Struct(">IIB")


def read_png(content: bytes) -> ImageSource:
    """Describe a PNG.

    Raises:
        ValueError: a chunk whose checksum is wrong, or a file that is cut off.
        Exception: of Pillow, where the metadata are damaged.
    """
    chunks = list(_chunks(content))
    content_of = dict(chunks)
    width, height, bits, kind, *_ = _HEADER.unpack(content_of[b"IHDR"])
    image = Image.open(io.BytesIO(content), formats=("PNG",))
    if b"eXIf" in content_of:
        image.info["exif"] = content_of[
            b"eXIf"
        ]  # Pillow decodes all pixels to find one behind them
    exif = Image.Image.getexif(image)
    description = Description(
        container="PNG",
        width=width,
        height=height,
        colour=_COLOURS.get(kind, f"colour type {kind}"),
        bits=bits,
        levels=65535 if bits == 16 else 255,
        extra=("alpha",) if kind in _WITH_ALPHA or b"tRNS" in content_of else (),
        orientation=exif_orientation(exif),
        frames=getattr(image, "n_frames", 1),
        profile=image.info.get("icc_profile"),
        resolution=_resolution(content_of.get(b"pHYs")) or exif_resolution(exif),
        unwritten=unwritten_metadata(exif, image.info),
        colour_chunks=tuple((name, data) for name, data in chunks if name in _COLOUR_CHUNKS),
    )
    return ImageSource(description, lambda: _decode(chunks))


def _decode(chunks: Sequence[Chunk]) -> NDArray[Any]:
    """(H, W) or (H, W, samples) of uint8 or uint16. Fewer bits are scaled up to 8.

    libpng prints warnings of chunks that have nothing to do with pixels, and one of every
    interlaced image: it gets neither, but the passes of an image one by one.
    """
    header = _HEADER.unpack(chunks[0][1])
    width, height, bits, kind, *_, interlaced = header
    tables = [pair for pair in chunks if pair[0] in _tables(kind)]
    packed = b"".join(data for name, data in chunks if name == b"IDAT")
    if not interlaced:
        return _decode_plain(header, tables, packed)
    array: NDArray[Any] | None = None
    for (top, left, down, across), data in _passes(width, height, bits * _SAMPLES[kind], packed):
        size = len(range(left, width, across)), len(range(top, height, down))
        pixels = _decode_plain((*size, *header[2:]), tables, zlib.compress(data, 0))
        if array is None:
            array = np.zeros((height, width, *pixels.shape[2:]), pixels.dtype)
        array[top::down, left::across] = pixels
    assert array is not None  # the first pass has a pixel
    return array


def _tables(kind: int) -> tuple[bytes, ...]:
    return ((b"PLTE",) if kind == _PALETTE else ()) + (() if kind in _WITH_ALPHA else (b"tRNS",))


def _decode_plain(header: Sequence[int], tables: Sequence[Chunk], packed: bytes) -> NDArray[Any]:
    plain = _HEADER.pack(*header[:-1], 0)
    chunks = [(b"IHDR", plain), *tables, (b"IDAT", packed), (b"IEND", b"")]
    array: NDArray[Any] = png_decode(MAGIC + b"".join(_chunk(*pair) for pair in chunks))
    return array


def _passes(
    width: int, height: int, bits: int, packed: bytes
) -> Iterator[tuple[tuple[int, int, int, int], bytes]]:
    """The passes of Adam7 that have pixels, and the filtered rows of each; `bits` of a pixel."""
    sizes = {
        step: len(range(step[0], height, step[2]))
        * (1 + -(-len(range(step[1], width, step[3])) * bits // 8))
        for step in _ADAM7
        if step[0] < height and step[1] < width
    }
    stream = zlib.decompressobj()
    data = stream.decompress(packed, sum(sizes.values()) + 1)
    if len(data) != sum(sizes.values()) or not stream.eof:
        raise ValueError("its pixels are incomplete")
    place = 0
    for step, length in sizes.items():
        yield step, data[place : place + length]
        place += length


def _chunks(content: bytes) -> Iterator[Chunk]:
    """Name and content of every chunk, up to IEND."""
    place, name = len(MAGIC), b""
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", content, place)
        data = content[place + 8 : place + 8 + length]
        (checksum,) = struct.unpack_from(">I", content, place + 8 + length)
        if checksum != zlib.crc32(name + data):
            raise ValueError(f"the checksum of its chunk {name.decode('latin-1')} is wrong")
        yield name, data
        place += 12 + length


def _resolution(density: bytes | None) -> Resolution | None:
    if density is None:
        return None
    x, y, unit = _DENSITY.unpack(density)
    return resolution(x, y, "m" if unit == 1 else "")


def write_png(photograph: Photograph) -> tuple[bytes, list[str]]:
    """The file, and what of the photograph's description it cannot hold."""
    # A copy, since the encoder refuses the strides that a transposed image of one pixel has.
    content, left_out = bytes(png_encode(np.array(photograph.samples(), order="C"))), []
    description, added = photograph.description, list[Chunk]()
    if photograph.white != photograph.levels:
        left_out.append(f"the white level {photograph.white} (values are written at full range)")
    if description is not None:
        added += description.colour_chunks
        if description.profile:
            added.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(description.profile)))
        if description.resolution:
            density = _density(description.resolution)
            added += [(b"pHYs", density)] if density else []
            left_out += [] if density else [f"the resolution ({description.resolution})"]
    end = len(MAGIC) + 12 + _HEADER.size
    return content[:end] + b"".join(_chunk(*pair) for pair in added) + content[end:], left_out


def _density(pixels: Resolution) -> bytes | None:
    """Whole pixels per metre, or the ratio alone where there is no unit."""
    if pixels.unit == "":
        return _DENSITY.pack(*pixels.ratio(2**31 - 1), 0)
    per_metre = pixels.whole("m", 2**31 - 1)
    return _DENSITY.pack(*per_metre, 1) if per_metre else None


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
