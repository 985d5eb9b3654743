"""TIFF files that cannot be decoded right, found before they are decoded."""

from __future__ import annotations

import math
import struct
from typing import Any

WHITE_LEVEL = 281
"""The tag MaxSampleValue."""
_PHOTOMETRIC = 262
JPEG = 7
_CCITT = (2, 3, 4)
_WITH_PREDICTOR = (5, 8, 32946, 34925, 50000)
"""LZW, Deflate, Deflate (its first number), LZMA, Zstandard."""
_COMPRESSIONS = (1, *_CCITT, JPEG, 32773, *_WITH_PREDICTOR)
"""None, CCITT, JPEG, PackBits, and those."""
_LARGEST_TILE = 1 << 24
_TYPE_SIZES = {
    **{1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4},
    **{16: 8, 17: 8, 18: 8},
}
"""Bytes of a value, by the number of its type."""
_NEEDED = {
    *range(254, 260),
    *(262, 266, 270, 273, 274, 277, 278, 279, WHITE_LEVEL, 282, 283, 284, 296, 317, 320),
    *(*range(322, 326), 330, 338, 339, 347, 529, 530, 532, 32997, 33629, 34675),
}
"""Tags without which a file would be read as another image."""


def stated_whites(page: Any) -> list[int]:
    """The different values of MaxSampleValue."""
    value = page.tags.valueof(WHITE_LEVEL)
    values = value if isinstance(value, tuple) else (value,)
    return sorted({v for v in values if isinstance(v, int)})


def unsupported_reason(tiff: Any, page: Any, colour: str, content: bytes) -> str | None:
    """Why the first page cannot be decoded right; None: it can.

    Args:
        tiff: the file, of tifffile.
        page: its first page.
        colour: photometric meaning.
        content: of the file.
    """
    compression = int(page.compression)
    if _PHOTOMETRIC not in page.tags:
        return "does not say what its values mean (PhotometricInterpretation)"
    if page.is_reduced:
        return "begins with the preview of an image that lies elsewhere in the file"
    if isinstance(page.bitspersample, tuple):
        return f"has bands of {', '.join(map(str, page.bitspersample))} bits"
    bits = page.bitspersample
    if len(stated_whites(page)) > 1:
        return "states a white level (MaxSampleValue) for each band"
    if compression not in _COMPRESSIONS:
        return f"is compressed by the method {getattr(page.compression, 'name', compression)}"
    if page.predictor not in (1, 2, 3) or (page.predictor == 2 and bits % 8):
        return f"has predictor {int(page.predictor)} on samples of {bits} bits"
    if page.predictor != 1 and compression not in _WITH_PREDICTOR:  # libtiff would ignore it
        return f"has predictor {int(page.predictor)} without a compression that it goes with"
    if compression == JPEG and (bits != 8 or colour == "palette" or page.extrasamples):
        return f"holds a JPEG of {bits} bits, a palette or alpha"
    if compression in _CCITT and (bits != 1 or page.samplesperpixel != 1):
        return "is compressed as a fax, but not black and white"
    if colour == "palette" and page.samplesperpixel > 1:
        return "has a palette and more bands"
    if page.is_tiled and page.tilewidth * page.tilelength > _LARGEST_TILE:
        return f"has tiles of {page.tilewidth} x {page.tilelength} pixels"
    return _damaged_directory(tiff, page, content) or _incomplete(page, len(content))


def _incomplete(page: Any, size: int) -> str | None:
    """Strips and tiles that are missing, which tifffile would fill with zeros."""
    places = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    if len(places) < math.prod(page.chunked):
        return f"is damaged: it lists {len(places)} of {math.prod(page.chunked)} strips or tiles"
    if any(start <= 0 or length <= 0 or start + length > size for start, length in places):
        return "is cut off or damaged: a strip or tile lies outside the file"
    return None


def _damaged_directory(tiff: Any, page: Any, content: bytes) -> str | None:
    """Tags and pages that lie outside the file, which tifffile would leave out."""
    form = tiff.tiff
    (count,) = struct.unpack_from(form.tagnoformat, content, page.offset)
    start = page.offset + form.tagnosize
    big = form.tagsize > 12
    entry = struct.Struct(f"{form.byteorder}HH{'QQ' if big else 'II'}")
    for place in range(start, start + count * form.tagsize, form.tagsize):
        code, kind, number, offset = entry.unpack_from(content, place)
        size = _TYPE_SIZES.get(kind, 0) * number
        outside = size > (8 if big else 4) and offset + size > len(content)
        if code in _NEEDED and (size == 0 or outside):
            return f"is damaged: its tag {code} cannot be read"
    (following,) = struct.unpack_from(form.offsetformat, content, start + count * form.tagsize)
    if following and len(tiff.pages) == 1:
        return "is cut off or damaged: it names a second page that is not there"
    return None
