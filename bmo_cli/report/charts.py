"""Charts as SVG text: lines of several runs over one another, and points with their names.

Colours and fonts are the page's: every mark of series i has the class `c<i>`, and `data-run` says
whose it is, so that the page can dim the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 30, 40
COLOURS = 10
"""classes of colour that the page has"""
_MOST_POINTS = 240


@dataclass(frozen=True)
class Series:
    """A line or a point of a chart.

    Attributes:
        run: number of the run it belongs to, which chooses its colour.
        name: shown when it is pointed at.
        points: (x, y).
    """

    run: int
    name: str
    points: Sequence[tuple[float, float]]


class Axis:
    """Values along an axis, linear or logarithmic.

    Args:
        values: what has to fit.
        low, high: pixels of its ends.
        logarithmic: as wished; linear all the same where a value is not positive.
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
            found = [tick for tick in steps if low <= tick <= high]
            return found if len(found) > 1 else _round_steps(low, high)
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
) -> str:
    """Lines over one another.

    Args:
        title: of the chart, which is that of its y axis.
        x_title: of the x axis.
        series: lines; points that are not finite (or not positive on a logarithmic axis) are left
            out.
        log_x, log_y: logarithmic axes.
        mark: a vertical line at a value, and its name.
    """
    drawn = [
        (one, kept)
        for one in series
        for kept in [_thinned(_drawable(one.points, log_x, log_y))]
        if kept
    ]
    if not drawn:
        return _nothing(title)
    x, y = _axes([point for _, kept in drawn for point in kept], log_x, log_y)
    parts = [_frame(title, x_title, x, y)]
    if mark is not None and (mark[0] > 0 or not x.logarithmic):
        at = x.at(mark[0])
        if LEFT <= at <= WIDTH - RIGHT:
            parts.append(f'<path class="mark" d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
            parts.append(
                f'<text class="tick" x="{at + 4:.1f}" y="{TOP + 10}">{escape(mark[1])}</text>'
            )
    for one, kept in drawn:
        path = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in kept)
        body = (
            f'<polyline points="{path}"/>'
            if len(kept) > 1
            else f'<circle cx="{x.at(kept[0][0]):.1f}" cy="{y.at(kept[0][1]):.1f}" r="4"/>'
        )
        parts.append(
            f'<g class="series c{one.run % COLOURS}" data-run="{one.run}">'
            f"<title>{escape(one.name)}</title>{body}</g>"
        )
    return _svg(title, parts)


def scatter(title: str, x_title: str, series: Sequence[Series], front: Sequence[bool]) -> str:
    """Points of quality against cost, those of the Pareto front filled and joined.

    Args:
        title: of the y axis, quality.
        x_title: of the x axis, cost; logarithmic where it spans more than a decade.
        series: one point each.
        front: whether it is on the front, one a series.
    """
    points = [one.points[0] for one in series]
    if not points:
        return _nothing(title)
    costs = [p[0] for p in points]
    wide = min(costs) > 0 and max(costs) > 10 * min(costs)
    x, y = _axes(points, wide, False)
    parts = [_frame(title, x_title, x, y)]
    best = sorted(p for p, on in zip(points, front, strict=True) if on)
    if len(best) > 1:
        path = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in best)
        parts.append(f'<polyline class="front" points="{path}"/>')
    for one, on in zip(series, front, strict=True):
        a, b = one.points[0]
        kind = "filled" if on else "hollow"
        parts.append(
            f'<g class="series c{one.run % COLOURS}" data-run="{one.run}">'
            f"<title>{escape(one.name)}</title>"
            f'<circle class="{kind}" cx="{x.at(a):.1f}" cy="{y.at(b):.1f}" r="6"/></g>'
        )
    return _svg(title, parts)


def _axes(points: Sequence[tuple[float, float]], log_x: bool, log_y: bool) -> tuple[Axis, Axis]:
    xs, ys = zip(*points, strict=True)
    pad = 8
    return (
        Axis(xs, LEFT + pad, WIDTH - RIGHT - pad, logarithmic=log_x),
        Axis(ys, HEIGHT - BOTTOM - pad, TOP + pad, logarithmic=log_y),
    )


def _drawable(
    points: Sequence[tuple[float, float]], log_x: bool, log_y: bool
) -> list[tuple[float, float]]:
    return [
        (a, b)
        for a, b in points
        if math.isfinite(a) and math.isfinite(b) and (a > 0 or not log_x) and (b > 0 or not log_y)
    ]


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most so many points: the smallest and the largest of every stretch, in their order."""
    if len(points) <= _MOST_POINTS:
        return points
    length = -(-len(points) // (_MOST_POINTS // 2))
    kept = []
    for start in range(0, len(points), length):
        stretch = range(start, min(start + length, len(points)))
        ends = {
            min(stretch, key=lambda i: points[i][1]),
            max(stretch, key=lambda i: points[i][1]),
        }
        kept += [points[i] for i in sorted(ends)]
    return kept


def _frame(title: str, x_title: str, x: Axis, y: Axis) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [f'<text class="title" x="{LEFT}" y="16">{escape(title)}</text>']
    for tick in y.ticks():
        at = y.at(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{right}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">'
            f"{escape(short(tick))}</text>"
        )
    for tick in x.ticks():
        at = x.at(tick)
        parts.append(f'<path class="grid" d="M{at:.1f} {TOP}V{bottom}"/>')
        parts.append(
            f'<text class="tick" x="{at:.1f}" y="{bottom + 15}" text-anchor="middle">'
            f"{escape(short(tick))}</text>"
        )
    parts.append(
        f'<text class="tick" x="{(LEFT + right) / 2}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{escape(x_title)}</text>"
    )
    return "".join(parts)


def short(value: float) -> str:
    """A tick's label."""
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.6g}"


def _svg(title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


def _nothing(title: str) -> str:
    return _svg(
        title,
        [
            f'<text class="title" x="{LEFT}" y="16">{escape(title)}</text>',
            f'<text class="tick" x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">'
            "no values</text>",
        ],
    )
