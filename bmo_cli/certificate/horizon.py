"""Iterating far beyond the K trained with: does T converge, how fast, and to one point?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bmo_cli.solver.fixed_point import FixedPointMap, Status, iterate
from bmo_cli.solver.state import State, inner, subtract

TASK_START = "the task's start"

Behaviour = Literal["converged", "converging", "does not settle", "diverges"]


@dataclass(frozen=True)
class Trajectory:
    """T iterated from one start.

    Attributes:
        residuals: |D(u^k) - u^k|_G / |u^k|_G for k = 0, 1, ..., the largest of the batch; the last
            belongs to `end` where the search ended at a tolerance.
        share: the last |u^{k+1} - u^k|_G as a share of the first: small also where u goes to 0 and
            the relative residual does not.
        growth: largest factor by which |u^{k+1} - u^k|_G grew from one iteration to the next; at
            most 1 for an averaged map, up to rounding.
        end: the last state.
        finite: whether all iterates were.
    """

    residuals: tuple[float, ...]
    share: float
    growth: float
    end: State
    finite: bool

    def met(self, tolerance: float) -> int | None:
        """Iterations after which the residual was first at most `tolerance`; None: it never was."""
        return next((k for k, r in enumerate(self.residuals) if r <= tolerance), None)

    def behaviour(self, tolerance: float) -> Behaviour:
        """What the residuals do.

        converged: the last, or the last step as a share of the first, is at most `tolerance`.
        diverges: an iterate is not finite, or the last residual is more than twice the least one.
        converging: it fell by at least 2 % over the last half. Otherwise it does not settle.
        """
        if not self.finite:
            return "diverges"
        last, half = self.residuals[-1], self.residuals[len(self.residuals) // 2]
        if min(last, self.share) <= tolerance:
            return "converged"
        if last > 2 * min(self.residuals):
            return "diverges"
        return "converging" if last < 0.98 * half else "does not settle"

    @property
    def rate(self) -> float:
        """Factor of the residual an iteration, fitted to its logarithm over the last half.

        Of residuals above the rounding of float32; nan where there are fewer than three.
        """
        kept = [r for r in self.residuals if math.isfinite(r) and r > 3e-7]
        kept = kept[len(kept) // 2 :]
        if len(kept) < 3:
            return math.nan
        slope = np.polyfit(np.arange(len(kept)), np.log(kept), 1)[0]
        return math.exp(slope)


@torch.no_grad()
def follow(
    mapping: FixedPointMap,
    start: State,
    iterations: int,
    *,
    search: int = 0,
    tolerance: float = 0.0,
) -> Trajectory:
    """Iterate T and keep what the verdicts need.

    Args:
        mapping: D, G and alpha at one problem.
        start: u^0.
        iterations: that are done in any case.
        search: further ones, until the residual is at most `tolerance`; where an earlier one was,
            none.
        tolerance: of the search.
    """
    steps: list[Tensor] = []

    def watch(k: int, u: State, averaged: State) -> State:
        steps.append(mapping.metric.norm(subtract(averaged, u)))
        return averaged

    solution = iterate(mapping, start, iterations=iterations, combine=watch)
    residuals = solution.residuals
    if search and solution.status is Status.ITERATIONS and min(residuals) > tolerance:
        solution = iterate(
            mapping,
            solution.value,
            iterations=search,
            tolerance=tolerance,
            combine=watch,
            start=iterations,
        )
        residuals += solution.residuals
    sizes = torch.stack(steps).double() if steps else torch.zeros(0, 1)
    # Below float32's rounding of the first step, growth is noise.
    grown = sizes[1:] / sizes[:-1].clamp_min(1e-30)
    real = sizes[1:] > 1e-5 * sizes[:1]
    growth = float(grown[real].max()) if real.any() else math.nan
    finite = solution.status is not Status.NONFINITE
    shares = sizes[-1] / sizes[0].clamp_min(1e-30) if steps else torch.ones(1)
    return Trajectory(residuals, float(shares.max()), growth, solution.value, finite)


def starts(initial: State, seed: int = 0) -> dict[str, State]:
    """Where trajectories begin: the task's own start, 0, and uniform noise of the start's range."""
    generator = torch.Generator().manual_seed(seed)
    zero = tuple(torch.zeros_like(block) for block in initial)
    found: dict[str, State] = {TASK_START: initial}
    if not all(torch.equal(a, b) for a, b in zip(initial, zero, strict=True)):
        found["zero"] = zero
    spread = max(float(max(block.abs().max() for block in initial)), 1.0)
    found["noise"] = tuple(
        (spread * torch.rand(block.shape, generator=generator)).to(block) for block in initial
    )
    return found


def distance(estimates: Sequence[State]) -> float:
    """Largest relative Euclidean distance between the estimates that the starts lead to."""
    first = estimates[0]
    size = inner(first, first).sqrt().clamp_min(1e-30)
    gaps = [
        float((inner(gap, gap).sqrt() / size).max())
        for other in estimates[1:]
        for gap in [subtract(other, first)]
    ]
    return max(gaps, default=0.0)
