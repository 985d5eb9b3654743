"""JPEG and BMP files, which Pillow reads and writes."""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bmo_cli.data.images.description import Description, ImageSource, Resolution, resolution
from bmo_cli.data.images.exif import exif_orientation, exif_resolution, unwritten_metadata
from bmo_cli.data.images.photograph import Photograph

JPEG_MAGIC, BMP_MAGIC = b"\xff\xd8\xff", b"BM"
Image.MAX_IMAGE_PIXELS = None  # our own limit is said before pixels are decoded
warnings.filterwarnings("ignore", module=r"PIL\.")  # of metadata: pixels are read or refused

_COLOURS = {1: "gray", 3: "RGB", 4: "CMYK"}
_FRAME_MARKERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_SCAN_MARKER, _END = 0xDA, b"\xff\xd9"
_JFIF_UNITS, _JFIF_DENSITY = {1: "inch", 2: "cm"}, 13
_MP_ENTRIES = 0xB002
_CORE_HEADER, _V3_HEADER, _V5_HEADER = 12, 56, 124
_BITFIELDS = 3


def read_jpeg(content: bytes) -> ImageSource:
    """Describe a JPEG.

    Raises:
        ValueError: it is cut off.
        Exception: of Pillow, where it is damaged.
    """
    bits, height, width, planes, scan = _frame_header(content)
    if content.find(_END, scan) < 0:
        raise ValueError("it is cut off: it has no end marker")
    description = Description(
        container="JPEG",
        width=width,
        height=height,
        colour=_COLOURS.get(planes, f"{planes}-band"),
        bits=bits,
        levels=255,
        unsupported=None if bits == 8 else f"is a JPEG of {bits} bits",
    )
    if bits != 8 or planes not in _COLOURS:  # Pillow does not even open it
        return ImageSource(description, lambda: np.zeros(0))
    image = Image.open(io.BytesIO(content), formats=("JPEG", "MPO"))
    exif = image.getexif()
    description = replace(
        description,
        orientation=exif_orientation(exif),
        frames=_frames(image),
        profile=image.info.get("icc_profile"),
        resolution=_jfif_resolution(image.info) or exif_resolution(exif),
        unwritten=unwritten_metadata(exif, image.info),
    )
    return ImageSource(description, lambda: np.asarray(image))


def _frame_header(content: bytes) -> tuple[int, int, int, int, int]:
    """Bits, height, width, bands, and where the first scan begins."""
    place, frame = 2, None
    while True:
        marker, length = struct.unpack_from(">HH", content, place)
        kind = marker & 0xFF
        if marker == 0xFFFF:  # a fill byte
            place += 1
            continue
        if marker < 0xFF01 or length < 2:
            raise ValueError(f"no marker at byte {place}")
        if kind in _FRAME_MARKERS:
            frame = struct.unpack_from(">BHHB", content, place + 4)
        place += 2 + length
        if kind == _SCAN_MARKER:
            break
    if frame is None:
        raise ValueError("it has no frame header")
    return (*frame, place)


def _frames(image: Any) -> int:
    """Images of a multi-picture file (CIPA DC-007), without thumbnails of the first."""
    entries = getattr(image, "mpinfo", {}).get(_MP_ENTRIES, ({},))
    kinds = [entry.get("Attribute", {}).get("MPType", "") for entry in entries]
    return sum(not kind.startswith("Large Thumbnail") for kind in kinds)


def _jfif_resolution(info: dict[Any, Any]) -> Resolution | None:
    unit, density = info.get("jfif_unit"), info.get("jfif_density")
    if density is None or (unit not in _JFIF_UNITS and density[0] == density[1]):
        return None  # which says nothing; EXIF may
    return resolution(density[0], density[1], _JFIF_UNITS.get(unit or 0, ""))


def write_jpeg(photograph: Photograph) -> tuple[bytes, list[str]]:
    """The file, and what of the photograph's description it cannot hold."""
    stream, left_out = io.BytesIO(), []
    description = photograph.description
    profile = description.profile if description else None
    image = Image.fromarray(photograph.samples())
    image.save(stream, "JPEG", quality=95, subsampling=0, icc_profile=profile)
    content = bytearray(stream.getvalue())
    if description and description.resolution:
        density = _jfif_density(description.resolution)
        if density is None:
            left_out.append(f"the resolution ({description.resolution})")
        else:
            content[_JFIF_DENSITY : _JFIF_DENSITY + len(density)] = density
    return bytes(content), left_out


def _jfif_density(pixels: Resolution) -> bytes | None:
    """Unit and whole pixels per inch or centimetre, whichever is nearer; None: neither is near."""
    if pixels.unit == "":
        return struct.pack(">BHH", 0, *pixels.ratio(65535))
    candidates = []
    for code, name in _JFIF_UNITS.items():
        whole, exact = pixels.whole(name, 65535), pixels.per(name)
        if whole and exact:
            error = sum(abs(n / v - 1) for n, v in zip(whole, exact, strict=True))
            candidates.append((error, code, whole))
    if not candidates:
        return None
    _, code, whole = min(candidates)
    return struct.pack(">BHH", code, *whole)


def read_bmp(content: bytes) -> ImageSource:
    """Describe a BMP.

    Raises:
        Exception: of Pillow, where it is damaged or of a kind that it does not read.
    """
    image = Image.open(io.BytesIO(content), formats=("BMP",))
    (size,) = struct.unpack_from("<I", content, 14)
    short = size == _CORE_HEADER
    (bits,) = struct.unpack_from("<H", content, 24 if short else 28)
    palette = image.mode in ("1", "L", "P")
    description = Description(
        container="BMP",
        width=image.width,
        height=image.height,
        colour="palette" if image.mode == "P" else "gray" if palette else "RGB",
        bits=min(bits, 8),
        levels=255,
        extra=("alpha",) if _has_alpha(content, size) else (),
        unsupported=_unsupported_bmp(image, bits),
        profile=_bmp_profile(content, size),
        resolution=None if short else _bmp_resolution(content),
    )
    return ImageSource(description, lambda: _decode_bmp(image))


def _has_alpha(content: bytes, size: int) -> bool:
    """Whether bit fields are declared, and one of them for alpha; else a fourth byte is none."""
    if size < _V3_HEADER or struct.unpack_from("<I", content, 30)[0] != _BITFIELDS:
        return False
    return content[66:70] != bytes(4)


def _unsupported_bmp(image: Image.Image, bits: int) -> str | None:
    if image.mode in ("1", "L") and bits != {"1": 1, "L": 8}[image.mode]:
        return f"has a palette of few grays for {bits} bits"  # Pillow takes it for other bits
    return None


def _decode_bmp(image: Image.Image) -> NDArray[Any]:
    return np.asarray(image.convert({"1": "L", "P": "RGB"}.get(image.mode, image.mode)))


def _bmp_resolution(content: bytes) -> Resolution | None:
    x, y = struct.unpack_from("<ii", content, 38)
    return resolution(x, y, "m")


def _bmp_profile(content: bytes, size: int) -> bytes | None:
    """The embedded profile of a BITMAPV5HEADER."""
    if size < _V5_HEADER or content[70:74] != b"DEBM":
        return None
    start, length = struct.unpack_from("<II", content, 126)
    if 14 + start + length > len(content):
        raise ValueError("its ICC profile is cut off")
    return content[14 + start : 14 + start + length] or None


def write_bmp(photograph: Photograph) -> tuple[bytes, list[str]]:
    """The file, and what of the photograph's description it cannot hold."""
    stream = io.BytesIO()
    Image.fromarray(photograph.samples()).save(stream, "BMP")
    content, description = bytearray(stream.getvalue()), photograph.description
    left_out = ["the ICC profile"] if description and description.profile else []
    if description and description.resolution and not description.resolution.is_trivial:
        per_metre = description.resolution.whole("m", 2**31 - 1)
        if per_metre:
            struct.pack_into("<ii", content, 38, *per_metre)
        else:
            left_out.append(f"the resolution ({description.resolution})")
    return bytes(content), left_out
