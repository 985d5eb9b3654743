"""Synthetic rain: oriented streaks in several layers, blended into clean photographs.

A layer is a sparse field of drops convolved with one short line. All its streaks have one direction
and one length, as rain at one distance has. (The construction behind the synthetic sets of Yang et
al., "Deep joint rain detection and removal from a single image", CVPR 2017, whose Rain100L and
Rain100H `light` and `heavy` are modelled on.)

Shape legend: B images, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bmo_cli.config.checks import Count, Finite, checked
from bmo_cli.errors import InputError

Blend = Literal["screen", "additive"]
Preset = Literal["light", "heavy"]
Range = tuple[float, float]


@dataclass(frozen=True)
class Streaks:
    """Parameters of the rain.

    Every layer of every image draws its own value of a range (low, high), uniformly.

    Attributes:
        angle: of a streak to the vertical in degrees. A positive one leans like a slash.
        length: of a streak in pixels.
        width: of a streak in pixels (full width at half maximum).
        density: streaks per 1000 pixels of an image, in each layer.
        brightness: of a streak's centre, as a share of white.
        layers: number of layers, each with its own draws.
        blend: screen, y = b + s (1 - b), or additive, y = min(b + s, 1), of streaks s.

    Raises:
        InputError: a range is empty or outside of what makes sense.
    """

    angle: Range = (-15.0, 15.0)
    length: Range = (15.0, 35.0)
    width: Range = (1.0, 2.5)
    density: Range = (1.2, 2.4)
    brightness: Range = (0.2, 0.7)
    layers: int = 1
    blend: Blend = "screen"

    def __post_init__(self) -> None:
        limits = {
            "angle": (-90, 90),
            "length": (1, 200),
            "width": (0.3, 20),
            "density": (0, 1000),
            "brightness": (0, 1),
        }
        for name, (least, most) in limits.items():
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise InputError(
                    f"task.{name} must be (low, high) with {least} <= low <= high <= {most}, "
                    f"got ({low:g}, {high:g})"
                )

    def draw(self, shape: tuple[int, int, int], rng: np.random.Generator) -> Tensor:
        """Streak layers s of B images, (B, 1, H, W) in [0, 1], periodic at the borders.

        Args:
            shape: (B, H, W).
            rng: the only source of randomness.
        """
        count, height, width = shape
        images = [self._image((height, width), rng) for _ in range(count)]
        return torch.from_numpy(np.stack(images)[:, None]).float()

    def _image(self, size: tuple[int, int], rng: np.random.Generator) -> NDArray[Any]:
        clear = np.ones(size)  # share of light that no streak replaces: layers screen one another
        for _ in range(self.layers):
            clear *= 1 - self._layer(size, rng)
        return 1 - clear

    def _layer(self, size: tuple[int, int], rng: np.random.Generator) -> NDArray[Any]:
        ranges = (self.angle, self.length, self.width, self.density)
        angle, length, width, density = (rng.uniform(*limits) for limits in ranges)
        drops = rng.random(size) < density / 1000
        field = drops * rng.uniform(*self.brightness, size=size)
        line = _line(size, np.deg2rad(angle), length, width)
        spread = np.fft.irfft2(np.fft.rfft2(field) * np.fft.rfft2(line), s=size)
        return np.clip(spread, 0, 1)

    def fall(self, clean: Tensor, streaks: Tensor) -> Tensor:
        """The rainy image y of a clean one b.

        Args:
            clean: b, (B, C, H, W) in [0, 1].
            streaks: s, (B, 1, H, W): rain has no colour.
        """
        if self.blend == "screen":
            return clean + streaks * (1 - clean)
        return (clean + streaks).clamp(max=1)


def _line(size: tuple[int, int], angle: float, length: float, width: float) -> NDArray[Any]:
    """A streak of peak 1 centred at (0, 0), periodic: Gaussian across, flat with soft ends along.

    Args:
        size: (H, W).
        angle: from the vertical, radians.
        length: pixels.
        width: full width at half maximum, pixels.
    """
    rows, columns = (np.fft.fftfreq(n, 1 / n) for n in size)  # 0, 1, ..., -2, -1
    down, right = rows[:, None], columns[None]
    along = down * np.cos(angle) - right * np.sin(angle)
    across = down * np.sin(angle) + right * np.cos(angle)
    sigma = width / np.sqrt(8 * np.log(2))
    beyond = np.clip(np.abs(along) - length / 2, 0, None)
    line: NDArray[Any] = np.exp(-0.5 * (across / sigma) ** 2 - 0.5 * beyond**2)
    return line


PRESETS: Mapping[str, Streaks] = {
    "light": Streaks(),
    "heavy": Streaks(
        angle=(-12.0, 12.0),
        length=(20.0, 45.0),
        width=(0.8, 1.8),
        density=(2.5, 4.5),
        brightness=(0.1, 0.5),
        layers=5,
        blend="additive",
    ),
}


@checked
class SyntheticRain:
    """Rain by the keys of a configuration: a preset, and what is changed of it.

    Args:
        rain: the preset.
        angle: direction from the vertical in degrees, (low, high).
        length: of a streak in pixels, (low, high).
        width: of a streak in pixels, (low, high).
        density: streaks per 1000 pixels in a layer, (low, high).
        brightness: of a streak as a share of white, (low, high).
        layers_of_rain: number of layers.
        blend: screen or additive.

    Raises:
        InputError: see `Streaks`.
    """

    def __init__(
        self,
        *,
        rain: Literal["light", "heavy"] = "light",
        angle: tuple[Finite, Finite] | None = None,
        length: tuple[Finite, Finite] | None = None,
        width: tuple[Finite, Finite] | None = None,
        density: tuple[Finite, Finite] | None = None,
        brightness: tuple[Finite, Finite] | None = None,
        layers_of_rain: Count | None = None,
        blend: Literal["screen", "additive"] | None = None,
    ) -> None:
        self.streaks = streaks(
            rain,
            angle=angle,
            length=length,
            width=width,
            density=density,
            brightness=brightness,
            layers=layers_of_rain,
            blend=blend,
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
