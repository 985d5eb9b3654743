"""Curves of a certificate: residual and score along the iteration, from several starts.

`certificate.json` holds them under `curves`. The certificate draws those of one run, the report
those of two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Point = tuple[float, float]

_DECIBELS = 10.0
"""Decibels below the best score that a chart shows."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """T iterated from one start.

    Attributes:
        residuals: |D(u^k) - u^k|_G / |u^k|_G for k = 0, 1, ..., until an iterate is not finite.
        scores: score of u^k for every k of `Curves.counts`; not finite, or None, once an iterate
            is not finite.
    """

    residuals: Sequence[float | None] = ()
    scores: Sequence[float | None] = ()

    @property
    def residual_points(self) -> list[Point]:
        """Pairs (k, residual) with k > 0 and a positive residual, for logarithmic axes."""
        return [
            (float(k), r) for k, r in enumerate(self.residuals) if k and r is not None and r > 0
        ]


@dataclass(frozen=True, kw_only=True)
class Curves:
    """T iterated on one validation problem from several starts.

    Attributes:
        case: name of the problem.
        metric: name of the score.
        unit: unit of the score.
        larger_is_better: whether a larger score is better.
        counts: the numbers of iterations k that are scored.
        starts: curves by the name of their start.
    """

    case: str = ""
    metric: str = ""
    unit: str = ""
    larger_is_better: bool = True
    counts: Sequence[int] = ()
    starts: Mapping[str, Curve] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The score with its unit."""
        return f"{self.metric} ({self.unit})" if self.unit else self.metric

    def score_points(self, start: str) -> list[Point]:
        """Pairs (k, score) of a start. A score of an iterate that is not finite is infinite."""
        worst = -math.inf if self.larger_is_better else math.inf
        pairs = zip(self.counts, self.starts[start].scores, strict=False)
        return [(float(k), worst if score is None else score) for k, score in pairs if k > 0]


def score_range(shown: Sequence[Curves]) -> tuple[float, float] | None:
    """Least and largest score that a chart of these curves shows; None without finite scores.

    Scores in decibels reach from the best one 10 dB downwards, so that a drift of a tenth of a
    decibel can be seen next to a start with a score of -20 dB. Other scores are all shown.
    """
    scores = [
        score
        for curves in shown
        for start in curves.starts
        for _, score in curves.score_points(start)
        if math.isfinite(score)
    ]
    if not scores:
        return None
    low, high = min(scores), max(scores)
    if shown[0].unit != "dB":
        return low, high
    if shown[0].larger_is_better:
        return max(low, high - _DECIBELS), high
    return low, min(high, low + _DECIBELS)


def clip_to_range(points: Sequence[Point], limits: tuple[float, float]) -> list[Point]:
    """Points whose values lie within the limits, others moved to the nearest limit."""
    low, high = limits
    return [(k, min(max(value, low), high)) for k, value in points]
