"""Operators for a linear relation, min f(u) + g(u) + h(z) subject to A u + z = b.

The three operators are the augmented Lagrangian method (ALM), linearised ADMM (LADMM) and the
primal-dual hybrid gradient method (PDHG). All of them linearise |A u - b|^2 and use the gradient of
f. They have a penalty beta (PDHG: the dual step sigma) and a step
tau < 1 / (beta |A|^2 + L_f / 2). The hyper-parameter is tau as a share of this limit, so that
training cannot violate it.

ALM and PDHG are forward-backward splittings in their metric, hence averaged. LADMM is nonexpansive
in its metric and converges undamped, as ADMM does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bmo_cli.config.checks import OpenUnit, Positive, checked
from bmo_cli.errors import InputError
from bmo_cli.gkm.operator import (
    Bounded,
    BoundOperator,
    Exponential,
    NumericalOperator,
    coupling_of,
    curvature,
    norm_squared,
    share_of_positive,
)
from bmo_cli.solver.functions import AtZero
from bmo_cli.solver.metric import BlockDiagonal, LinearizedBlock, PrimalDual, ScaledIdentity
from bmo_cli.solver.problem import Coupling, Problem
from bmo_cli.solver.state import State


class _Linearized(NumericalOperator):
    """The hyper-parameters of all three operators.

    Args:
        beta: penalty (augmented Lagrangian) or dual step (PDHG), > 0.
        share: tau as a share of its limit 1 / (beta |A|^2 + L_f / 2), in (0, 1).
        weight: factor on g, > 0.
        learn: whether beta and share are hyper-parameters.
        learn_weight: whether the weight is a hyper-parameter.
    """

    condition = "1/tau - beta |A|^2 > L_f/2"
    nonexpansive = True
    averaged = True
    uses_g = True
    keeps_nonexpansive = False  # G is not a multiple of the identity on the first block

    def __init__(
        self,
        *,
        beta: Positive = 1.0,
        share: OpenUnit = 0.95,
        weight: Positive = 1.0,
        learn: bool = True,
        learn_weight: bool = False,
    ) -> None:
        super().__init__()
        self.beta = Exponential(beta, learn=learn)
        self.share = Bounded(share, learn=learn)
        self.weight = Exponential(weight, learn=learn_weight)

    def _step(self, problem: Problem, coupling: Coupling) -> tuple[Tensor, Tensor]:
        """beta and tau."""
        beta = self.beta()
        limit = 1 / (beta * coupling.a.norm_squared + problem.f.lipschitz / 2)
        return beta, self.share() * limit

    def step_share(self, problem: Problem) -> float:
        coupling = coupling_of(problem, self)
        beta, tau = self._step(problem, coupling)
        inverse_limit = beta.item() * norm_squared(coupling.a) + curvature(problem.f) / 2
        return tau.item() * inverse_limit + share_of_positive(tau) + share_of_positive(beta)


@checked
class ALM(_Linearized):
    """Proximal linearised augmented Lagrangian for A u = b, on (u, lam).

        u+   = prox_{tau g}( u - tau (grad f(u) + A^T (lam + beta (A u - b))) )
        lam+ = lam + beta (A u+ - b)

    The arguments are those of `_Linearized`.
    """

    def bind(self, problem: Problem) -> BoundOperator:
        coupling = coupling_of(problem, self)
        if not isinstance(coupling.h, AtZero):
            raise InputError(
                "ALM needs a constraint A u = b that holds exactly (h = AtZero), got h = "
                f"{type(coupling.h).__name__}; use gkm=ladmm or gkm=pdhg"
            )
        a, b = coupling.a, coupling.b
        beta, tau = self._step(problem, coupling)
        length = tau * self.weight()

        def apply(state: State, k: int) -> State:
            u, lam = state
            (gradient,) = problem.f.grad((u,))
            moved = u - tau * (gradient + a.adjoint(lam + beta * (a(u) - b)))
            (u,) = problem.g.prox((moved,), length)
            return (u, lam + beta * (a(u) - b))

        metric = BlockDiagonal((LinearizedBlock(tau, beta, a), ScaledIdentity(1 / beta)))
        return BoundOperator(apply, metric, lift=lambda u: _with_zeros(u, 2, b))


@checked
class LADMM(_Linearized):
    """Two-block linearised ADMM, on (u, z, lam). The z-step uses the new u.

        u+   = prox_{tau g}( u - tau (grad f(u) + A^T (lam + beta (A u + z - b))) )
        z+   = prox_{h/beta}( b - A u+ - lam/beta )
        lam+ = lam + beta (A u+ + z+ - b)

    The arguments are those of `_Linearized`. (Lin, Liu & Su, NeurIPS 2011.)
    """

    averaged = False  # on arbitrary states it can cycle: (z, lam) -> (-lam / beta, 0) for h = 0
    converges_undamped = True

    def bind(self, problem: Problem) -> BoundOperator:
        coupling = coupling_of(problem, self)
        a, b = coupling.a, coupling.b
        beta, tau = self._step(problem, coupling)
        length = tau * self.weight()

        def apply(state: State, k: int) -> State:
            u, z, lam = state
            (gradient,) = problem.f.grad((u,))
            moved = u - tau * (gradient + a.adjoint(lam + beta * (a(u) + z - b)))
            (u,) = problem.g.prox((moved,), length)
            gap = a(u) - b
            (z,) = coupling.h.prox((-gap - lam / beta,), 1 / beta)
            return (u, z, lam + beta * (gap + z))

        metric = BlockDiagonal(
            (LinearizedBlock(tau, beta, a), ScaledIdentity(beta), ScaledIdentity(1 / beta))
        )
        return BoundOperator(apply, metric, lift=lambda u: _with_zeros(u, 3, b))


@checked
class PDHG(_Linearized):
    """Primal-dual hybrid gradient (Chambolle-Pock; Condat-Vu with f), on (u, v).

        u+ = prox_{tau g}( u - tau (grad f(u) + A^T v) )
        v+ = prox_{sigma H*}( v + sigma A (2 u+ - u) ),        H(w) = h(b - w), sigma = beta

    Moreau's identity gives the dual step from prox_h. The arguments are those of
    `_Linearized`. (Chambolle & Pock, JMIV 2011; Condat, JOTA 2013.)
    """

    def bind(self, problem: Problem) -> BoundOperator:
        coupling = coupling_of(problem, self)
        a, b = coupling.a, coupling.b
        sigma, tau = self._step(problem, coupling)
        length = tau * self.weight()

        def apply(state: State, k: int) -> State:
            u, v = state
            (gradient,) = problem.f.grad((u,))
            (new,) = problem.g.prox((u - tau * (gradient + a.adjoint(v)),), length)
            w = v + sigma * a(2 * new - u)
            (violation,) = coupling.h.prox((b - w / sigma,), 1 / sigma)
            return (new, w - sigma * (b - violation))

        return BoundOperator(apply, PrimalDual(tau, sigma, a), lift=lambda u: _with_zeros(u, 2, b))


def _with_zeros(u: State, blocks: int, like: Tensor) -> State:
    """u followed by zeros in the range of A, `blocks` blocks in all; a complete state itself."""
    return u if len(u) == blocks else (*u, *(torch.zeros_like(like) for _ in range(blocks - 1)))
