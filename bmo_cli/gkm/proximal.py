"""Operators for min f(u) + g(u): proximal gradient, resolvent, Douglas-Rachford."""

from __future__ import annotations

import torch
from torch import Tensor

from bmo_cli.config.checks import NonNegative, OpenZeroTwo, Positive, checked
from bmo_cli.errors import InputError
from bmo_cli.gkm.operator import (
    Bounded,
    BoundOperator,
    Exponential,
    NumericalOperator,
    curvature,
    lipschitz_of,
    share_of_positive,
)
from bmo_cli.solver.metric import ScaledIdentity
from bmo_cli.solver.problem import LEAST_NOISE, Problem
from bmo_cli.solver.state import State

_UNIT_NOISE = 2.55 / 255


@checked
class ProximalGradient(NumericalOperator):
    """prox_{gamma g}(u - gamma grad f(u)); averaged in I/gamma for 0 < gamma < 2/L_f.

    Args:
        gamma: step size in units of 1/L_f, in (0, 2).
        weight: factor on g, > 0: with g = kappa |u|_1 the threshold is gamma weight kappa.
        learn: whether gamma is a hyper-parameter, kept in (0, 2).
        learn_weight: whether the weight is a hyper-parameter, kept positive.
    """

    condition = "0 < gamma < 2/L_f"
    nonexpansive = True
    averaged = True
    uses_g = True
    keeps_nonexpansive = True

    def __init__(
        self,
        *,
        gamma: OpenZeroTwo = 1.0,
        weight: Positive = 1.0,
        learn: bool = True,
        learn_weight: bool = False,
    ) -> None:
        super().__init__()
        self.gamma = Bounded(gamma, high=2.0, learn=learn)
        self.weight = Exponential(weight, learn=learn_weight)

    def bind(self, problem: Problem) -> BoundOperator:
        gamma = self.gamma() / lipschitz_of(problem, self)
        length = gamma * self.weight()

        def apply(u: State, k: int) -> State:
            gradient = problem.f.grad(u)
            moved = tuple(a - gamma * b for a, b in zip(u, gradient, strict=True))
            return problem.g.prox(moved, length)

        return BoundOperator(apply, ScaledIdentity(1 / gamma))

    def step_share(self, problem: Problem) -> float:
        gamma: Tensor = self.gamma() / lipschitz_of(problem, self)
        return float(gamma.item()) * curvature(problem.f) / 2 + share_of_positive(gamma)


@checked
class Resolvent(NumericalOperator):
    """prox_{gamma f}(u), the proximal map of the data term; firmly nonexpansive in I/gamma.

    The step at noise sigma is gamma (sigma_1 / sigma)^p / L_f with sigma_1 = 2.55/255. With p = 2
    and f = 1/2 |A u - y|^2 it is a fixed step on the negative log-likelihood f / sigma^2.

    Args:
        gamma: step size in units of 1/L_f, > 0; with p > 0 at noise sigma_1.
        noise_power: p, >= 0; 0: the step does not depend on the noise. Noise below half a grey
            level counts as that.
        learn: whether gamma is a hyper-parameter, kept positive.
    """

    condition = "gamma > 0"
    nonexpansive = True
    averaged = True
    keeps_nonexpansive = True

    def __init__(
        self, *, gamma: Positive = 50.0, noise_power: NonNegative = 0.0, learn: bool = True
    ) -> None:
        super().__init__()
        self.gamma, self.noise_power = Exponential(gamma, learn=learn), noise_power

    def bind(self, problem: Problem) -> BoundOperator:
        gamma = self._step(problem)
        resolvent = problem.f.resolvent(gamma)
        return BoundOperator(lambda u, k: resolvent(u), ScaledIdentity(1 / gamma))

    def step_share(self, problem: Problem) -> float:
        return share_of_positive(self._step(problem))

    def _step(self, problem: Problem) -> Tensor:
        """gamma / L_f, a scalar, or (B, 1, 1, 1) where it depends on the noise.

        Raises:
            InputError: it depends on the noise, which the problem does not know.
        """
        gamma: Tensor = self.gamma() / lipschitz_of(problem, self)
        if self.noise_power == 0:
            return gamma
        if problem.noise is None:
            raise InputError(
                "gkm.operator.noise_power chooses the step by the noise, which this task does not "
                "state; use gkm.operator.noise_power=0"
            )
        level = problem.noise.to(gamma).clamp_min(LEAST_NOISE)[:, None, None, None]
        return gamma * (_UNIT_NOISE / level) ** self.noise_power


@checked
class DouglasRachford(NumericalOperator):
    """s + prox_{gamma g}(2 x - s) - x with x = prox_{gamma f}(s); firmly nonexpansive in I.

    The iterate is s, and the estimate of u is x. (Lions & Mercier, SIAM J. Numer. Anal. 1979;
    Eckstein & Bertsekas, Math. Programming 1992.)

    Args:
        gamma: step size in units of 1/L_f, > 0.
        weight: factor on g, > 0.
        learn: whether gamma is a hyper-parameter, kept positive.
        learn_weight: whether the weight is a hyper-parameter, kept positive.
    """

    condition = "gamma > 0"
    nonexpansive = True
    averaged = True
    uses_g = True
    keeps_nonexpansive = False  # the reflection 2 N - I of a nonexpansive N may be expansive

    def __init__(
        self,
        *,
        gamma: Positive = 1.0,
        weight: Positive = 1.0,
        learn: bool = True,
        learn_weight: bool = False,
    ) -> None:
        super().__init__()
        self.gamma = Exponential(gamma, learn=learn)
        self.weight = Exponential(weight, learn=learn_weight)

    def bind(self, problem: Problem) -> BoundOperator:
        gamma = self.gamma() / lipschitz_of(problem, self)
        length = gamma * self.weight()
        resolvent = problem.f.resolvent(gamma)

        def apply(s: State, k: int) -> State:
            x = resolvent(s)
            reflected = tuple(2 * a - b for a, b in zip(x, s, strict=True))
            z = problem.g.prox(reflected, length)
            return tuple(b + c - a for a, b, c in zip(x, s, z, strict=True))

        unit: Tensor = torch.ones_like(gamma.detach())
        return BoundOperator(apply, ScaledIdentity(unit), readout=resolvent)

    def step_share(self, problem: Problem) -> float:
        return share_of_positive(self.gamma() / lipschitz_of(problem, self))
