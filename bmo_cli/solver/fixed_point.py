"""The fixed-point loop. It is the only one: training, evaluation and restoration all run it.

    T(u) = u + alpha (D(u) - u),     u^{k+1} = T(u^k)          (Krasnoselskii-Mann)

The residual is |D(u) - u|_G / |u|_G, before damping: a small alpha cannot make it look small
(docs/method.md, "The residual is that of D").
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
"""(k, u^k, T(u^k)) -> u^{k+1}, for schemes that add something to the averaged step."""

Observer = Callable[[int, State, State], None]
"""Receives (k, u^k, u^{k+1}) after every iteration."""


class Acceleration(Protocol):
    """Extrapolates from the steps of one solve, which it remembers."""

    def accelerate(self, k: int, u: State, proposed: State) -> State:
        """u^{k+1}, given u^k and the point that the iteration proposes."""


def _identity(u: State) -> State:
    return u


class _ReadLoss(Loss):
    """l o readout; readouts are proximal maps, hence nonexpansive, and keep L_l (affine ones)."""

    def __init__(self, loss: Loss, readout: StateMap) -> None:
        self._loss, self._readout = loss, readout
        self.lipschitz, self.size = loss.lipschitz, loss.size

    def value(self, u: State) -> Tensor:
        return self._loss.value(self._readout(u))


@dataclass(frozen=True)
class FixedPointMap:
    """A scheme at one problem: D with its metric, and the averaging that turns it into T.

    Attributes:
        D: map of (state, iteration number k = 0, 1, ...); tied schemes ignore k.
        metric: G, in whose norm D is meant to be nonexpansive.
        alpha: averaging, in (0, 1); 1 is the undamped T = D.
        lift: adds the blocks (auxiliary variables, multipliers) that a problem's initial state
            lacks; a state that has them is returned as it is.
        readout: the estimate of u in a state; None: its first block is.
    """

    D: Callable[[State, int], State]
    metric: Metric
    alpha: float = 1.0
    lift: StateMap = _identity
    readout: StateMap | None = None

    def estimate(self, u: State) -> State:
        """What a state says about u."""
        return u if self.readout is None else self.readout(u)

    def loss_on_state(self, loss: Loss) -> Loss:
        """l as a function of the iterate: l(readout(u))."""
        return loss if self.readout is None else _ReadLoss(loss, self.readout)

    def residual(self, u: State, Du: State) -> Tensor:
        """|D(u) - u|_G / |u|_G of each problem given D(u), shape (B,), outside any graph.

        At u = 0 it is relative to |D(u)|_G instead.
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
    """What the loop returns.

    Attributes:
        value: the last state; when `status` is NONFINITE the one before it.
        status: why the loop ended.
        iterations: evaluations of T that led to `value`.
        residuals: |D(u^k) - u^k|_G / |u^k|_G, the largest of the batch, for k = 0, 1, ... (or the
            last alone); when `status` is CONVERGED the last entry belongs to `value`.
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

    Differentiable through all iterations when called with gradients enabled.

    Args:
        mapping: D, G and alpha at one problem.
        initial: u^0, or only the blocks that the problem itself has.
        iterations: largest number of steps, >= 1.
        tolerance: stop before a step whose residual is at most this for the whole batch; 0: never.
        update: computes u^{k+1} from u^k and T(u^k); None: u^{k+1} = T(u^k).
        acceleration: extrapolates from what `update` returns; None: nothing does.
        observe: is called after every iteration.
        start: number k of the first iteration, when `initial` is an iterate already.
        watch: iterations whose residual is computed; "last" saves the time where neither
            `tolerance` nor the way matters, and a lost iterate is found at the end.
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
