"""Iterations far beyond the K of training: whether, how fast and to which points T converges.

The residual of a run is relative to |u|, so that it also decreases while |u| grows without bound.
The least displacement d = inf_u |D(u) - u|_G decides whether T has a fixed point. For a
nonexpansive D and every start, |u^{k+1} - u^k|_G decreases to alpha d, and
|u^{k+n} - u^k|_G >= n alpha d (Pazy, Israel J. Math. 1971; Kohlberg & Neyman, Israel J. Math.
1981). Both quantities bound d from above. The measurement is whether they keep decreasing. For
d > 0 the steps become equal in length and direction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bmo_cli.solver.fixed_point import FixedPointMap, Status, iterate
from bmo_cli.solver.state import State, inner, subtract

TASK_START = "the task's start"

Watch = Callable[[int, State], None]
"""Receives (k, the estimate of u after k iterations)."""

Behaviour = Literal["converged", "converging", "moves on", "does not settle", "diverges"]

_STRETCH = 4
"""number of parts of a trajectory; the last one decides its behaviour"""
_ALIGNED, _CONSTANT = 0.9, 0.8
"""An iterate moves on if its alignment and the share that its steps keep are above these values.
Steps of length 1/k have an infinite sum; they decrease to 3/4 over the last quarter."""
_UNIFORM = 0.999
_ENOUGH = 8
"""least number of steps whose directions are compared"""
_ROUNDING = 8
"""number of rounding errors of |u|_G below which a step counts as 0"""


@dataclass(frozen=True)
class Motion:
    """Remaining motion at the end of a trajectory, for the problem that moves most.

    Attributes:
        displacement: upper bound of inf_u |D(u) - u|_G, from the last stretch.
        scale: the larger one of |u^0|_G and |D(u^0)|_G, which does not grow along the iteration.
        alignment: |u^k - u^h|_G divided by the length of the path from h to k, in [0, 1]; 1: the
            path is straight.
        fall: the last step as a share of the first one of the stretch.
        rounded: whether the last step is within the rounding error of the iterate, and the whole
            stretch makes no larger progress in one direction: small steps add up, rounding errors
            do not.
    """

    displacement: float
    scale: float
    alignment: float = 0.0
    fall: float = 0.0
    rounded: bool = False

    @property
    def moves_on(self) -> bool:
        """Whether the iterate keeps moving in one direction with steps that do not decrease.

        If T has no fixed point, it does so for ever. If f, g and h are piecewise linear, it also
        does so between kinks. A finite number of steps cannot tell these cases apart.
        """
        constant = self.alignment > _ALIGNED and self.fall > _CONSTANT
        return constant and not self.rounded and self.displacement > 0

    @property
    def is_uniform(self) -> bool:
        """Whether it moves on with equal steps."""
        return self.moves_on and min(self.alignment, self.fall) > _UNIFORM

    @property
    def is_over(self) -> bool:
        """Whether the iterate does not move, or only by rounding errors."""
        return self.rounded or self.displacement == 0

    @property
    def relative(self) -> float:
        """The displacement relative to the scale."""
        if self.displacement == 0:
            return 0.0
        return self.displacement / self.scale if self.scale > 0 else math.inf


@dataclass(frozen=True)
class Trajectory:
    """T iterated from one start.

    Attributes:
        residuals: |D(u^k) - u^k|_G / |u^k|_G for k = 0, 1, ..., the largest of the batch.
        motion: remaining motion at the end.
        growth: largest factor by which |u^{k+1} - u^k|_G grew in one iteration, without the
            rounding error of u; at most 1 for an averaged map.
        end: the last state.
        finite: whether all iterates are finite.
    """

    residuals: tuple[float, ...]
    motion: Motion
    growth: float
    end: State
    finite: bool

    def iterations_to(self, tolerance: float) -> int | None:
        """Iterations after which the residual was first at most `tolerance`; None: never."""
        return next((k for k, r in enumerate(self.residuals) if r <= tolerance), None)

    def has_stopped(self, tolerance: float) -> bool:
        """Whether the remaining motion is at most `tolerance` of its scale, and decreases."""
        return self.finite and self.motion.relative <= tolerance and not self.motion.moves_on

    def behaviour(self, tolerance: float) -> Behaviour:
        """The behaviour of the iteration.

        converged: see `has_stopped`. diverges: an iterate is not finite, or the last residual is
        more than twice the least one. moves on: see `Motion.is_uniform`. converging: the residual
        decreased by at least 2 % over the last half. Otherwise it moves on if `Motion.moves_on`,
        and does not settle if not.
        """
        if not self.finite:
            return "diverges"
        if self.has_stopped(tolerance):
            return "converged"
        last, half = self.residuals[-1], self.residuals[len(self.residuals) // 2]
        if last > 2 * min(self.residuals):
            return "diverges"
        if self.motion.is_uniform:
            return "moves on"
        if last < 0.98 * half:
            return "converging"
        return "moves on" if self.motion.moves_on else "does not settle"

    @property
    def rate(self) -> float:
        """Factor of the residual in one iteration, fitted to its logarithm over the last half.

        The fit uses residuals above the rounding error of float32; nan if there are fewer than 3.
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
    watch: Watch | None = None,
) -> Trajectory:
    """Iterate T and record the data of the verdicts.

    Args:
        mapping: D, G and alpha at one problem.
        start: u^0.
        iterations: number of iterations that are always done.
        search: number of further ones, until the iteration has stopped (see
            `Trajectory.has_stopped`) and still has after as many iterations again: steps that
            decrease to a positive limit look for a while like steps that decrease to 0.
        tolerance: tolerance of the search.
        watch: called after every iteration.
    """
    iteration = _Iteration(mapping, start, watch)
    iteration.advance(iterations - iterations // _STRETCH)
    iteration.advance(iterations // _STRETCH)
    stopped_at = 0
    while iteration.finite and iteration.done < iterations + search + stopped_at:
        if iteration.motion.is_uniform and iteration.before.is_uniform:
            break
        if not iteration.trajectory.has_stopped(tolerance):
            stopped_at = 0
        elif not stopped_at:
            stopped_at = iteration.done
        if stopped_at and (iteration.motion.is_over or iteration.done >= 2 * stopped_at):
            break
        left = iterations + search + stopped_at - iteration.done
        iteration.advance(min(left, max(1, iteration.done // (_STRETCH - 1))))
    return iteration.trajectory


class _Iteration:
    """An iteration that continues in stretches.

    Args:
        mapping, start, watch: as in `follow`.
    """

    def __init__(self, mapping: FixedPointMap, start: State, watch: Watch | None) -> None:
        self._mapping, self._u, self._watch = mapping, mapping.lift(start), watch
        Du = mapping.D(self._u, 0)
        sizes = mapping.metric.norm(self._u), mapping.metric.norm(Du)
        self._scale = self._largest = torch.maximum(*sizes)
        self._steps: list[Tensor] = []
        self._residuals: tuple[float, ...] = ()
        self.finite = True
        self.motion = self.before = Motion(math.inf, 1.0)

    @property
    def done(self) -> int:
        """Number of iterations so far."""
        return len(self._residuals)

    @property
    def trajectory(self) -> Trajectory:
        """The trajectory so far."""
        growth = _growth(self._steps, _rounding(self._largest, self._u))
        return Trajectory(self._residuals, self.motion, growth, self._u, self.finite)

    def advance(self, iterations: int) -> None:
        """Continue for this many iterations, or until an iterate is not finite."""
        if iterations < 1 or not self.finite:
            return
        begin, done = self._u, self.done
        solution = iterate(
            self._mapping, begin, iterations=iterations, observe=self._record, start=done
        )
        self._u, self._residuals = solution.value, self._residuals + solution.residuals
        self.finite = solution.status is not Status.NONFINITE
        taken = self._steps[done:]
        if taken:
            self._largest = torch.maximum(self._largest, self._mapping.metric.norm(self._u))
            stretch = torch.stack(taken)
            motion = _motion(self._mapping, begin, self._u, stretch, self._scale)
            self.before, self.motion = self.motion, motion

    def _record(self, k: int, u: State, following: State) -> None:
        self._steps.append(self._mapping.metric.norm(subtract(following, u)))
        if self._watch is not None:
            self._watch(k + 1, self._mapping.estimate(following))


def _motion(
    mapping: FixedPointMap, begin: State, end: State, steps: Tensor, scale: Tensor
) -> Motion:
    """Motion on the stretch from `begin` to `end` with steps of these lengths, (n, B)."""
    steps, scale = steps.double(), scale.double()
    way, last = steps.sum(0), steps[-1]
    distance = mapping.metric.norm(subtract(end, begin)).double()
    displacement = torch.minimum(last, distance / len(steps)) / mapping.alpha
    tiny, kind = torch.finfo(steps.dtype).tiny, torch.finfo(end[0].dtype)
    moved = torch.stack([(a != b).flatten(1).any(1) for a, b in zip(end, begin, strict=True)])
    vanishes = (displacement == 0) & moved.any(0) & (scale < math.sqrt(kind.tiny) / kind.eps)
    displacement = torch.where(
        vanishes, torch.inf, displacement
    )  # u moves, but the square of the step underflows
    rounding = _rounding(mapping.metric.norm(end), end)
    # A path of few steps always seems straight.
    alignment = distance / way.clamp_min(tiny) if len(steps) >= _ENOUGH else torch.zeros_like(way)
    fall = last / steps[0].clamp_min(tiny)
    goes_on = (alignment > _ALIGNED) & (distance > rounding)
    columns = (displacement, scale, alignment, fall, (last <= rounding) & ~goes_on)
    motions = [Motion(*row) for row in zip(*(x.tolist() for x in columns), strict=True)]
    return max(motions, key=lambda motion: (motion.moves_on, _or_infinite(motion.relative)))


def _or_infinite(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _rounding(size: Tensor, u: State) -> Tensor:
    """Rounding error of |u|_G below which a step counts as 0, (B,)."""
    return _ROUNDING * torch.finfo(u[0].dtype).eps * size.double()


def _growth(steps: Sequence[Tensor], rounding: Tensor) -> float:
    if len(steps) < 2:
        return math.nan
    sizes = torch.stack(list(steps)).double()
    real = sizes[1:] > rounding
    grown = (sizes[1:] - rounding) / sizes[:-1].clamp_min(1e-30)
    return float(grown[real].max()) if real.any() else math.nan


def starts(initial: State, seed: int = 0) -> dict[str, State]:
    """Starts of trajectories: the task's start, 0, and uniform noise of the start's range."""
    generator = torch.Generator().manual_seed(seed)
    zero = tuple(torch.zeros_like(block) for block in initial)
    by_name: dict[str, State] = {TASK_START: initial}
    if not all(torch.equal(a, b) for a, b in zip(initial, zero, strict=True)):
        by_name["zero"] = zero
    by_name["noise"] = tuple(
        (spread(initial) * torch.rand(block.shape, generator=generator)).to(block)
        for block in initial
    )
    return by_name


def spread(initial: State) -> float:
    """The largest absolute entry of the task's start, and at least 1."""
    return max(float(max(block.abs().max() for block in initial)), 1.0)


def distance(estimates: Sequence[State]) -> float:
    """Largest relative Euclidean distance between the estimates of different starts."""
    first = estimates[0]
    size = inner(first, first).sqrt().clamp_min(1e-30)
    gaps = [
        float((inner(gap, gap).sqrt() / size).max())
        for other in estimates[1:]
        for gap in [subtract(other, first)]
    ]
    return max(gaps, default=0.0)
