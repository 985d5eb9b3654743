"""Pictures of a run: curves of the training, images side by side."""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from bmo_cli.results.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CURVES = (
    ("loss", "training loss", True),
    ("val", "validation {metric}", False),
    ("hypergrad_norm", "hyper-gradient norm", True),
    ("residual", "fixed-point residual $|D(u) - u|_G / |u|_G$", True),
)


def new_figure(**options: Any) -> Figure:
    """Create a figure. The import is here because it takes a second."""
    from matplotlib.figure import Figure

    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it logs every font that it looks for
    return Figure(**options)


def save_figure(figure: Figure, file: Path, dpi: int) -> None:
    """Write a PNG atomically."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # shown as a box
        figure.savefig(content, dpi=dpi, format="png")
    write_atomically(file, content.getvalue())


def curves(rows: Sequence[Mapping[str, float]], metric: str, file: Path) -> None:
    """Draw history.csv: loss, validation score, hyper-gradient norm and residual against steps."""
    from matplotlib import ticker

    figure = new_figure(figsize=(10, 6.5), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    for axis, (key, title, logarithmic) in zip(axes.flat, _CURVES, strict=True):
        points = [(row["step"], row[key]) for row in rows if not math.isnan(row[key])]
        if points:
            steps, values = zip(*points, strict=True)
            axis.plot(steps, values, marker="o" if len(points) < 30 else "", markersize=3)
            axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
            if logarithmic and min(values) > 0:
                axis.set_yscale("log")
        axis.set_title(title.format(metric=metric), fontsize=10)
        axis.grid(alpha=0.3)
    for axis in axes[1]:
        axis.set_xlabel("hyper-training step")
    save_figure(figure, file, 110)


def side_by_side(
    images: Mapping[str, NDArray[Any]], captions: Mapping[str, str], file: Path
) -> None:
    """Draw (H, W, C) images in [0, 1] in a row, pixel for pixel, each under its caption."""
    height, width = next(iter(images.values())).shape[:2]
    dpi, gap, head = 100, 8, 34
    total = (width * len(images) + gap * (len(images) - 1), height + head)
    figure = new_figure(figsize=(total[0] / dpi, total[1] / dpi), dpi=dpi)
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
    save_figure(figure, file, dpi)


def error_against_cost(points: Sequence[tuple[str, str, int, float, bool]], file: Path) -> None:
    """Draw the error of hyper-gradients against their cost, one panel a problem.

    Args:
        points: problem, method, evaluations plus products, relative error, whether the method
            promises an exact hyper-gradient.
        file: PNG to write.
    """
    from matplotlib import ticker

    problems = list(dict.fromkeys(point[0] for point in points))
    methods = list(dict.fromkeys(point[1] for point in points))
    columns = min(3, len(problems))
    lines = -(-len(problems) // columns)
    figure = new_figure(figsize=(4.2 * columns, 3.4 * lines + 0.7), layout="constrained")
    axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    handles: dict[str, Any] = {}
    for axis in axes.flat[len(problems) :]:
        axis.set_axis_off()
    for axis, problem in zip(axes.flat, problems, strict=False):
        shown = [point[1:] for point in points if point[0] == problem]
        handles |= _draw_errors(axis, shown, methods)
        axis.set(title=problem, xscale="log", yscale="log")
        axis.axhline(1e-6, color="0.6", linewidth=0.8, linestyle="--")
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        axis.tick_params(labelbottom=True)
        axis.set_xlabel("evaluations of T + products J$^T$v")
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("relative error of the hyper-gradient")
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=4,
        fontsize=8,
        title="filled: promised to be exact; hollow: biased, or flagged",
        title_fontsize=8,
    )
    save_figure(figure, file, 110)


def _draw_errors(
    axis: Any, points: Sequence[tuple[str, int, float, bool]], methods: Sequence[str]
) -> dict[str, Any]:
    """Draw the points of a problem and return the markers by method."""
    handles = {}
    for method, cost, error, promised in points:
        number = methods.index(method)
        (handles[method],) = axis.plot(
            max(cost, 1),
            max(error, 1e-16),
            "os^vDP*Xdh"[number % 10],
            color=f"C{number}",
            markerfacecolor=f"C{number}" if promised else "none",
            markersize=12 - number % 10,  # equal points stay visible
            linestyle="",
        )
    return handles
