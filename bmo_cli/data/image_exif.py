"""What EXIF says of orientation and resolution."""

from __future__ import annotations

from typing import Any

from bmo_cli.data.image_description import Resolution, orientation_of, resolution

_ORIENTATION, _X, _Y, _UNIT = 0x0112, 0x011A, 0x011B, 0x0128
_UNITS = {1: "", 2: "inch", 3: "cm"}


def exif_orientation(exif: Any) -> int:
    """1 ... 8; 1 where nothing valid is said.

    Args:
        exif: a mapping of tags, as Pillow has it.
    """
    return orientation_of(exif.get(_ORIENTATION))


def exif_resolution(exif: Any) -> Resolution | None:
    """Of the tags XResolution, YResolution and ResolutionUnit (inch, where there is none)."""
    x, y = exif.get(_X), exif.get(_Y)
    if x is None or y is None:
        return None
    across, down = ((getattr(v, "numerator", 0), getattr(v, "denominator", 0)) for v in (x, y))
    return resolution(across, down, _UNITS.get(exif.get(_UNIT, 2), ""))
