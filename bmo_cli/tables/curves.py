"""Figures of tables: joint convergence, and the tradeoff between scores and certificates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
class TradeoffRun:
    """A run of the tradeoff figure.

    Attributes:
        method: name of its row.
        iterations: K.
        scores: PSNR in dB by number of iterations; nan: an iterate was not finite.
        bound: certified upper bound of the Lipschitz constant of D; None: none is known.
        ratio: the largest measured ratio |D(a) - D(b)|_G / |a - b|_G.
    """

    method: str
    iterations: int
    scores: Mapping[int, float]
    bound: float | None
    ratio: float


_STYLES = (("-", "o"), ("--", "s"), ("-.", "^"), (":", "D"))


def draw_tradeoff(runs: Sequence[TradeoffRun], file: Path) -> None:
    """Draw PSNR far beyond K on the left, and against the constant of D on the right.

    Colours denote networks, line styles and markers methods. Runs that differ in their seed alone
    have the same style.

    Args:
        runs: of rows named "NETWORK, METHOD".
        file: to write.
    """
    figure = Figure(figsize=(11, 4.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.4, 1])
    names = {run.method: run.method.partition(",")[::2] for run in runs}
    networks = list(dict.fromkeys(network for network, _ in names.values()))
    methods = list(dict.fromkeys(method for _, method in names.values()))
    finite = [v for run in runs for v in run.scores.values() if math.isfinite(v)]
    floor = max(min(finite), max(finite) - 8) if finite else 0.0
    top = max(finite, default=1.0)
    handles = {}
    for run in runs:
        network, method = names[run.method]
        colour = f"C{networks.index(network)}"
        style, marker = _STYLES[methods.index(method) % len(_STYLES)]
        points = [(k, v) for k, v in sorted(run.scores.items()) if math.isfinite(v)]
        (handles[run.method],) = left.plot(
            *(zip(*points, strict=True) if points else ([], [])),
            style, color=colour, marker="o", markersize=4,
        )  # fmt: skip
        end = run.scores[max(run.scores)] if run.scores else math.nan
        last = end if math.isfinite(end) else -math.inf  # diverged: drawn at the floor
        proved = run.bound is not None and run.bound <= 1 + 1e-6
        constant = run.bound if proved and run.bound is not None else min(run.ratio, 10.0)
        right.plot(
            constant, max(last, floor), marker, color=colour, markersize=9,
            markerfacecolor=colour if proved else "none",
        )  # fmt: skip
    left.axvline(runs[0].iterations, color="0.5", linestyle=":", linewidth=1)
    left.annotate(
        "K trained with", (runs[0].iterations, 0), xycoords=("data", "axes fraction"),
        xytext=(4, 5), textcoords="offset points", color="0.4", fontsize=8,
    )  # fmt: skip
    left.set(xscale="log", xlabel="iterations of T at test time", ylabel="PSNR in dB, test split")
    left.set_ylim(floor - 0.3, top + 0.3)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8)
    right.axvline(1, color="0.5", linewidth=1)
    right.set(
        xlabel="constant of D: filled certified bound, hollow measured",
        ylabel=f"PSNR in dB after {max(runs[0].scores)} iterations (floor: {floor:.0f})",
    )
    for axis in (left, right):
        axis.grid(alpha=0.3)
    save_figure(figure, file, 120)
