"""Iterating far beyond the K trained with: does T converge, how fast, and to one point?

The residual of a run is relative to |u|, and falls as well where |u| grows for ever. What decides
whether T has a fixed point is the least displacement d = inf_u |D(u) - u|_G: for a nonexpansive D,
|u^{k+1} - u^k|_G falls to alpha d and |u^{k+n} - u^k|_G >= n alpha d for every start (Pazy,
Israel J. Math. 1971; Kohlberg & Neyman, Israel J. Math. 1981). Both bound d from above; that they
go on falling is what is measured. Where d > 0 the steps end as equal ones in one direction.
"""

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

Behaviour = Literal["converged", "converging", "moves on", "does not settle", "diverges"]

_STRETCH = 4
"""A trajectory is judged by the last of so many parts."""
_ALIGNED, _CONSTANT = 0.9, 0.8
"""An iterate moves on where its steps go in one direction and have not fallen below this share:
steps that fall as 1/k add up to an infinite way, and fall to 3/4 over the last quarter of it."""
_UNIFORM = 0.999
_ENOUGH = 8
"""steps whose directions are compared, at least"""
_ROUNDING = 8
"""roundings of |u|_G below which a step is none"""


@dataclass(frozen=True)
class Motion:
    """How far T still moves at the end of a trajectory, for the problem that moves most.

    Attributes:
        displacement: upper bound of inf_u |D(u) - u|_G, from the last stretch.
        scale: the larger one of |u^0|_G and |D(u^0)|_G, which does not grow along the iteration.
        alignment: |u^k - u^h|_G over the length of the way from h to k, in [0, 1]; 1: straight on.
        fall: the last step as a share of the first one of the stretch.
        rounded: whether the last step is within the rounding of the iterate, and the stretch no way
            in one direction beyond it: small steps add up, roundings do not.
    """

    displacement: float
    scale: float
    alignment: float = 0.0
    fall: float = 0.0
    rounded: bool = False

    @property
    def moves_on(self) -> bool:
        """Whether the iterate goes on in one direction with steps that do not fall.

        Where T has no fixed point it does so for ever. Where f, g and h are piecewise linear it
        also does so on its way, from one kink to the next: no finite number of steps tells.
        """
        constant = self.alignment > _ALIGNED and self.fall > _CONSTANT
        return constant and not self.rounded and self.displacement > 0

    @property
    def is_uniform(self) -> bool:
        """Whether it moves on with equal steps."""
        return self.moves_on and min(self.alignment, self.fall) > _UNIFORM

    @property
    def is_over(self) -> bool:
        """Whether nothing more can be seen: the iterate does not move, or by rounding alone."""
        return self.rounded or self.displacement == 0

    @property
    def relative(self) -> float:
        """The displacement in units of the scale."""
        if self.displacement == 0:
            return 0.0
        return self.displacement / self.scale if self.scale > 0 else math.inf


@dataclass(frozen=True)
class Trajectory:
    """T iterated from one start.

    Attributes:
        residuals: |D(u^k) - u^k|_G / |u^k|_G for k = 0, 1, ..., the largest of the batch.
        motion: what is left of it at the end.
        growth: largest factor by which |u^{k+1} - u^k|_G grew from one iteration to the next, by
            more than the rounding of u; at most 1 for an averaged map.
        end: the last state.
        finite: whether all iterates were.
    """

    residuals: tuple[float, ...]
    motion: Motion
    growth: float
    end: State
    finite: bool

    def iterations_to(self, tolerance: float) -> int | None:
        """Iterations after which the residual was first at most `tolerance`; None: it never was."""
        return next((k for k, r in enumerate(self.residuals) if r <= tolerance), None)

    def has_stopped(self, tolerance: float) -> bool:
        """Whether what is left of the motion is at most `tolerance` of its scale, and falls."""
        return self.finite and self.motion.relative <= tolerance and not self.motion.moves_on

    def behaviour(self, tolerance: float) -> Behaviour:
        """What the iteration does.

        converged: see `has_stopped`. diverges: an iterate is not finite, or the last residual is
        more than twice the least one. moves on: see `Motion.is_uniform`. converging: the residual
        fell by at least 2 % over the last half. If it did not, it moves on after all where
        `Motion.moves_on`, and does not settle otherwise.
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
        search: further ones, until the iteration has stopped, see `Trajectory.has_stopped`, and is
            still seen to after as many iterations again: steps that fall towards a positive
            limit look for a while like steps that fall to 0.
        tolerance: of the search.
    """
    iteration = _Iteration(mapping, start)
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
    """An iteration that is continued stretch by stretch.

    Args:
        mapping, start: as in `follow`.
    """

    def __init__(self, mapping: FixedPointMap, start: State) -> None:
        self._mapping, self._u = mapping, mapping.lift(start)
        Du = mapping.D(self._u, 0)
        sizes = mapping.metric.norm(self._u), mapping.metric.norm(Du)
        self._scale = self._largest = torch.maximum(*sizes)
        self._steps: list[Tensor] = []
        self._residuals: tuple[float, ...] = ()
        self.finite = True
        self.motion = self.before = Motion(math.inf, 1.0)

    @property
    def done(self) -> int:
        """Iterations so far."""
        return len(self._residuals)

    @property
    def trajectory(self) -> Trajectory:
        """What there is so far."""
        growth = _growth(self._steps, _rounding(self._largest, self._u))
        return Trajectory(self._residuals, self.motion, growth, self._u, self.finite)

    def advance(self, iterations: int) -> None:
        """Go on for so many iterations, or until an iterate is not finite."""
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


def _motion(
    mapping: FixedPointMap, begin: State, end: State, steps: Tensor, scale: Tensor
) -> Motion:
    """Of the stretch from `begin` to `end` with these steps, (n, B), in the norm of G."""
    steps, scale = steps.double(), scale.double()
    way, last = steps.sum(0), steps[-1]
    distance = mapping.metric.norm(subtract(end, begin)).double()
    displacement = torch.minimum(last, distance / len(steps)) / mapping.alpha
    tiny, kind = torch.finfo(steps.dtype).tiny, torch.finfo(end[0].dtype)
    moved = torch.stack([(a != b).flatten(1).any(1) for a, b in zip(end, begin, strict=True)])
    vanishes = (displacement == 0) & moved.any(0) & (scale < math.sqrt(kind.tiny) / kind.eps)
    displacement = torch.where(vanishes, torch.inf, displacement)  # its square does, u moves on
    rounding = _rounding(mapping.metric.norm(end), end)
    # Few steps always seem to go straight on.
    alignment = distance / way.clamp_min(tiny) if len(steps) >= _ENOUGH else torch.zeros_like(way)
    fall = last / steps[0].clamp_min(tiny)
    goes_on = (alignment > _ALIGNED) & (distance > rounding)
    columns = (displacement, scale, alignment, fall, (last <= rounding) & ~goes_on)
    motions = [Motion(*row) for row in zip(*(x.tolist() for x in columns), strict=True)]
    return max(motions, key=lambda motion: (motion.moves_on, _or_infinite(motion.relative)))


def _or_infinite(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _rounding(size: Tensor, u: State) -> Tensor:
    """Of |u|_G, (B,), below which a step is none."""
    return _ROUNDING * torch.finfo(u[0].dtype).eps * size.double()


def _growth(steps: Sequence[Tensor], rounding: Tensor) -> float:
    if len(steps) < 2:
        return math.nan
    sizes = torch.stack(list(steps)).double()
    real = sizes[1:] > rounding
    grown = (sizes[1:] - rounding) / sizes[:-1].clamp_min(1e-30)
    return float(grown[real].max()) if real.any() else math.nan


def starts(initial: State, seed: int = 0) -> dict[str, State]:
    """Where trajectories begin: the task's own start, 0, and uniform noise of the start's range."""
    generator = torch.Generator().manual_seed(seed)
    zero = tuple(torch.zeros_like(block) for block in initial)
    by_name: dict[str, State] = {TASK_START: initial}
    if not all(torch.equal(a, b) for a, b in zip(initial, zero, strict=True)):
        by_name["zero"] = zero
    spread = max(float(max(block.abs().max() for block in initial)), 1.0)
    by_name["noise"] = tuple(
        (spread * torch.rand(block.shape, generator=generator)).to(block) for block in initial
    )
    return by_name


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
