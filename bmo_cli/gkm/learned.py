"""Operators whose matrices are learned: the LISTA family and learned linearised ADMM.

Each is a numerical operator of `proximal.py` or `augmented.py` in which a learned matrix replaces
one that is made from A. The learned parameter is the difference of the two, which starts at 0: an
untrained LISTA is exactly ISTA. `gkm.stages` gives every layer its own weights. Nothing is promised
about norms.

Shape legend: A of m rows and n columns. Thresholds are relative to those of the classical operator.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bmo_cli.config.checks import Count, OpenUnit, Positive, checked
from bmo_cli.errors import InputError
from bmo_cli.gkm.operator import (
    Bounded,
    BoundOperator,
    Exponential,
    NumericalOperator,
    coupling_of,
    least_squares_of,
)
from bmo_cli.linear.map import LinearMap
from bmo_cli.linear.matrix import Matrix
from bmo_cli.solver.functions import Zero
from bmo_cli.solver.metric import ScaledIdentity
from bmo_cli.solver.problem import Problem
from bmo_cli.solver.state import State


@checked
class LISTA(NumericalOperator):
    """u+ = prox( W_1 y + W_2 u ),  W_1 = A^T/L + V_1,  W_2 = I - A^T A/L + V_2.

    (Gregor & LeCun, ICML 2010.)

    Args:
        rows: m.
        columns: n.
        threshold: initial, in units of kappa / L.
    """

    uses_g = True

    def __init__(self, *, rows: Count, columns: Count, threshold: Positive = 1.0) -> None:
        super().__init__()
        self.encoder = nn.Parameter(torch.zeros(columns, rows))
        self.inhibition = nn.Parameter(torch.zeros(columns, columns))
        self.threshold = Exponential(threshold)

    def bind(self, problem: Problem) -> BoundOperator:
        f = least_squares_of(problem, self)
        _matrix(f.a, (len(self.inhibition), self.encoder.shape[1]))
        step = 1 / f.lipschitz
        length = self.threshold() * step
        back = f.y @ self.encoder.mT

        def apply(u: State, k: int) -> State:
            (gradient,) = f.grad(u)
            moved = u[0] - step * gradient + back + u[0] @ self.inhibition.mT
            return problem.g.prox((moved,), length)

        return BoundOperator(apply, ScaledIdentity(torch.ones_like(length) / step))


@checked
class LISTACP(NumericalOperator):
    """u+ = prox( u - W^T (A u - y) ),  W = A/L + V; the coupled weights of LISTA-CP.

    (Chen, Liu, Wang & Yin, NeurIPS 2018.)

    Args:
        rows: m.
        columns: n.
        threshold: initial, in units of kappa / L.
    """

    uses_g = True

    def __init__(self, *, rows: Count, columns: Count, threshold: Positive = 1.0) -> None:
        super().__init__()
        self.correction = nn.Parameter(torch.zeros(rows, columns))
        self.threshold = Exponential(threshold)

    def bind(self, problem: Problem) -> BoundOperator:
        f = least_squares_of(problem, self)
        a = _matrix(f.a, (self.correction.shape[1], len(self.correction)))
        step = 1 / f.lipschitz
        weight = a.a * step + self.correction
        length = self.threshold() * step

        def apply(u: State, k: int) -> State:
            return problem.g.prox((u[0] - (a(u[0]) - f.y) @ weight,), length)

        return BoundOperator(apply, ScaledIdentity(torch.ones_like(length) / step))


@checked
class ALISTA(NumericalOperator):
    """u+ = prox( u - gamma W^T (A u - y) ) with W computed from A; two numbers are learned.

    W minimises |W^T A|_F subject to w_i^T a_i = 1 for every column, whose solution is
    w_i = M a_i / (a_i^T M a_i) with M = (A A^T)^{-1}. (Liu, Chen, Wang & Yin, ICLR 2019.)

    Args:
        gamma: initial step, > 0.
        threshold: initial, in units of kappa / L.
    """

    uses_g = True

    def __init__(self, *, gamma: Positive = 1.0, threshold: Positive = 1.0) -> None:
        super().__init__()
        self.gamma = Exponential(gamma)
        self.threshold = Exponential(threshold)

    def bind(self, problem: Problem) -> BoundOperator:
        f = least_squares_of(problem, self)
        a = _matrix(f.a)
        if a.a.shape[0] > a.a.shape[1]:
            rows, columns = a.a.shape
            raise InputError(
                f"ALISTA needs a dictionary of full row rank, got {rows} x {columns}; use "
                "task.rows <= task.columns, or gkm=lista_cp"
            )
        weight, gamma = analytic_weight(a.a), self.gamma()
        length = self.threshold() / f.lipschitz

        def apply(u: State, k: int) -> State:
            return problem.g.prox((u[0] - gamma * ((a(u[0]) - f.y) @ weight),), length)

        return BoundOperator(apply, ScaledIdentity(torch.ones_like(length) * f.lipschitz))


@checked
class LearnedLADMM(NumericalOperator):
    """Linearised ADMM with learned W for tau A, and learned penalty, steps and thresholds.

        u+   = prox_{theta g}( u - W^T (lam + beta (A u + z - b)) ),   W = tau A + V
        z+   = prox_{eta h}( z - epsilon (lam + beta (A u+ + z - b)) )
        lam+ = lam + beta (A u+ + z+ - b)

    At first V = 0, theta = tau and eta = epsilon = 1/beta, which is `LADMM`. (Differentiable
    linearized ADMM: Xie, Wu, Liu, Zhong & Lin, ICML 2019; there beta and epsilon are vectors.)

    Args:
        rows: m.
        columns: n.
        beta: initial penalty, > 0.
        share: initial tau as a share of 1 / (beta |A|^2), in (0, 1).
    """

    uses_g = True

    def __init__(
        self, *, rows: Count, columns: Count, beta: Positive = 1.0, share: OpenUnit = 0.95
    ) -> None:
        super().__init__()
        self.correction = nn.Parameter(torch.zeros(rows, columns))
        self.beta = Exponential(beta)
        self.share = Bounded(share)
        self.u_threshold, self.z_threshold = Exponential(1.0), Exponential(1.0)
        self.z_step = Exponential(1.0)

    def bind(self, problem: Problem) -> BoundOperator:
        coupling = coupling_of(problem, self)
        if not isinstance(problem.f, Zero):
            raise InputError("LearnedLADMM solves min g(u) + h(z), but this problem has an f, too")
        a, b = _matrix(coupling.a, (self.correction.shape[1], len(self.correction))), coupling.b
        beta = self.beta()
        tau = self.share() / (beta * a.norm_squared)
        weight = tau * a.a + self.correction
        u_length = tau * self.u_threshold()
        z_step, z_length = self.z_step() / beta, self.z_threshold() / beta

        def apply(state: State, k: int) -> State:
            u, z, lam = state
            (u,) = problem.g.prox((u - (lam + beta * (a(u) + z - b)) @ weight,), u_length)
            gap = a(u) - b
            (z,) = coupling.h.prox((z - z_step * (lam + beta * (gap + z)),), z_length)
            return (u, z, lam + beta * (gap + z))

        def lift(u: State) -> State:
            return u if len(u) == 3 else (*u, torch.zeros_like(b), torch.zeros_like(b))

        return BoundOperator(apply, ScaledIdentity(torch.ones_like(beta)), lift=lift)


def analytic_weight(a: Tensor) -> Tensor:
    """W of ALISTA, (m, n), for A of full row rank, (m, n)."""
    whitened: Tensor = torch.linalg.solve(a @ a.mT, a)
    return whitened / (a * whitened).sum(0)


def _matrix(a: LinearMap, shape: tuple[int, int] | None = None) -> Matrix:
    """A as a matrix of the expected shape, given as (columns, rows)."""
    if not isinstance(a, Matrix):
        raise InputError(
            f"learned matrices need a dictionary A as a matrix, got {type(a).__name__}; use a "
            "task with a dictionary (task=sparse_coding) or gkm=pg"
        )
    if shape is not None and tuple(a.a.shape) != shape[::-1]:
        raise InputError(
            f"the dictionary is {a.a.shape[0]} x {a.a.shape[1]}, but gkm.operator has "
            f"rows={shape[1]} columns={shape[0]}"
        )
    return a
