"""Pictures of a run: curves of the training, images side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from numpy.typing import NDArray

_CURVES = (
    ("loss", "training loss", True),
    ("val", "validation {metric}", False),
    ("hypergrad_norm", "hyper-gradient norm", True),
    ("residual", "fixed-point residual |D(u) - u| / |u|", True),
)


def curves(rows: Sequence[Mapping[str, float]], metric: str, file: Path) -> None:
    """Draw history.csv: loss, validation score, hyper-gradient norm and residual against steps."""
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    for axis, (key, title, logarithmic) in zip(axes.flat, _CURVES, strict=True):
        points = [(row["step"], row[key]) for row in rows if not math.isnan(row[key])]
        if points:
            steps, values = zip(*points, strict=True)
            axis.plot(steps, values, marker="o" if len(points) < 30 else "", markersize=3)
            if logarithmic and min(values) > 0:
                axis.set_yscale("log")
        axis.set_title(title.format(metric=metric), fontsize=10)
        axis.grid(alpha=0.3)
    for axis in axes[1]:
        axis.set_xlabel("hyper-training step")
    figure.savefig(file, dpi=110)


def side_by_side(
    images: Mapping[str, NDArray[Any]], captions: Mapping[str, str], file: Path
) -> None:
    """Draw (H, W, C) images in [0, 1] in a row, pixel for pixel, each under its caption."""
    height, width = next(iter(images.values())).shape[:2]
    dpi, gap, head = 100, 8, 34
    total = (width * len(images) + gap * (len(images) - 1), height + head)
    figure = Figure(figsize=(total[0] / dpi, total[1] / dpi), dpi=dpi)
    for i, (name, image) in enumerate(images.items()):
        left = i * (width + gap)
        area = (left / total[0], 0, width / total[0], height / total[1])
        axis = figure.add_axes(area)
        axis.imshow(
            image[..., 0] if image.shape[2] == 1 else image,
            cmap="gray",
            vmin=0,
            vmax=1,
            interpolation="nearest",
        )
        axis.set_axis_off()
        axis.set_title(
            captions.get(name, name), fontsize=min(11, width / 18), pad=8, parse_math=False
        )
    figure.savefig(file, dpi=dpi)
