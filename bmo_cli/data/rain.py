"""Synthetic rain: gray streaks, y = min(b + s, 1), in layers of nearly equal direction.

The streaks of a layer are sparse noise, blurred along one direction (motion) and a little across
it. Their brightness has a heavy tail: many are faint, few are strong. (The construction is that of
the synthetic sets of Yang et al., "Deep joint rain detection and removal from a single image", CVPR
2017. `light` and `heavy` are fitted to pairs 001 to 010 of Rain100L and to 56 of the pairs of
Rain100H; `benchmarks/rain_statistics.py` compares them.)

Every image draws parameters of its own, so that an image of drizzle lies beside one of a shower.

Shape legend: B images, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from bmo_cli.config.checks import Count, Finite, checked
from bmo_cli.errors import InputError

Preset = Literal["light", "heavy"]
Range = tuple[float, float]
Array = NDArray[np.float64]

_FWHM = float(np.sqrt(8 * np.log(2)))
"""Full width at half maximum of a Gaussian of standard deviation 1."""
LIMITS: Mapping[str, Range] = {
    "angle": (-60, 60),
    "fan": (0, 20),
    "length": (1, 200),
    "width": (1.2, 20),
    "density": (0.01, 1000),
    "brightness": (0.001, 1),
    "spread": (0, 3),
    "ceiling": (0.1, 1000),
}
"""What makes sense, by parameter of `Streaks`."""
_SOFT = 0.07
"""Standard deviation of the blur that softens both ends of a streak, as a share of `length`."""
_MARGIN = 3
"""Columns that the spline of `_shear` reads beyond both borders, and one for rounding."""
_LONGEST = 4.0
"""Longest streak of an image as a multiple of its `length`."""


@dataclass(frozen=True)
class Streaks:
    """Parameters of the rain.

    Every image draws its own value of a range (low, high): of length, density, brightness and
    ceiling uniformly in their logarithm, of fan, width and spread uniformly. Its angle has a
    triangular density, so that the middle of the range is drawn most often.

    Attributes:
        angle: of a streak to the vertical in degrees. A positive one leans like a slash.
        fan: of the directions in degrees: a layer is turned from `angle` by at most this much.
        length: of the median streak in pixels, between the halves of its two soft ends.
        width: of a streak in pixels (full width at half maximum).
        density: streaks per 1000 pixels of an image, in all layers together.
        brightness: mean of the streaks' centres before the ceiling, as a share of white.
        spread: standard deviation of the natural logarithm of a streak's brightness.
        ceiling: of a layer, as a multiple of `brightness`: a layer is flat where it is brighter.
        layers: number of layers, which are added.
        length_spread: standard deviation of the natural logarithm of a streak's length.
        cluster: streaks that lie close to one another, as drops of one gust.

    Raises:
        InputError: a range is empty or outside of what makes sense.
    """

    angle: Range = (-45.0, 45.0)
    fan: Range = (0.0, 3.0)
    length: Range = (10.0, 32.0)
    width: Range = (1.5, 1.9)
    density: Range = (4.5, 10.0)
    brightness: Range = (0.033, 0.185)
    spread: Range = (0.2, 1.5)
    ceiling: Range = (2.5, 7.0)
    layers: int = 2
    length_spread: float = 0.8
    cluster: int = 3

    def __post_init__(self) -> None:
        for name, (least, most) in LIMITS.items():
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                usual = ",".join(f"{end:g}" for end in getattr(type(self), name))
                raise InputError(
                    f"task.{name}=[{low:g},{high:g}] is no range of synthetic rain; expected [low, "
                    f"high] with {least:g} <= low <= high <= {most:g}; try task.{name}=[{usual}]"
                )

    def draw(self, shape: tuple[int, int, int], rng: np.random.Generator) -> Tensor:
        """Streaks s of B images, (B, 1, H, W) in [0, 1]. They enter and leave at the borders.

        Args:
            shape: (B, H, W).
            rng: the only source of randomness.
        """
        count, height, width = shape
        images = [self._image((height, width), rng) for _ in range(count)]
        return torch.from_numpy(np.stack(images)[:, None]).float()

    def fall(self, clean: Tensor, streaks: Tensor) -> Tensor:
        """The rainy image y = min(b + s, 1) of a clean one b.

        Args:
            clean: b, (B, C, H, W) in [0, 1].
            streaks: s, (B, 1, H, W): rain has no colour.
        """
        return (clean + streaks).clamp(max=1)

    def _image(self, size: tuple[int, int], rng: np.random.Generator) -> Array:
        low, high = self.angle
        angle = rng.triangular(low, (low + high) / 2, high) if low < high else low
        fan, width, spread = (rng.uniform(*r) for r in (self.fan, self.width, self.spread))
        length, density, brightness, ceiling = np.exp(
            [
                rng.uniform(*np.log(limits))
                for limits in (self.length, self.density, self.brightness, self.ceiling)
            ]
        )
        streaks = np.zeros(size)
        for _ in range(self.layers):
            layer = self._layer(
                size,
                rng,
                np.deg2rad(angle + rng.uniform(-fan, fan)),
                density / self.layers,
                length=length,
                width=width,
                brightness=brightness,
                spread=spread,
            )
            streaks += layer.clip(0, ceiling * brightness)
        return streaks.clip(0, 1)

    def _layer(
        self,
        size: tuple[int, int],
        rng: np.random.Generator,
        angle: float,
        density: float,
        *,
        length: float,
        width: float,
        brightness: float,
        spread: float,
    ) -> Array:
        """Streaks of one direction, (H, W), without a ceiling.

        They are drawn upright, where a streak is the running sum of a drop +b at its top and -b at
        its bottom, and the picture is then sheared: row i moves by i tan(angle).

        Args:
            size: (H, W).
            rng: the only source of randomness.
            angle: from the vertical in radians.
            density: streaks per 1000 pixels.
            length, width, brightness, spread: as in `Streaks`.
        """
        height = size[0]
        columns = size[1] + int(np.ceil(abs(np.tan(angle)) * (height - 1))) + _MARGIN
        upright = np.cos(angle)  # rows that a streak covers, by pixel of its length
        margin = _LONGEST * length * upright
        clusters = rng.poisson(density / 1000 * (height + margin) * columns / self.cluster)
        lengths = self._lengths(clusters, length, rng) * upright
        bright = brightness * np.exp(spread * rng.standard_normal(lengths.size) - spread**2 / 2)
        middle, column = self._places(clusters, (height, columns), margin, length * upright, rng)
        top, bottom = (
            np.rint(middle + sign * lengths / 2).clip(0, height).astype(np.intp) for sign in (-1, 1)
        )
        change = np.bincount(top * columns + column, bright, (height + 1) * columns)
        change -= np.bincount(bottom * columns + column, bright, (height + 1) * columns)
        field = change.reshape(height + 1, columns)[:-1].cumsum(0)
        return _shear(_blur(field, _SOFT * length * upright, width / upright), angle, size)

    def _lengths(self, clusters: int, length: float, rng: np.random.Generator) -> Array:
        spread = self.length_spread * rng.standard_normal(clusters * self.cluster)
        lengths: Array = length * np.exp(spread).clip(max=_LONGEST)
        return lengths

    def _places(
        self,
        clusters: int,
        size: tuple[int, int],
        margin: float,
        length: float,
        rng: np.random.Generator,
    ) -> tuple[Array, NDArray[np.intp]]:
        """Rows of the middles, which reach half a `margin` beyond the picture, and columns."""
        rows = np.repeat(rng.uniform(-margin / 2, size[0] + margin / 2, clusters), self.cluster)
        columns = np.repeat(rng.uniform(0, size[1], clusters), self.cluster)
        if self.cluster > 1:
            rows += 0.7 * length * rng.standard_normal(rows.size)
            columns += 1.2 * rng.standard_normal(columns.size)
        return rows, columns.astype(np.intp) % size[1]


def _blur(field: Array, along: float, across: float) -> Array:
    """Soft ends of standard deviation `along`, and a Gaussian profile of peak 1 across.

    Args:
        field: upright lines that are one pixel wide, (H, W).
        along: pixels.
        across: full width at half maximum in pixels.
    """
    sigma = across / _FWHM
    own = np.sqrt(max(sigma**2 - 0.25, 0.01))  # the spline of `_shear` adds a variance of 1/4
    soft = gaussian_filter1d(field, along, axis=0, truncate=3)
    peak = float(np.sqrt(2 * np.pi) * sigma)
    blurred: Array = peak * gaussian_filter1d(soft, own, axis=1, truncate=4)
    return blurred


def _shear(field: Array, angle: float, size: tuple[int, int]) -> Array:
    """The (H, W) part of a wider field whose upright lines lean by `angle`.

    A row is moved by a quadratic B-spline, which blurs every row alike: the variance of its three
    weights is 1/4 for every shift. (Linear interpolation would leave beads on a leaning line.)

    Args:
        field: (H, W + _MARGIN + |tan(angle)| (H - 1)) or wider.
        angle: from the vertical in radians.
        size: (H, W).
    """
    place = np.tan(angle) * np.arange(size[0])
    place += 1 - place.min()
    nearest = np.rint(place).astype(np.intp)
    beyond = (place - nearest)[:, None]  # in [-1/2, 1/2]
    moved = field[np.arange(size[0])[:, None], nearest[:, None] + np.arange(-1, size[1] + 1)]
    sheared: Array = (0.5 - beyond) ** 2 / 2 * moved[:, :-2]
    sheared += (0.75 - beyond**2) * moved[:, 1:-1]
    sheared += (0.5 + beyond) ** 2 / 2 * moved[:, 2:]
    return sheared


PRESETS: Mapping[str, Streaks] = {
    "light": Streaks(),
    "heavy": Streaks(
        angle=(-20.0, 20.0),
        fan=(0.0, 20.0),
        length=(15.0, 60.0),
        width=(1.2, 1.7),
        density=(18.0, 58.0),
        brightness=(0.1, 0.25),
        spread=(0.5, 1.3),
        ceiling=(1.2, 2.5),
        layers=3,
    ),
}


@checked
class SyntheticRain:
    """Rain by the keys of a configuration: a preset, and what is changed of it.

    Args:
        rain: the preset.
        angle: direction from the vertical in degrees, (low, high).
        fan: largest turn of a layer from the direction of its image in degrees, (low, high).
        length: of a streak in pixels, (low, high).
        width: of a streak in pixels, (low, high).
        density: streaks per 1000 pixels, (low, high).
        brightness: mean of the streaks as a share of white, (low, high).
        spread: standard deviation of the logarithm of the brightness, (low, high).
        ceiling: brightness at which a layer is cut off, as a multiple of the mean, (low, high).
        layers_of_rain: number of layers.

    Raises:
        InputError: see `Streaks`.
    """

    def __init__(
        self,
        *,
        rain: Literal["light", "heavy"] = "light",
        angle: tuple[Finite, Finite] | None = None,
        fan: tuple[Finite, Finite] | None = None,
        length: tuple[Finite, Finite] | None = None,
        width: tuple[Finite, Finite] | None = None,
        density: tuple[Finite, Finite] | None = None,
        brightness: tuple[Finite, Finite] | None = None,
        spread: tuple[Finite, Finite] | None = None,
        ceiling: tuple[Finite, Finite] | None = None,
        layers_of_rain: Count | None = None,
    ) -> None:
        self.streaks = streaks(
            rain,
            angle=angle,
            fan=fan,
            length=length,
            width=width,
            density=density,
            brightness=brightness,
            spread=spread,
            ceiling=ceiling,
            layers=layers_of_rain,
        )

    def fall(self, clean: Tensor, rng: np.random.Generator) -> Tensor:
        """Rainy images of clean ones, (B, C, H, W). Drawn on the CPU, so that devices agree."""
        drawn = self.streaks.draw((len(clean), clean.shape[-2], clean.shape[-1]), rng)
        return self.streaks.fall(clean, drawn.to(clean.device))


def streaks(preset: Preset, **changes: Any) -> Streaks:
    """A preset, with what is not None in `changes` instead of its own values."""
    known = {field.name for field in fields(Streaks)}
    own = {name: getattr(PRESETS[preset], name) for name in known}
    given = {name: value for name, value in changes.items() if value is not None}
    pairs = {k: tuple(v) if isinstance(v, list | tuple) else v for k, v in given.items()}
    return Streaks(**{**own, **pairs})
