"""A made image file, and what a reader has to make of it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

SRGB_LIKE = b"\0" * 16 + b"RGB " + b"XYZ " + b"\0" * 12 + b"acsp" + b"\0" * 92
GRAY_LIKE = b"\0" * 16 + b"GRAY" + b"XYZ " + b"\0" * 12 + b"acsp" + b"\0" * 92
"""Headers of ICC profiles, which is all that a reader has to look at."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A file.

    Attributes:
        kind: what is counted together.
        suffix: of its name.
        content: the file.
        pixels: (H, W, C) in [0, 1], upright; None: the file has to be refused.
        alpha: (H, W) in [0, 1], or None.
        tolerance: largest difference to `pixels` and `alpha`.
        may_refuse: whether to refuse it is right as well.
        damaged: whether bytes were changed: pixels that are read may differ, unless `guarded`.
        guarded: whether checksums guard the pixels.
        profile: ICC profile that the file holds.
        resolution: x, y and unit that the file states, upright.
        values: (H, W) or (H, W, 3) of numbers, for a reader of numbers instead of photographs.
    """

    kind: str
    suffix: str
    content: bytes
    pixels: NDArray[np.float64] | None = None
    alpha: NDArray[np.float64] | None = None
    tolerance: float = 0.51 / 255
    may_refuse: bool = False
    damaged: bool = False
    guarded: bool = False
    profile: bytes | None = None
    resolution: tuple[Fraction, Fraction, str] | None = None
    values: NDArray[Any] | None = None


def size(rng: np.random.Generator) -> tuple[int, int]:
    """Height and width, odd and even, now and then one."""
    sides = rng.integers(1, 48, 2)
    return int(sides[0]), int(sides[1])


def integers(rng: np.random.Generator, shape: tuple[int, ...], largest: int) -> NDArray[np.int64]:
    """Noise over all values, both ends among them."""
    values: NDArray[np.int64] = rng.integers(0, largest + 1, shape)
    flat = values.reshape(-1)
    flat[rng.integers(flat.size)] = largest
    return values


def smooth(rng: np.random.Generator, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Slow waves, which lossy codecs keep."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    phases = rng.uniform(0, 6, shape[2])
    waves = [127 + 60 * np.sin(y / 9 + p) + 60 * np.cos(x / 11 - p) for p in phases]
    return np.clip(np.stack(waves, 2), 0, 255).astype(np.uint8)


def stored(upright: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Rows as a file of this EXIF orientation has them (TIFF 6.0, tag 274)."""
    if orientation >= 5:  # the first row of the file is a column of the scene
        upright = np.swapaxes(upright, 0, 1)
        flips = {5: (), 6: (0,), 7: (0, 1), 8: (1,)}[orientation]
    else:
        flips = {1: (), 2: (1,), 3: (0, 1), 4: (0,)}[orientation]
    return np.flip(upright, flips) if flips else upright


def pick(rng: np.random.Generator, *choices: Any) -> Any:
    """One of these."""
    return choices[int(rng.integers(len(choices)))]
