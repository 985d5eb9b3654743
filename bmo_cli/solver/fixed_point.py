"""The fixed-point loop of training, evaluation and restoration.

    T(u) = u + alpha (D(u) - u),     u^{k+1} = T(u^k)          (Krasnoselskii-Mann)

The residual is |D(u) - u|_G / |u|_G. It is taken before averaging, so that a small alpha does not
reduce it (docs/method.md, "The residual is that of D").
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from bmo_cli.solver.functions import StateMap
from bmo_cli.solver.metric import Metric
from bmo_cli.solver.problem import Loss
from bmo_cli.solver.state import State, detach, step_towards, subtract

UpdateRule = Callable[[int, State, State], State]
"""(k, u^k, T(u^k)) -> u^{k+1}, for schemes that modify the averaged step."""

Observer = Callable[[int, State, State], None]
"""Receives (k, u^k, u^{k+1}) after every iteration."""


class Acceleration(Protocol):
    """Extrapolates from the previous steps of one solve."""

    def accelerate(self, k: int, u: State, proposed: State) -> State:
        """u^{k+1}, given u^k and the point that the iteration proposes."""


def _identity(u: State) -> State:
    return u


class _ReadLoss(Loss):
    """l o readout. Readouts are nonexpansive: proximal maps, or linear ones of norm 1.

    Affine ones keep L_l.
    """

    def __init__(self, loss: Loss, readout: StateMap) -> None:
        self._loss, self._readout = loss, readout
        self.lipschitz, self.size = loss.lipschitz, loss.size

    def value(self, u: State) -> Tensor:
        return self._loss.value(self._readout(u))


@dataclass(frozen=True)
class FixedPointMap:
    """A scheme at one problem: D, its metric G, and the averaging that turns D into T.

    Attributes:
        D: map of (state, iteration number k = 0, 1, ...). Schemes with tied weights ignore k.
        metric: G, in which D is meant to be nonexpansive.
        alpha: averaging, in (0, 1]; 1 is the undamped T = D.
        lift: adds the blocks (auxiliary variables, multipliers) that a problem's initial state
            lacks. A complete state is returned unchanged.
        readout: map from a state to the estimate of u; None: the estimate is the first block.
    """

    D: Callable[[State, int], State]
    metric: Metric
    alpha: float = 1.0
    lift: StateMap = _identity
    readout: StateMap | None = None

    def estimate(self, u: State) -> State:
        """The estimate of u that a state holds."""
        return u if self.readout is None else self.readout(u)

    def loss_on_state(self, loss: Loss) -> Loss:
        """l as a function of the iterate: l(readout(u))."""
        return loss if self.readout is None else _ReadLoss(loss, self.readout)

    def residual(self, u: State, Du: State) -> Tensor:
        """|D(u) - u|_G / |u|_G of each problem, shape (B,), outside any graph.

        Where u = 0, it is relative to |D(u)|_G.
        """
        with torch.no_grad():
            step = self.metric.norm(subtract(detach(Du), detach(u)))
            size = self.metric.norm(detach(u))
            size = torch.where(size > 0, size, self.metric.norm(detach(Du)))  # u may be 0
            return step / size.clamp_min(torch.finfo(size.dtype).tiny)


class Status(enum.Enum):
    """Why the loop ended."""

    CONVERGED = "converged"
    ITERATIONS = "all iterations done"
    NONFINITE = "an iterate became non-finite"


@dataclass(frozen=True)
class Solution:
    """The result of the loop.

    Attributes:
        value: the last state; if `status` is NONFINITE, the one before it.
        status: why the loop ended.
        iterations: evaluations of T that led to `value`.
        residuals: |D(u^k) - u^k|_G / |u^k|_G, the largest of the batch, for k = 0, 1, ... (or the
            last only); if `status` is CONVERGED, the last entry belongs to `value`.
    """

    value: State
    status: Status
    iterations: int
    residuals: tuple[float, ...]


def iterate(
    mapping: FixedPointMap,
    initial: State,
    *,
    iterations: int,
    tolerance: float = 0.0,
    update: UpdateRule | None = None,
    acceleration: Acceleration | None = None,
    observe: Observer | None = None,
    start: int = 0,
    watch: Literal["all", "last"] = "all",
) -> Solution:
    """Iterate T from `initial`.

    With gradients enabled, the result is differentiable through all iterations.

    Args:
        mapping: D, G and alpha at one problem.
        initial: u^0, or only the blocks that the problem itself has.
        iterations: largest number of steps, >= 1.
        tolerance: stop where the residual of every problem is at most this; 0: never.
        update: computes u^{k+1} from u^k and T(u^k); None: u^{k+1} = T(u^k).
        acceleration: extrapolates from the points that `update` returns; None: no acceleration.
        observe: called after every iteration.
        start: number k of the first iteration, when `initial` is an iterate already.
        watch: iterations whose residual is computed. "last" saves time where neither `tolerance`
            nor the history matters; a non-finite iterate is then detected at the end.
    """

    def advance(u: State, Du: State, k: int) -> State:
        following = step(mapping, u, Du, k, update)
        if acceleration is not None:
            following = acceleration.accelerate(k, u, following)
        if observe is not None:
            observe(k, u, following)
        return following

    u, residuals = mapping.lift(initial), []
    for k in range(start, start + iterations):
        Du = mapping.D(u, k)
        if watch == "last" and k < start + iterations - 1:
            u = advance(u, Du, k)
            continue
        residual = float(mapping.residual(u, Du).max())
        residuals.append(residual)
        if residual != residual or residual == float("inf"):
            return Solution(u, Status.NONFINITE, k - start, tuple(residuals))
        if residual <= tolerance and tolerance > 0:
            return Solution(u, Status.CONVERGED, k - start, tuple(residuals))
        u = advance(u, Du, k)
    return Solution(u, Status.ITERATIONS, iterations, tuple(residuals))


def step(
    mapping: FixedPointMap, u: State, Du: State, k: int, update: UpdateRule | None = None
) -> State:
    """u^{k+1}, given u^k and D(u^k)."""
    averaged = step_towards(u, Du, mapping.alpha)
    return averaged if update is None else update(k, u, averaged)
