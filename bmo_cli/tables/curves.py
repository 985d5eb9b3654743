"""Figures of tables: joint convergence, and scores far beyond the iterations of training."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bmo_cli.results.figures import save_figure


@dataclass(frozen=True)
class ConvergenceRun:
    """A run of the convergence figure.

    Attributes:
        method: name of its row.
        iterations: K.
        history: rows of history.csv.
        residuals: of T at the trained omega, for k = 0, 1, ...
        minimises_phi: whether loss and gradient of the history are those of phi_K.
    """

    method: str
    iterations: int
    history: Sequence[Mapping[str, float]]
    residuals: Sequence[float]
    minimises_phi: bool = True


def draw_convergence(runs: Sequence[ConvergenceRun], task: str, file: Path) -> None:
    """Draw phi_K and |grad phi_K| against t, the residual against k, and min phi_K against K.

    phi_K is that of each method: for bmo it is taken at the end of the aggregated iteration.

    Colours denote methods, and darker lines larger K. Curves of several seeds overlap. The last
    panel shows every run.

    Args:
        runs: of one task.
        task: for the title.
        file: to write.
    """
    figure = Figure(figsize=(13, 3.9), layout="constrained")
    figure.suptitle(f"training and hyper-training, {task}", fontsize=11)
    axes = figure.subplots(1, 4)
    methods = list(dict.fromkeys(run.method for run in runs))
    counts = sorted({run.iterations for run in runs})
    for run in runs:
        style: dict[str, Any] = {
            "color": f"C{methods.index(run.method)}",
            "alpha": 0.35 + 0.65 * (counts.index(run.iterations) + 1) / len(counts),
            "linewidth": 1.2,
        }
        shown = ((axes[0], "loss"), (axes[1], "hypergrad_norm")) if run.minimises_phi else ()
        for axis, key in shown:
            points = [(row["step"], row[key]) for row in run.history if row[key] > 0]
            if points:
                axis.plot(*zip(*points, strict=True), **style)
        points = [(k, r) for k, r in enumerate(run.residuals, 1) if math.isfinite(r) and r > 0]
        if points:
            axes[2].plot(*zip(*points, strict=True), **style)
            if run.iterations <= len(points):
                axes[2].plot(*points[run.iterations - 1], "o", markersize=4, **style)
    handles = {}
    for method in methods:
        own = [run for run in runs if run.method == method]
        own = [run for run in own if run.minimises_phi and run.history]
        points = [(run.iterations, min(row["loss"] for row in run.history)) for run in own]
        means = {k: [v for n, v in points if n == k] for k in sorted({n for n, _ in points})}
        colour = f"C{methods.index(method)}"
        (handles[method],) = axes[3].plot(
            list(means), [sum(v) / len(v) for v in means.values()], "-", color=colour
        )
        if points:
            axes[3].plot(*zip(*points, strict=True), "o", markersize=4, color=colour)
    titles = (
        ("step t", r"$\varphi_K(\omega^t)$"),
        ("step t", r"$|\nabla \varphi_K(\omega^t)|$"),
        ("iteration k (dot: K)", "residual at the trained omega"),
        ("K", r"min $\varphi_K$"),
    )
    for axis, (label, title) in zip(axes, titles, strict=True):
        axis.set(xlabel=label, yscale="log")
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
    axes[2].set_xscale("log")
    axes[3].set_xscale("log", base=2)
    axes[3].set_xticks(counts, [str(k) for k in counts])
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(methods))
    save_figure(figure, file, 110)


@dataclass(frozen=True)
class TrainingRun:
    """A run of the training figure.

    Attributes:
        row: name of its row.
        iterations: K.
        history: rows of history.csv.
        steps: relative step of the estimate by number of iterations, |x^k - x^(k-1)| / |x^(k-1)|.
        minimises_phi: as in `ConvergenceRun`.
    """

    row: str
    iterations: int
    history: Sequence[Mapping[str, float]]
    steps: Mapping[int, float]
    minimises_phi: bool = True


def draw_training(runs: Sequence[TrainingRun], title: str, file: Path) -> None:
    """Draw phi_K and |grad phi_K| against the training step, and the relative step against k.

    Colours denote rows; seeds have thin lines of one colour. A dashed line marks K: beyond it,
    T was not trained.

    Args:
        runs: of one column of the table.
        title: of the figure.
        file: to write.
    """
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(1, 3)
    rows = list(dict.fromkeys(run.row for run in runs))
    handles = {}
    for run in runs:
        colour = f"C{rows.index(run.row)}"
        shown = ((axes[0], "loss"), (axes[1], "hypergrad_norm")) if run.minimises_phi else ()
        for axis, key in shown:
            points = [(row["step"], row[key]) for row in run.history if row[key] > 0]
            axis.plot(*_split(points), color=colour, linewidth=0.9)
        points = [(k, v) for k, v in sorted(run.steps.items()) if math.isfinite(v) and v > 0]
        (handles[run.row],) = axes[2].plot(*_split(points), color=colour, linewidth=0.9)
    for count in {run.iterations for run in runs}:
        axes[2].axvline(count, color="black", linestyle="--", linewidth=0.8)
    titles = (
        ("training step t", r"$\varphi_K(\omega^t)$"),
        ("training step t", r"$|\nabla \varphi_K(\omega^t)|$"),
        ("iteration k (dashed: K)", r"$|x^k - x^{k-1}| / |x^{k-1}|$ at the trained omega"),
    )
    for axis, (label, text) in zip(axes, titles, strict=True):
        axis.set(xlabel=label, yscale="log")
        axis.set_title(text, fontsize=10)
        axis.grid(alpha=0.3)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(rows))
    save_figure(figure, file, 110)


def _split(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """The coordinates of points."""
    return [x for x, _ in points], [y for _, y in points]


@dataclass(frozen=True)
class GuaranteeRun:
    """A run of the guarantee figure.

    Attributes:
        row: `CLASS: METHOD`, the class of the guarantee and the method.
        scores: PSNR in dB by number of iterations; nan: an iterate was not finite.
    """

    row: str
    scores: Mapping[int, float]


_STYLES = (("-", "o"), ("--", "s"), ("-.", "^"), (":", "D"), ((0, (5, 1, 1, 1, 1, 1)), "P"))
_DODGE = 0.02
"""shift of a row against the one before, in decades, so that their bars do not cover one another"""
_DEPTH = 0.5
"""dB that are shown below the lowest row after the fewest iterations"""


def draw_guarantee(runs: Sequence[GuaranteeRun], title: str, file: Path) -> None:
    """Draw PSNR against the number of iterations, a curve for each row.

    Colours denote classes of guarantees, line styles and markers the methods of a class. A marker
    is the mean over the seeds, and a bar reaches from the smallest to the largest of them. A hollow
    triangle at the lower edge stands for a mean below it, or for iterates that were not finite.

    Args:
        runs: of one column of the table.
        title: of the figure.
        file: to write.
    """
    rows = {row: _seeds_by_count(runs, row) for row in dict.fromkeys(run.row for run in runs)}
    finite = [[v for k in seeds for v in seeds[k] if math.isfinite(v)] for seeds in rows.values()]
    first = [statistics.fmean(next(iter(seeds.values()))) for seeds in rows.values()]
    floor = min(filter(math.isfinite, first), default=0.0) - _DEPTH
    figure = Figure(figsize=(9.5, 4.6), layout="constrained")
    axis = figure.subplots()
    axis.set_title(title, fontsize=11)
    methods_by_class: dict[str, int] = {}
    for i, (row, seeds) in enumerate(rows.items()):
        kind = row.partition(":")[0]
        number = methods_by_class[kind] = methods_by_class.get(kind, -1) + 1
        shift = 10 ** (_DODGE * (i - (len(rows) - 1) / 2))
        style, marker = _STYLES[number % len(_STYLES)]
        look = {"linestyle": style, "marker": marker, "label": row}
        colour = f"C{list(methods_by_class).index(kind)}"
        _draw_row(axis, {shift * k: values for k, values in seeds.items()}, floor, colour, look)
    counts = sorted({count for seeds in rows.values() for count in seeds})
    axis.set(xscale="log", xlabel="iterations of T at test time", ylabel="PSNR in dB, test split")
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.minorticks_off()
    axis.set_ylim(floor, max((v for values in finite for v in values), default=floor + 1) + 0.2)
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    save_figure(figure, file, 120)


def _draw_row(
    axis: Axes,
    seeds: Mapping[float, Sequence[float]],
    floor: float,
    colour: str,
    look: Mapping[str, Any],
) -> None:
    """Draw the mean and the range of the seeds at every place, and a triangle where it is below."""
    means = {place: statistics.fmean(values) for place, values in seeds.items()}
    seen = [max(mean, floor - _DEPTH) for mean in means.values()]  # a line cannot end at -inf
    axis.plot(list(means), seen, color=colour, markersize=4, linewidth=1, **look)
    lowest, highest = ([end(values) for values in seeds.values()] for end in (min, max))
    axis.vlines(list(means), lowest, highest, colors=colour)
    lost = [place for place, mean in means.items() if mean < floor]
    edge = [floor] * len(lost)
    axis.plot(lost, edge, "v", color=colour, markerfacecolor="none", clip_on=False)


def _seeds_by_count(runs: Sequence[GuaranteeRun], row: str) -> dict[int, list[float]]:
    """The scores of the seeds of a row by number of iterations; -inf where one was not finite."""
    own = [run.scores for run in runs if run.row == row]
    return {
        count: [v if math.isfinite(v) else -math.inf for v in (s[count] for s in own)]
        for count in sorted(own[0])
    }
