"""TIFF files: tifffile knows the structure, imagecodecs undoes the compression."""

from __future__ import annotations

import io
import logging
import math
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from bmo_cli.data.images.description import (
    Description,
    ImageSource,
    Resolution,
    SampleFormat,
    orientation_of,
    resolution,
)
from bmo_cli.data.images.photograph import Photograph
from bmo_cli.data.images.tiff_checks import JPEG, WHITE_LEVEL, stated_whites, unsupported_reason

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # the reader's one line says what is wrong

_RGB, _PALETTE, _YCBCR = 2, 3, 6
_COLOURS = {
    **{0: "white-is-zero gray", 1: "gray", _RGB: "RGB", _PALETTE: "palette"},
    **{4: "transparency mask", 5: "CMYK", _YCBCR: "YCbCr", 8: "CIELab", 9: "ICCLab"},
    **{10: "ITULab", 32803: "raw (CFA)", 32844: "LogL", 32845: "LogLuv", 34892: "linear raw"},
}
_STORED_PLANES = {"gray": 1, "white-is-zero gray": 1, "palette": 1, "RGB": 3}
_EXTRA = {1: "premultiplied alpha", 2: "alpha"}
_FORMATS: Mapping[int, SampleFormat] = {1: "uint", 2: "int", 3: "float", 4: "uint"}
_UNITS = {1: "", 2: "inch", 3: "cm"}
_PROFILE = 34675
_UNWRITTEN = {34665: "EXIF", 700: "XMP", 33723: "IPTC", 34735: "geographic reference"}
_STK_PLANES = 33629
"""The tag UIC2Tag of MetaMorph, which has an entry for each plane."""


def read_tiff(content: bytes) -> ImageSource:
    """Describe a TIFF of any byte order, classic or BigTIFF.

    Raises:
        Exception: of tifffile, where the structure is damaged.
    """
    tiff: Any = tifffile.TiffFile(io.BytesIO(content))
    page = tiff.pages[0]
    bits = max(page.bitspersample) if isinstance(page.bitspersample, tuple) else page.bitspersample
    colour = _COLOURS.get(int(page.photometric), f"photometric {int(page.photometric)}")
    if page.compression == JPEG and page.photometric == _YCBCR:
        colour = "RGB"  # which the decoder makes of it, as of every JPEG
    largest = 2 ** min(bits, 64) - 1
    description = Description(
        container="TIFF",
        width=int(page.imagewidth),
        height=int(page.imagelength),
        colour=colour,
        bits=bits,
        levels=largest if colour != "palette" else 255 if bits <= 8 else 65535,
        sample_format=_FORMATS.get(int(page.sampleformat), "complex"),
        white=_stated_white(page, largest) if colour != "palette" else None,
        extra=_extra(page, colour),
        orientation=orientation_of(page.tags.valueof(274)),
        frames=_frames(tiff, page),
        unsupported=unsupported_reason(tiff, page, colour, content),
        profile=_profile(page),
        resolution=_resolution(tiff, page),
        unwritten=tuple(name for code, name in _UNWRITTEN.items() if code in page.tags),
    )
    return ImageSource(description, lambda: _decode(page))


def _extra(page: Any, colour: str) -> tuple[str, ...]:
    count = page.samplesperpixel - _STORED_PLANES.get(colour, page.samplesperpixel)
    if count < 0:
        raise ValueError(f"{page.samplesperpixel} samples a pixel are too few for {colour}")
    kinds = tuple(_EXTRA.get(int(kind), "unspecified") for kind in page.extrasamples)
    return kinds if len(kinds) == count else ("unspecified",) * count


def _stated_white(page: Any, largest: int) -> int | None:
    """MaxSampleValue, where it is a possible white. `unsupported_reason` handles several values."""
    values = stated_whites(page)
    return values[0] if values and 0 < values[0] < largest else None


def _frames(tiff: Any, page: Any) -> int:
    """Pages and planes of equal rank, without smaller copies of the first page."""
    pages = sum(not other.is_reduced for other in tiff.pages[1:]) + 1 if len(tiff.pages) > 1 else 1
    if page.subifds:
        pages += sum(not other.is_reduced for other in page.pages)
    return max(pages, int(page.imagedepth), _planes_of_page(tiff, page))


def _planes_of_page(tiff: Any, page: Any) -> int:
    """Planes that one page stands for: of ImageJ, tifffile, MetaMorph and NIH Image."""
    if page.is_imagej:
        metadata = tiff.imagej_metadata or {}
        sizes = {key: value for key, value in metadata.items() if isinstance(value, int)}
        frames, slices, channels = (sizes.get(key, 1) for key in ("frames", "slices", "channels"))
        planes = max(frames * slices * channels, sizes.get("images", 1))
        bands_are_channels = channels == page.samplesperpixel
        return planes // channels if bands_are_channels else planes
    if page.is_shaped:
        shape: Sequence[int] = (tiff.shaped_metadata or [{}])[0].get("shape", ())
        return math.prod(shape) // math.prod(map(int, page.shape))
    if _STK_PLANES in page.tags:
        return int(page.tags[_STK_PLANES].count)
    if page.is_nih:
        return int(tiff.nih_metadata.get("nSlices", 1))
    return 1


def _profile(page: Any) -> bytes | None:
    value = page.tags.valueof(_PROFILE)
    return bytes(value) if isinstance(value, bytes | tuple) and value else None


def _resolution(tiff: Any, page: Any) -> Resolution | None:
    if page.is_ome:
        return _ome_resolution(page.description)
    unit = _UNITS.get(page.tags.valueof(296, 2), "")
    if page.is_imagej:
        unit = str((tiff.imagej_metadata or {}).get("unit", unit))
    return resolution(page.tags.valueof(282), page.tags.valueof(283), unit)


def _ome_resolution(xml: str) -> Resolution | None:
    """Of PhysicalSizeX and Y, lengths of a pixel, in micrometres unless it says another unit."""
    sizes = dict(re.findall(r'\b(PhysicalSize[XY](?:Unit)?)\s*=\s*"([^"]{1,40})"', xml[:100_000]))
    try:
        x, y = (1 / Fraction(sizes[f"PhysicalSize{axis}"]) for axis in "XY")
    except (KeyError, ValueError, ZeroDivisionError):
        return None
    units = {sizes.get(f"PhysicalSize{axis}Unit", "um") for axis in "XY"}
    return resolution(x, y, units.pop()) if len(units) == 1 else None


def _decode(page: Any) -> NDArray[Any]:
    array: NDArray[Any] = page.asarray()
    if page.planarconfig == 2 and array.ndim == 3:
        array = np.moveaxis(array, 0, -1)
    if array.dtype == bool:
        array = array.astype(np.uint8)
    return _palette(page)[array.reshape(array.shape[:2])] if page.photometric == 3 else array


def _palette(page: Any) -> NDArray[Any]:
    """(entries, 3) of uint8 for up to 8 bits, else of uint16."""
    entries: NDArray[np.uint16] = np.asarray(page.colormap).T
    if page.bitspersample > 8:
        return entries
    return (entries if entries.max() < 256 else entries >> 8).astype(np.uint8)


def write_tiff(photograph: Photograph) -> tuple[bytes, list[str]]:
    """The file, and what of the photograph's description it cannot hold."""
    stream, left_out = io.BytesIO(), []
    array = photograph.samples(as_stored=True)
    channels = 1 if array.ndim == 2 else array.shape[2]
    description = photograph.description
    options: dict[str, Any] = {"extratags": []}
    if channels in (2, 4):
        premultiplied = description is not None and description.premultiplied
        options["extrasamples"] = ["assocalpha" if premultiplied else "unassalpha"]
    if channels > 1:
        options["planarconfig"] = "contig"
    if photograph.white != photograph.levels:
        values = [photograph.white] * channels
        white = (WHITE_LEVEL, "H", channels, values if channels > 1 else values[0], True)
        options["extratags"].append(white)
    if description and description.profile:
        size = len(description.profile)
        options["extratags"].append((_PROFILE, 7, size, description.profile, True))
    if description and description.resolution:
        stated = _resolution_options(description.resolution)
        left_out += [] if stated else [f"the resolution ({description.resolution})"]
        options |= stated
    tifffile.imwrite(
        stream,
        array,
        photometric="minisblack" if channels < 3 else "rgb",
        metadata=None,
        **options,
    )
    return stream.getvalue(), left_out


def _resolution_options(pixels: Resolution) -> dict[str, Any]:
    """Arguments of tifffile; none: the numbers do not fit."""
    per_cm = pixels.per("cm") if pixels.unit == "m" else None
    numbers, unit = (per_cm, "cm") if per_cm else ((pixels.x, pixels.y), pixels.unit)
    x, y = (_rational(number) for number in numbers)
    if x is None or y is None:
        return {}
    codes = {name: code for code, name in _UNITS.items()}
    options: dict[str, Any] = {"resolution": (x, y), "resolutionunit": codes.get(unit, 1)}
    if unit not in codes:  # where ImageJ looks for other units
        word = unit.encode("ascii", "backslashreplace").decode()
        options["description"] = f"ImageJ=1.11a\nimages=1\nunit={word}\n"
    return options


def _rational(value: Fraction) -> tuple[int, int] | None:
    """Numerator and denominator of 32 bits, as near as they come; None: too large or too small."""
    limit = 2**32 - 1
    if value > limit:
        return None
    near = value.limit_denominator(max(1, min(limit, int(limit / value))))
    return (near.numerator, near.denominator) if near > 0 else None
