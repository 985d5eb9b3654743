"""A photograph in memory: full-range integers, and what its file says of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmo_cli.data.images.description import Description


@dataclass(frozen=True)
class Photograph:
    """A decoded image.

    Attributes:
        pixels: (H, W, C) of uint8 or uint16, C = 1 gray or 3 colour, upright. The largest value of
            the type is white.
        alpha: (H, W) of the same type, or None. Colour is not multiplied by it.
        description: of the file that it was read from, turned upright; `white` in it is the value
            that stands for white there.
        clipped: how many stored values were above white.
    """

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None = None
    description: Description | None = None
    clipped: int = 0

    @property
    def depth(self) -> int:
        """8 or 16 bit."""
        return self.pixels.dtype.itemsize * 8

    @property
    def levels(self) -> int:
        """Largest value: 255 or 65535."""
        return int(np.iinfo(self.pixels.dtype).max)

    @property
    def white(self) -> int:
        """The value of white in a file of this depth: `levels`, or less where one is stated."""
        return (self.description and self.description.white) or self.levels

    def channels_first(self, channels: int | None = None) -> NDArray[Any]:
        """(C, H, W) of the stored type, gray or colour as asked for, by default as it is.

        Colour becomes gray by the luma of ITU-R BT.601 (0.299, 0.587, 0.114). Gray becomes three
        equal channels.
        """
        have = self.pixels.shape[2]
        if channels in (None, have):
            chosen = self.pixels
        elif channels == 1:
            luma = self.pixels @ np.array([0.299, 0.587, 0.114])
            chosen = luma.round().astype(self.pixels.dtype)[..., None]
        else:
            chosen = self.pixels.repeat(3, axis=2)
        return np.ascontiguousarray(chosen.transpose(2, 0, 1))

    def with_pixels(self, pixels: NDArray[Any], alpha: NDArray[Any] | None) -> Photograph:
        """Other pixels of the same scene with the same metadata. The resolution follows the size.

        Args:
            pixels: (H', W', C) of the same type.
            alpha: (H', W') of the same type, or None.
        """
        description = self.description
        if description is not None and description.resolution is not None:
            down, across = (
                Fraction(new, old)
                for new, old in zip(pixels.shape[:2], self.pixels.shape[:2], strict=True)
            )
            resolution = description.resolution.scale(across, down)
            description = replace(description, resolution=resolution)
        return replace(self, pixels=pixels, alpha=alpha, description=description)

    def samples(self, *, as_stored: bool = False) -> NDArray[Any]:
        """(H, W) or (H, W, samples), alpha last.

        Args:
            as_stored: with the white level and the premultiplied alpha of the file, where it has
                them.
        """
        pixels, alpha, scale = self.pixels, self.alpha, 1.0
        if as_stored:
            scale = self.white / self.levels
            if alpha is not None and self.description and self.description.premultiplied:
                pixels = pixels * (alpha[..., None] / self.levels)
        array = pixels if alpha is None else np.dstack([pixels, alpha])
        if array.dtype != self.pixels.dtype or scale != 1:
            array = np.rint(array * scale).astype(self.pixels.dtype)  # rounded once: invertible
        return np.ascontiguousarray(array[..., 0] if array.shape[2] == 1 else array)


def photograph(samples: NDArray[Any], description: Description, white: int) -> Photograph:
    """A photograph of decoded samples: at full range, black at zero, alpha not multiplied in.

    Values v <= white become round(v * 255 / white) where 8 bits hold the decoder's values, else
    round(v * 65535 / white). Both are invertible. Larger values count as white.

    Args:
        samples: (H, W, samples) of unsigned integers, alpha last, upright.
        description: of the file.
        white: value that stands for white.
    """
    dtype = np.uint8 if description.levels <= 255 else np.uint16
    clipped = int(np.count_nonzero(samples > white)) if white < description.levels else 0
    values = np.minimum(samples, white) if clipped else samples
    colour, alpha = (values[..., :-1], values[..., -1]) if description.extra else (values, None)
    if description.colour == "white-is-zero gray":
        colour = white - colour
    if description.premultiplied:
        pixels = _divide_alpha_out(colour, alpha, dtype)
    else:
        pixels = _full_range(colour, white, dtype)
    stated = None if white == description.levels else white
    return Photograph(
        pixels,
        None if alpha is None else _full_range(alpha, white, dtype),
        replace(description.upright(), white=stated),
        clipped,
    )


def _full_range(values: NDArray[Any], white: int, dtype: type) -> NDArray[Any]:
    largest = np.iinfo(dtype).max
    if white == largest:
        return values.astype(dtype, copy=False)
    scaled: NDArray[Any] = np.rint(np.arange(white + 1) * (largest / white)).astype(dtype)[values]
    return scaled


def _divide_alpha_out(
    colour: NDArray[Any], alpha: NDArray[Any] | None, dtype: type
) -> NDArray[Any]:
    """Colour from its product with alpha. It is black where alpha is zero."""
    assert alpha is not None
    weight = alpha[..., None].astype(np.float64)
    share = np.divide(colour, weight, out=np.zeros(colour.shape), where=weight > 0)
    pixels: NDArray[Any] = np.rint(np.minimum(share, 1) * np.iinfo(dtype).max).astype(dtype)
    return pixels
