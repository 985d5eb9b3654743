"""A figure with the same crop of a test image for every row of a table, and its errors."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from bmo_cli.results.figures import save_figure

Image = NDArray[Any]
_PANEL, _GAP, _DPI = 224, 8, 150  # pixels; text is set for this resolution
_LABEL, _NOTE, _TITLE = 40, 26, 30
_LONGEST = 7
_GAIN = 4


@dataclass(frozen=True)
class Panel:
    """An image of the figure.

    Attributes:
        name: of its row.
        image: (H, W, C) in [0, 1].
        psnr: of the whole image in dB; None: not shown.
    """

    name: str
    image: Image
    psnr: float | None


def find_detailed_square(image: Image, side: int) -> tuple[int, int]:
    """Top and left of the square with the largest sum of squared differences between neighbours.

    Args:
        image: (H, W, C).
        side: of the square, pixels, at most H and W.
    """
    gray = image.mean(axis=2)
    energy = np.zeros_like(gray)
    energy[:, 1:] += np.diff(gray, axis=1) ** 2
    energy[1:] += np.diff(gray, axis=0) ** 2
    total = np.pad(energy.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    top, left = np.unravel_index(int(np.argmax(sums)), sums.shape)
    return int(top), int(left)


def draw_crops(panels: Sequence[Panel], title: str, file: Path) -> None:
    """Draw crops of all images, with the PSNR of the whole image and |restored - clean| x 4 below.

    All crops have the same integer zoom. Below the clean crop is the whole image, on which a
    rectangle marks the crop.

    Args:
        panels: the clean image first; about 14 at most, in lines of 7.
        title: of the figure.
        file: to write.
    """
    clean = panels[0].image
    height, width = clean.shape[:2]
    side = min(height, width, max(48, min(96, min(height, width) // 4)))
    top, left = find_detailed_square(clean, side)
    crop = (slice(top, top + side), slice(left, left + side))
    size = side * math.ceil(_PANEL / side)
    lines = math.ceil(len(panels) / _LONGEST)
    columns = math.ceil(len(panels) / lines)
    block = _LABEL + 2 * size + _NOTE + _GAP
    total = (columns * (size + _GAP) + _GAP, _TITLE + lines * block + _NOTE)
    figure = Figure(figsize=(total[0] / _DPI, total[1] / _DPI), dpi=_DPI)

    def axes(x: int, y: int) -> Axes:
        """Axes of `size` x `size` pixels, with the upper left corner at (x, y) of the figure."""
        area = (x / total[0], 1 - (y + size) / total[1], size / total[0], size / total[1])
        axis = figure.add_axes(area)
        axis.set_xticks([])
        axis.set_yticks([])
        return axis

    def text(x: float, y: float, words: str, fontsize: float = 8, **how: Any) -> None:
        figure.text(x / total[0], 1 - y / total[1], words, fontsize=fontsize, **how)

    text(_GAP, 8, title, 10, va="top")
    for i, panel in enumerate(panels):
        x = _GAP + i % columns * (size + _GAP)
        y = _TITLE + i // columns * block + _LABEL
        name = "\n".join(textwrap.wrap(panel.name, 24)[:2])
        text(x + size / 2, y - 4, name, 7.5, ha="center", va="bottom", linespacing=1.0)
        _draw_image(axes(x, y), panel.image[crop])
        if panel.psnr is not None:
            text(x + size / 2, y + size + 4, f"{panel.psnr:.2f} dB", ha="center", va="top")
        below = axes(x, y + size + _NOTE)
        if i == 0:
            _draw_image(below, clean)
            place = Rectangle((left, top), side, side, fill=False, edgecolor="red", linewidth=1.2)
            below.add_patch(place)
        else:
            _draw_image(below, np.abs(panel.image[crop] - clean[crop]) * _GAIN)
    text(
        _GAP, total[1] - 4,
        f"{side} x {side} pixels, enlarged {size // side} times; PSNR of the whole image; below: "
        f"|image - clean| x {_GAIN}, the same scale for all",
        7, va="bottom", color="0.3",
    )  # fmt: skip
    save_figure(figure, file, _DPI)


def _draw_image(axis: Axes, image: Image) -> None:
    shown = image.clip(0, 1)
    axis.imshow(
        shown if shown.shape[2] == 3 else shown[..., 0],
        cmap="gray", vmin=0, vmax=1, interpolation="nearest",
    )  # fmt: skip
