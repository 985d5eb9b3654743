"""Charts as SVG: lines of several runs over one another, and points with their names.

Colours and fonts are those of page.css. Every mark of run i has the attribute `data-run`, by which
page.js dims the others, and the class `c<i>` of its colour, or that of another colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from bmo_cli.report.render import render

WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 30, 40
_FRAME = {
    "WIDTH": WIDTH, "HEIGHT": HEIGHT, "LEFT": LEFT, "RIGHT": RIGHT, "TOP": TOP, "BOTTOM": BOTTOM
}  # fmt: skip
_MOST_POINTS = 240
Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A line or a point of a chart.

    Attributes:
        run: number of the run.
        name: text of the tooltip.
        points: pairs (x, y).
        colour: number of the colour; None: that of the run.
    """

    run: int
    name: str
    points: Sequence[Point]
    colour: int | None = None

    @property
    def class_number(self) -> int:
        """The number of the colour's class."""
        return self.run if self.colour is None else self.colour


@dataclass(frozen=True)
class _Shape:
    """A series as it is drawn: a line through its points in pixels, or a circle at the only one."""

    series: Series
    points: Sequence[Point]
    radius: int = 4
    kind: str = ""

    @property
    def path(self) -> str:
        return _path(self.points)


def _path(points: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


class Axis:
    """Values along an axis, linear or logarithmic.

    Args:
        values: values that the axis has to cover.
        low, high: pixels of the ends.
        logarithmic: whether the axis is logarithmic. An axis with values that are not positive
            stays linear.
    """

    def __init__(
        self, values: Sequence[float], low: float, high: float, *, logarithmic: bool = False
    ) -> None:
        self.logarithmic = logarithmic and min(values) > 0
        scaled = [math.log10(v) for v in values] if self.logarithmic else list(values)
        self._low, self._high = min(scaled), max(scaled)
        if self._high - self._low < 1e-9 * max(1.0, abs(self._high)):
            margin = 0.5 if self.logarithmic else 0.5 * abs(self._high) or 0.5
            self._low, self._high = self._low - margin, self._high + margin
        self._from, self._to = low, high

    def at(self, value: float) -> float:
        """Pixel of a value."""
        scaled = math.log10(value) if self.logarithmic else value
        share = (scaled - self._low) / (self._high - self._low)
        return self._from + share * (self._to - self._from)

    def ticks(self) -> list[float]:
        """Round values within the axis, 2 to 8 of them."""
        if self.logarithmic:
            first, last = math.ceil(self._low - 1e-9), math.floor(self._high + 1e-9)
            if last - first >= 1:
                every = max(1, -(-(last - first) // 5))
                return [10.0**k for k in range(first, last + 1, every)]
            low, high = 10**self._low, 10**self._high
            steps = [m * 10.0**k for k in range(first - 1, last + 2) for m in (1, 2, 3, 5)]
            inside = [tick for tick in steps if low <= tick <= high]
            return inside if len(inside) > 1 else _round_steps(low, high)
        return _round_steps(self._low, self._high)


def _round_steps(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / 7
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def lines(
    title: str,
    x_title: str,
    series: Sequence[Series],
    *,
    log_x: bool = False,
    log_y: bool = False,
    mark: tuple[float, str] | None = None,
    cover: Sequence[Point] = (),
) -> Markup:
    """Lines over one another.

    Args:
        title: title of the chart and its y axis.
        x_title: title of the x axis.
        series: the lines. Points that are not finite, or not positive on a logarithmic axis, are
            left out.
        log_x, log_y: whether an axis is logarithmic.
        mark: x value and name of a vertical line.
        cover: further points that the axes cover, for charts with equal axes.
    """
    kept = [(each, _thin(_plottable(each.points, log_x, log_y), log_x)) for each in series]
    kept = [(each, points) for each, points in kept if points]
    if not kept:
        return _chart(title)
    covered = [point for _, points in kept for point in points]
    axes = _axes(covered + _plottable(cover, log_x, log_y), log_x, log_y)
    shapes = [_Shape(each, _pixels(points, axes)) for each, points in kept]
    x = axes[0]
    at = x.at(mark[0]) if mark and (mark[0] > 0 or not x.logarithmic) else math.nan
    shown = (at, mark[1]) if mark and LEFT <= at <= WIDTH - RIGHT else None
    return _chart(title, x_title, axes, shapes, mark=shown)


def scatter(title: str, x_title: str, series: Sequence[Series], front: Sequence[bool]) -> Markup:
    """Points of quality against cost, those of the Pareto front filled and joined.

    Args:
        title: title of the y axis, the quality.
        x_title: title of the x axis, the cost. It is logarithmic if it spans more than a decade.
        series: series of one point.
        front: for every series, whether it is on the front.
    """
    points = [each.points[0] for each in series]
    if not points:
        return _chart(title)
    costs = [cost for cost, _ in points]
    axes = _axes(points, min(costs) > 0 and max(costs) > 10 * min(costs), False)
    drawn = list(zip(series, front, strict=True))
    shapes = [
        _Shape(s, _pixels(s.points[:1], axes), 6, "filled" if is_best else "hollow")
        for s, is_best in drawn
    ]
    best = _pixels(sorted(s.points[0] for s, is_best in drawn if is_best), axes)
    return _chart(title, x_title, axes, shapes, front=best)


def _chart(
    title: str,
    x_title: str = "",
    axes: tuple[Axis, Axis] | None = None,
    shapes: Sequence[_Shape] = (),
    mark: tuple[float, str] | None = None,
    front: Sequence[Point] = (),
) -> Markup:
    """Render a chart; without axes it says that there are no values."""
    x_ticks, y_ticks = map(_ticks, axes) if axes else ([], [])
    return render(
        "chart.svg",
        **_FRAME,
        title=title,
        x_title=x_title,
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        shapes=shapes,
        mark=mark,
        front=_path(front) if len(front) > 1 else "",
    )


def _ticks(axis: Axis) -> list[tuple[float, str]]:
    return [(axis.at(tick), short(tick)) for tick in axis.ticks()]


def _pixels(points: Sequence[Point], axes: tuple[Axis, Axis]) -> list[Point]:
    x, y = axes
    return [(x.at(a), y.at(b)) for a, b in points]


def _axes(points: Sequence[Point], log_x: bool, log_y: bool) -> tuple[Axis, Axis]:
    xs, ys = zip(*points, strict=True)
    pad = 8
    return (
        Axis(xs, LEFT + pad, WIDTH - RIGHT - pad, logarithmic=log_x),
        Axis(ys, HEIGHT - BOTTOM - pad, TOP + pad, logarithmic=log_y),
    )


def _plottable(points: Sequence[Point], log_x: bool, log_y: bool) -> list[Point]:
    return [
        (a, b)
        for a, b in points
        if math.isfinite(a) and math.isfinite(b) and (a > 0 or not log_x) and (b > 0 or not log_y)
    ]


def _thin(points: list[Point], log_x: bool) -> list[Point]:
    """Reduce to `_MOST_POINTS`: the smallest and the largest point of every stretch, in order.

    Stretches are equally long on the axis.
    """
    if len(points) <= _MOST_POINTS:
        return points
    places = [math.log10(x) if log_x else float(i) for i, (x, _) in enumerate(points)]
    low, length = min(places), max(places) - min(places) or 1.0
    count = _MOST_POINTS // 2
    stretches: dict[int, list[int]] = {}
    for i, place in enumerate(places):
        stretches.setdefault(min(int((place - low) / length * count), count - 1), []).append(i)
    kept = []
    for stretch in stretches.values():
        ends = {
            min(stretch, key=lambda i: points[i][1]),
            max(stretch, key=lambda i: points[i][1]),
        }
        kept += [points[i] for i in sorted(ends)]
    return kept


def short(value: float) -> str:
    """A tick's label."""
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.6g}"
