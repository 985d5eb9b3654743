"""Means with intervals, paired differences, and Pareto fronts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

BySeed = Mapping[int, float | None]
"""A score by seed; None: the run has no finite value."""


def mean_and_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half the width of its 95 % interval (Student's t); None for a single value."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return mean, None
    from scipy.stats import t

    spread = statistics.stdev(values) / math.sqrt(len(values))
    return mean, float(t.ppf(0.975, len(values) - 1)) * spread


def paired_differences(a: Mapping[str, float], b: Mapping[str, float]) -> list[float]:
    """Differences a - b of the keys that both have.

    Pairs of equal seed share the initial weights and the order of the data, which removes their
    effect from the scatter.
    """
    return [value - b[key] for key, value in a.items() if key in b]


def at_seeds_of(values: BySeed, others: BySeed) -> BySeed:
    """The values of a method at the seeds of another; a single one serves all of them.

    What trains nothing has one run.
    """
    if len(values) == 1 < len(others):
        return dict.fromkeys(others, next(iter(values.values())))
    return values


def known_values(values: BySeed) -> dict[str, float]:
    """The seeds that have a value."""
    return {str(seed): value for seed, value in values.items() if value is not None}


def pareto_front(
    points: Sequence[tuple[float, float]], *, larger_is_better: bool = True
) -> list[bool]:
    """For every point (quality, cost), whether it lies on the Pareto front.

    A point is dominated if a different one is at least as good and at most as costly.
    """
    sign = 1 if larger_is_better else -1

    def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return sign * a[0] >= sign * b[0] and a[1] <= b[1] and a != b

    return [not any(dominates(other, point) for other in points) for point in points]
