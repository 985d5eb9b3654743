"""What EXIF says of orientation and resolution, and whether it says more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bmo_cli.data.images.description import Resolution, orientation_of, resolution

_ORIENTATION, _X, _Y, _UNIT = 0x0112, 0x011A, 0x011B, 0x0128
_EXIF_POINTER = 0x8769
_UNITS = {1: "", 2: "inch", 3: "cm"}


def exif_orientation(exif: Any) -> int:
    """1 ... 8; 1 where nothing valid is said.

    Args:
        exif: a mapping of tags, as Pillow has it.
    """
    return orientation_of(exif.get(_ORIENTATION))


def unwritten_metadata(exif: Any, info: Mapping[Any, Any]) -> tuple[str, ...]:
    """Names of the metadata of a JPEG or PNG that an output never holds.

    Args:
        exif: as above.
        info: of the image, as Pillow has it.
    """
    more = set(exif) - {_ORIENTATION, _X, _Y, _UNIT, _EXIF_POINTER}
    has_exif = bool(more or exif.get_ifd(_EXIF_POINTER))
    has_xmp = "xmp" in info or "XML:com.adobe.xmp" in info
    names = {"EXIF": has_exif, "XMP": has_xmp, "IPTC": "photoshop" in info}
    return tuple(name for name, there in names.items() if there)


def exif_resolution(exif: Any) -> Resolution | None:
    """Of the tags XResolution, YResolution and ResolutionUnit (inch, where there is none)."""
    x, y = exif.get(_X), exif.get(_Y)
    if x is None or y is None:
        return None
    across, down = ((getattr(v, "numerator", 0), getattr(v, "denominator", 0)) for v in (x, y))
    return resolution(across, down, _UNITS.get(exif.get(_UNIT, 2), ""))
