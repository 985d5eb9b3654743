"""The implicit hyper-gradient at a fixed point.

At u = D(u; omega), d phi / d omega = d l / d omega + q^T d D / d omega with
(I - J^T) q = grad_u l, J = d D / d u. The system is not symmetric, so conjugate gradients do not
apply. GMRES solves it, or the iteration q <- J^T q + grad l, plain or with Anderson acceleration.
(Bai et al., Deep equilibrium models, NeurIPS 2019.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bmo_cli.config.checks import Count, Index, Positive, checked
from bmo_cli.errors import InputError
from bmo_cli.gkm.scheme import GKM
from bmo_cli.hyper.base import HyperOptimizer, Outcome
from bmo_cli.solver.anderson import Anderson
from bmo_cli.solver.fixed_point import FixedPointMap, Status, iterate
from bmo_cli.solver.gmres import gmres
from bmo_cli.solver.metric import ScaledIdentity
from bmo_cli.solver.problem import Sample
from bmo_cli.solver.state import State, binary_scale, detach, inner, scale, subtract

UNCONVERGED = "implicit gradient at a point whose residual is above hyper.tolerance"
UNSOLVED = "implicit gradient from a transposed system not solved to hyper.backward_tolerance"
_MEMORY = 5  # memory of the Anderson acceleration of the transposed system

Pull = Callable[[State], State]
"""q -> J^T q."""


@checked
class Implicit(HyperOptimizer):
    """Implicit differentiation. The memory does not grow with K.

    Args:
        tolerance: forward residual |D(u) - u|_G / |u|_G at which the inner loop stops. Where K
            iterations do not reach it, the formula does not hold, and the run says so.
        anderson: memory of Anderson acceleration of the inner loop; 0: none.
        solver: solver of the transposed system.
        backward_iterations: largest number of vector-Jacobian products.
        backward_tolerance: relative residual of the transposed system at which its solver stops.
    """

    def __init__(
        self,
        *,
        tolerance: Positive = 1e-4,
        anderson: Index = 0,
        solver: Literal["gmres", "anderson", "fixed_point"] = "gmres",
        backward_iterations: Count = 30,
        backward_tolerance: Positive = 1e-4,
    ) -> None:
        self.tolerance, self.anderson, self.solver = tolerance, anderson, solver
        self.backward_iterations = backward_iterations
        self.backward_tolerance = backward_tolerance

    def differentiated_iterations(self, iterations: int) -> int:
        return 1

    def accuracy(self, iterations: int) -> float | None:
        return 1e-5

    def check(self, scheme: GKM) -> tuple[str, ...]:
        if not scheme.stationary:
            raise InputError(
                "hyper=implicit differentiates at a fixed point of one map, but this scheme "
                "changes with the iteration; use gkm.stages=1 and no FISTA"
            )
        if scheme.behaviour.random:
            raise InputError(
                "hyper=implicit differentiates at a fixed point of one map, but in training "
                f"{scheme.title} {scheme.behaviour}; use hyper=unrolled or hyper=bmo"
            )
        reason = scheme.expansive_because
        return () if reason is None else (f"implicit needs a fixed point, but {reason}",)

    def objective(self, scheme: GKM, sample: Sample, iterations: int) -> Outcome:
        self.check(scheme)
        mapping = scheme.bind(sample.problem)
        loss = mapping.loss_on_state(sample.loss)
        acceleration = None
        if self.anderson:
            acceleration = Anderson(mapping.metric, memory=self.anderson, iterations=iterations)
        with torch.no_grad():
            solution = iterate(
                mapping,
                sample.initial,
                iterations=iterations,
                tolerance=self.tolerance,
                acceleration=acceleration,
            )
        if solution.status is Status.NONFINITE:
            return Outcome(torch.tensor(torch.nan), solution.residuals[-1], solution.status)
        u = tuple(a.detach().requires_grad_() for a in solution.value)
        Du = mapping.D(u, iterations)
        residual = float(mapping.residual(u, Du).max())
        value = loss.value(u).mean() / loss.size
        share = 1 / (len(u[0]) * loss.size)
        gradient = detach(scale(loss.grad(u), share))

        def pull(q: State) -> State:
            return torch.autograd.grad(
                Du, u, q, retain_graph=True, allow_unused=True, materialize_grads=True
            )

        q, defect = self._solve(pull, gradient)
        # The value is phi, and the derivative with respect to omega the implicit one.
        pulled = inner(detach(q), Du).sum()
        objective = value + pulled - pulled.detach()
        unconverged = not residual <= self.tolerance  # true for nan as well
        unsolved = not defect <= self.backward_tolerance
        flags = (UNCONVERGED,) * unconverged + (UNSOLVED,) * unsolved
        return Outcome(objective, residual, solution.status, flags)

    def _solve(self, pull: Pull, right: State) -> tuple[State, float]:
        """q and the relative residual of (I - J^T) q = right."""
        if self.solver == "gmres":
            flat, defect = gmres(
                lambda q: q - _flat(pull(_unflat(q, right))),
                _flat(right),
                iterations=self.backward_iterations,
                tolerance=self.backward_tolerance,
            )
            return _unflat(flat, right), defect
        size = binary_scale(right)  # squares of tiny gradients underflow
        right = scale(right, 1 / size)
        metric = ScaledIdentity(torch.ones_like(right[0][(0,) * right[0].dim()]))
        mapping = _Transposed(
            lambda q, k: tuple(a + b for a, b in zip(pull(q), right, strict=True)),
            metric,
            right=right,
        )
        acceleration = None
        if self.solver == "anderson":
            acceleration = Anderson(metric, memory=_MEMORY, iterations=self.backward_iterations)
        with torch.no_grad():
            solution = iterate(
                mapping,
                right,
                iterations=self.backward_iterations,
                tolerance=self.backward_tolerance,
                acceleration=acceleration,
            )
            q = solution.value
            return scale(q, size), float(mapping.residual(q, mapping.D(q, 0)).max())


@dataclass(frozen=True)
class _Transposed(FixedPointMap):
    """q -> J^T q + b. Its residual is relative to b, as for a linear system.

    Where q grows without bound (a singular system), the rounding error of q hides the defect. The
    residual therefore includes this error.
    """

    right: State = ()

    def residual(self, u: State, Du: State) -> Tensor:
        kind = torch.finfo(Du[0].dtype)
        rounding = kind.eps * self.metric.norm(u)
        defect = self.metric.norm(subtract(Du, u)) + rounding
        return defect / self.metric.norm(self.right).clamp_min(kind.tiny)


def _flat(state: State) -> Tensor:
    return torch.cat([block.reshape(-1) for block in state])


def _unflat(vector: Tensor, like: State) -> State:
    parts = torch.split(vector, [block.numel() for block in like])
    return tuple(part.reshape(block.shape) for part, block in zip(parts, like, strict=True))
