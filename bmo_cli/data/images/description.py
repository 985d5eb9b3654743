"""What an image file holds, as its header says, and the one rule of what is refused.

Each container (TIFF, PNG, JPEG, BMP) has a module that describes a file before it decodes pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

SampleFormat = Literal["uint", "int", "float", "complex"]
_COLOURS = {"gray": 1, "white-is-zero gray": 1, "palette": 3, "RGB": 3}
"""Photometric meanings that are read, and the planes that each has once it is decoded."""
_METRES = {
    **{"inch": Fraction(254, 10_000), "cm": Fraction(1, 100), "m": Fraction(1)},
    **{"mm": Fraction(1, 10**3), "um": Fraction(1, 10**6), "nm": Fraction(1, 10**9)},
}
_SPELLINGS = {
    **{"inches": "inch", "in": "inch", "metre": "m", "meter": "m", "centimeter": "cm"},
    **{"millimeter": "mm", "micron": "um", "microns": "um", "micrometer": "um", "nanometer": "nm"},
    **{"\u00b5m": "um", "\u03bcm": "um", "\\u00b5m": "um", "\\u03bcm": "um"},
}


@dataclass(frozen=True)
class Resolution:
    """Pixels per unit of length, across and down.

    Attributes:
        x: pixels per unit along a row.
        y: pixels per unit along a column.
        unit: inch, m, cm, mm, um, nm, or another word of the file; empty: only the ratio of x and y
            means something.
    """

    x: Fraction
    y: Fraction
    unit: str = ""

    @property
    def is_trivial(self) -> bool:
        """Whether it says only that pixels are square."""
        return self.unit == "" and self.x == self.y

    def scale(self, across: Fraction, down: Fraction) -> Resolution:
        """Of an image with so many times the pixels on the same area."""
        return replace(self, x=self.x * across, y=self.y * down)

    def transpose(self) -> Resolution:
        """Of an image turned by a quarter."""
        return replace(self, x=self.y, y=self.x)

    def per(self, unit: str) -> tuple[Fraction, Fraction] | None:
        """Pixels per unit "m", "cm" or "inch"; None: the length of this unit is not known."""
        if self.unit not in _METRES:
            return None
        factor = _METRES[unit] / _METRES[self.unit]
        return self.x * factor, self.y * factor

    def whole(self, unit: str, limit: int) -> tuple[int, int] | None:
        """`per` in whole numbers up to `limit`; None: rounding would change them by over 1 %."""
        exact = self.per(unit)
        if exact is None:
            return None
        x, y = map(round, exact)
        near = all(abs(n - v) <= v / 100 for n, v in zip((x, y), exact, strict=True))
        return (x, y) if near and max(x, y) <= limit else None

    def ratio(self, limit: int) -> tuple[int, int]:
        """x : y in whole numbers from 1 to `limit`, as near as they come."""
        near = (self.x / self.y).limit_denominator(limit)
        return min(limit, max(1, near.numerator)), max(1, near.denominator)

    def __str__(self) -> str:
        return f"{float(self.x):g} x {float(self.y):g} pixels per {self.unit or 'unknown unit'}"


def resolution(x: Any, y: Any, unit: str) -> Resolution | None:
    """From numbers or (numerator, denominator) pairs; None: not two positive numbers."""
    try:
        across, down = (Fraction(*v) if isinstance(v, tuple) else Fraction(v) for v in (x, y))
    except (TypeError, ValueError, ArithmeticError):
        return None
    word = unit.strip()
    known = _SPELLINGS.get(word.lower(), word)
    return Resolution(across, down, known) if across > 0 and down > 0 else None


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a file holds.

    Attributes:
        container: PNG, JPEG, BMP or TIFF.
        width: pixels of a row, as stored.
        height: rows, as stored.
        colour: photometric meaning: gray, white-is-zero gray, RGB, palette, or what is refused.
        bits: of a stored sample.
        sample_format: of a stored sample.
        levels: largest value that a decoded sample can have.
        white: value of white, where the file states one that is not `levels`.
        extra: meaning of the samples behind the colour: alpha, premultiplied alpha or unspecified.
        orientation: EXIF value 1 ... 8 of how the rows are stored; 1: upright.
        frames: pages, frames or planes of equal rank.
        unsupported: why it cannot be decoded right, where the header shows it.
        profile: ICC profile.
        resolution: pixels per unit of length.
        colour_chunks: of a PNG: name and content of what says how values become light.
        unwritten: names of metadata in the file that an output never holds.
    """

    container: str
    width: int
    height: int
    colour: str
    bits: int
    levels: int
    sample_format: SampleFormat = "uint"
    white: int | None = None
    extra: tuple[str, ...] = ()
    orientation: int = 1
    frames: int = 1
    unsupported: str | None = None
    profile: bytes | None = field(default=None, repr=False)
    resolution: Resolution | None = None
    colour_chunks: tuple[tuple[bytes, bytes], ...] = ()
    unwritten: tuple[str, ...] = ()

    @property
    def samples(self) -> int:
        """Samples of a decoded pixel: gray or colour, and alpha."""
        return _COLOURS[self.colour] + len(self.extra)

    @property
    def premultiplied(self) -> bool:
        """Whether colour is stored multiplied by alpha."""
        return "premultiplied alpha" in self.extra

    def upright(self) -> Description:
        """Of the same image, stored upright."""
        if self.orientation < 5:
            return replace(self, orientation=1)
        return replace(
            self,
            orientation=1,
            width=self.height,
            height=self.width,
            resolution=self.resolution.transpose() if self.resolution else None,
        )


@dataclass(frozen=True)
class ImageSource:
    """An image file whose header was read.

    Attributes:
        description: of the file.
        decode: the pixels, (H, W) or (H, W, samples) as stored, with palettes resolved.
    """

    description: Description
    decode: Callable[[], NDArray[Any]]

    def samples(self) -> NDArray[Any]:
        """(H, W, samples), upright, of values up to `description.levels`.

        Raises:
            ValueError: the decoder gives another shape than the header says.
        """
        array = self.decode()
        array = array[..., None] if array.ndim == 2 else array
        header = self.description
        if array.shape != (header.height, header.width, header.samples):
            raise ValueError(
                f"its header says {header.width} x {header.height} with {header.samples} samples a "
                f"pixel, its data have the shape {array.shape}"
            )
        return upright(array, header.orientation)


_UPRIGHT = {
    **{1: (0, False), 3: (2, False), 6: (-1, False), 8: (1, False)},
    **{2: (0, True), 4: (2, True), 5: (-1, True), 7: (1, True)},
}
"""Quarter turns to the left, then mirroring, that undo each value of the tag Orientation."""


def upright(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """(H, W, ...) rows as they are seen, from rows stored with this EXIF orientation."""
    if orientation == 1:
        return array
    turns, mirrored = _UPRIGHT[orientation]
    turned: NDArray[Any] = np.rot90(array, turns)
    seen = np.fliplr(turned) if mirrored else turned
    return np.array(seen, order="C")  # encoders want plain strides


def orientation_of(value: Any) -> int:
    """A valid EXIF orientation. Everything else counts as upright."""
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def colour_space(profile: bytes) -> str | None:
    """GRAY, RGB, CMYK, ... of an ICC profile (ICC.1:2022, 7.2); None: it is no profile."""
    if len(profile) < 128 or profile[36:40] != b"acsp":
        return None
    return profile[16:20].decode("latin-1").strip()


def refusal(description: Description, *, of_values: bool = False) -> str | None:
    """Why an image is not read, or None.

    Args:
        description: of the file.
        of_values: whether numbers are wanted (a blur kernel) and not a photograph, so that
            samples may be of any real type.
    """
    if min(description.width, description.height) < 1:
        return f"claims {description.width} x {description.height} pixels; expected an image"
    if description.frames > 1:
        return f"holds {description.frames} pages or frames; expected one image"
    if description.colour not in _COLOURS:
        return f"is a {description.colour} image; expected gray or RGB"
    if description.unsupported:
        return f"{description.unsupported}; expected an ordinary {description.container}"
    unsigned = description.sample_format == "uint"
    if description.sample_format == "complex" or not (of_values or unsigned):
        return f"holds {_kind(description)} samples; expected unsigned integers of 1 to 16 bits"
    if not of_values and not 1 <= description.bits <= 16:
        return f"holds {_kind(description)} samples; expected 1 to 16 bits"
    if not unsigned and description.colour == "white-is-zero gray":
        return f"holds {_kind(description)} samples where white is zero; expected black to be zero"
    return _refused_bands(description)


def _kind(description: Description) -> str:
    return f"{description.sample_format}{description.bits}"


def _refused_bands(description: Description) -> str | None:
    colour, extra = description.colour, description.extra
    if "unspecified" in extra:
        return (
            f"holds {len(extra)} more than the bands of {colour}, and does not say that they are "
            "alpha; expected gray or RGB, each with or without alpha"
        )
    if len(extra) > 1:
        return f"has {len(extra)} alpha channels; expected one at most"
    if description.premultiplied and colour == "white-is-zero gray":
        return "has premultiplied alpha where white is zero; expected black to be zero"
    return None
