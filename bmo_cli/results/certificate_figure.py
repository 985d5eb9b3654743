"""certificate.png: residual and score far beyond K from several starts, under the verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bmo_cli.results.figures import new_figure, save_figure
from bmo_cli.results.iteration_curves import Curves, clip_to_range, score_range

_MARGIN = 0.03
"""Share of the score's range that is left free above and below."""
_STYLES = ("-", "--", "-.", ":", (0, (1, 3)))


def draw_certificate(curves: Curves, trained: int, title: str, caption: str, file: Path) -> None:
    """Draw residual and score along the iteration.

    Args:
        curves: of one run.
        trained: K, the iterations of training.
        title: the verdict, and on what.
        caption: what is proved and what is measured.
        file: PNG to write.
    """
    figure = new_figure(figsize=(11, 4.9), layout="constrained")
    figure.suptitle(f"{title}\n{caption}", fontsize=11, parse_math=False)
    left, right = figure.subplots(1, 2)
    _draw_residuals(left, curves)
    _draw_scores(right, curves)
    for axis in (left, right):
        _scale_iterations(axis, trained, curves.counts[-1])
        axis.grid(alpha=0.3)
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=9
    )
    save_figure(figure, file, 130)


def _draw_residuals(axis: Any, curves: Curves) -> None:
    for number, (name, curve) in enumerate(curves.starts.items()):
        _draw_line(axis, curve.residual_points, number, f"from {name}")
    axis.set_title("residual $|D(u) - u|_G\\ /\\ |u|_G$", fontsize=11)
    if any(curve.residual_points for curve in curves.starts.values()):
        axis.set_yscale("log")


def _draw_scores(axis: Any, curves: Curves) -> None:
    axis.set_title(f"{curves.title}, validation problem {curves.case}", fontsize=11)
    axis.title.set_parse_math(False)
    limits = score_range([curves])
    if limits is None:
        return
    for number, name in enumerate(curves.starts):
        _draw_line(axis, clip_to_range(curves.score_points(name), limits), number)
    low, high = limits
    margin = _MARGIN * (high - low) or 0.5
    axis.set_ylim(low - margin, high + margin)


def _draw_line(axis: Any, points: list[tuple[float, float]], number: int, label: str = "") -> None:
    """Draw a curve. The first is broad, so that equal curves stay visible."""
    x, y = zip(*points, strict=True) if points else ((), ())
    axis.plot(
        x,
        y,
        color=f"C{number}",
        linestyle=_STYLES[number % len(_STYLES)],
        linewidth=5 if number == 0 else 1.8,
        alpha=0.4 if number == 0 else 1,
        label=label,
    )


def _scale_iterations(axis: Any, trained: int, last: int) -> None:
    """Format the x axis for iterations and mark K."""
    from matplotlib import ticker

    axis.set(xscale="log", xlabel="iteration k", xlim=(0.9, 1.1 * max(last, trained)))
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if last <= 200 else (1,)))
    axis.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axis.xaxis.set_minor_formatter(ticker.NullFormatter())
    label = f"K = {trained}, as trained"
    axis.axvline(trained, color="0.4", linestyle="--", linewidth=1, label=label)
