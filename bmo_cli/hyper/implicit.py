"""The implicit hyper-gradient at a fixed point.

At u = D(u; omega), d phi / d omega = d l / d omega + q^T d D / d omega with
(I - J^T) q = grad_u l, J = d D / d u. The system is not symmetric, so conjugate gradients do not
apply; it is solved by the fixed-point iteration q <- J^T q + grad l, or by GMRES (Saad & Schultz,
SIAM J. Sci. Stat. Comput. 1986). (Bai et al., Deep equilibrium models, NeurIPS 2019.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from bmo_cli.config.checks import Count, Positive, checked
from bmo_cli.gkm.scheme import GKM
from bmo_cli.hyper.base import HyperOptimizer, Outcome
from bmo_cli.solver.fixed_point import iterate
from bmo_cli.solver.problem import Sample
from bmo_cli.solver.state import State, detach, inner, scale

UNCONVERGED = "implicit gradient at a point whose residual is above hyper.tolerance"


@checked
class Implicit(HyperOptimizer):
    """Implicit differentiation; the memory does not grow with K.

    Args:
        tolerance: forward residual |D(u) - u|_G / |u|_G at which the inner loop stops. Where K
            iterations do not reach it, the formula does not hold, and the run says so.
        solver: of the transposed system.
        backward_iterations: largest number of vector-Jacobian products.
        backward_tolerance: relative residual of the transposed system at which its solver stops.
    """

    def __init__(
        self,
        *,
        tolerance: Positive = 1e-4,
        solver: Literal["gmres", "fixed_point"] = "gmres",
        backward_iterations: Count = 30,
        backward_tolerance: Positive = 1e-4,
    ) -> None:
        self.tolerance, self.solver = tolerance, solver
        self.backward_iterations = backward_iterations
        self.backward_tolerance = backward_tolerance

    def objective(self, scheme: GKM, sample: Sample, iterations: int) -> Outcome:
        mapping = scheme.bind(sample.problem)
        with torch.no_grad():
            solution = iterate(
                mapping, sample.initial, iterations=iterations, tolerance=self.tolerance
            )
        u = tuple(a.detach().requires_grad_() for a in solution.value)
        image = mapping.D(u, iterations)
        residual = float(mapping.residual(u, image).max())
        value = sample.loss.value(u).mean() / sample.loss.size
        share = 1 / (len(u[0]) * sample.loss.size)
        gradient = detach(scale(sample.loss.grad(u), share))

        def transposed(q: State) -> State:
            """(I - J^T) q."""
            pulled = torch.autograd.grad(
                image, u, q, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            return tuple(a - b for a, b in zip(q, pulled, strict=True))

        q = self._solve(transposed, gradient)
        # Its value is that of phi, its derivative with respect to omega the implicit one.
        pull = inner(detach(q), image).sum()
        objective = value + pull - pull.detach()
        flags = () if residual <= self.tolerance else (UNCONVERGED,)
        return Outcome(objective, residual, solution.status, flags)

    def _solve(self, transposed: Callable[[State], State], right: State) -> State:
        shapes = [a.shape for a in right]
        sizes = [a.numel() for a in right]

        def flat(state: State) -> Tensor:
            return torch.cat([a.reshape(-1) for a in state])

        def apply(vector: Tensor) -> Tensor:
            blocks = zip(torch.split(vector, sizes), shapes, strict=True)
            return flat(transposed(tuple(a.reshape(shape) for a, shape in blocks)))

        method = gmres if self.solver == "gmres" else fixed_point
        found = method(
            apply,
            flat(right),
            iterations=self.backward_iterations,
            tolerance=self.backward_tolerance,
        )
        return tuple(a.reshape(s) for a, s in zip(torch.split(found, sizes), shapes, strict=True))


def fixed_point(
    apply: Callable[[Tensor], Tensor], right: Tensor, *, iterations: int, tolerance: float
) -> Tensor:
    """Solve A q = b by q <- q + (b - A q); converges when I - A is a contraction.

    Args:
        apply: q -> A q, shapes (n,).
        right: b, (n,).
        iterations: largest number of products with A.
        tolerance: stop at |b - A q| <= tolerance |b|.
    """
    q = right.clone()
    for _ in range(iterations):
        defect = right - apply(q)
        if defect.norm() <= tolerance * right.norm():
            break
        q = q + defect
    return q


def gmres(
    apply: Callable[[Tensor], Tensor], right: Tensor, *, iterations: int, tolerance: float
) -> Tensor:
    """Solve A q = b by GMRES without restarts; arguments as `fixed_point`.

    Arnoldi with modified Gram-Schmidt; the small least-squares problem is solved afresh at every
    step, whose cost is nothing beside a product with A.
    """
    norm = right.norm()
    if norm == 0:
        return torch.zeros_like(right)
    basis = [right / norm]
    hessenberg = right.new_zeros(iterations + 1, iterations)
    target = right.new_zeros(iterations + 1)
    target[0] = norm
    weights = right.new_zeros(0)
    for j in range(iterations):
        w = apply(basis[j])
        for i, v in enumerate(basis):
            hessenberg[i, j] = torch.dot(v, w)
            w = w - hessenberg[i, j] * v
        hessenberg[j + 1, j] = w.norm()
        small, short = hessenberg[: j + 2, : j + 1], target[: j + 2]
        weights = torch.linalg.lstsq(small, short[:, None]).solution[:, 0]
        defect = (small @ weights - short).norm()
        if defect <= tolerance * norm or hessenberg[j + 1, j] <= 1e-14 * norm:
            break
        basis.append(w / hessenberg[j + 1, j])
    return torch.stack(basis[: len(weights)], 1) @ weights
