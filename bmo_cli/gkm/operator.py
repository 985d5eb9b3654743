"""Numerical operators: what a new one implements, and the two of the proximal family.

| operator | map | metric | condition |
|---|---|---|---|
| `ProximalGradient` | prox_{gamma g}(u - gamma grad f(u)) | I/gamma | 0 < gamma < 2/L_f |
| `Resolvent` | prox_{gamma f}(u) | I/gamma | gamma > 0 |

(method.md, section 2; Bauschke & Combettes, Convex Analysis and Monotone Operator Theory, 2017.)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from bmo_cli.config.checks import OpenZeroTwo, Positive, checked
from bmo_cli.solver.metric import Metric, ScaledIdentity
from bmo_cli.solver.problem import Problem
from bmo_cli.solver.state import State


@dataclass(frozen=True)
class BoundOperator:
    """A numerical operator at one problem and the present hyper-parameters."""

    apply: Callable[[State, int], State]
    metric: Metric


class NumericalOperator(nn.Module, ABC):
    """D_num. Its parameters are the numerical hyper-parameters (step sizes, thresholds, ...).

    A subclass keeps its parameters inside the step-size condition whatever value they are given,
    by a reparametrisation, and says in `nonexpansive` whether it is so in its metric.
    """

    nonexpansive: ClassVar[bool] = True

    @abstractmethod
    def bind(self, problem: Problem) -> BoundOperator:
        """Compute once what all iterations at `problem` share."""


@checked
class ProximalGradient(NumericalOperator):
    """Gradient step on f, then the proximal map of g; averaged in I/gamma.

    Args:
        gamma: step size in units of 1/L_f, in (0, 2).
        learn: whether gamma is a hyper-parameter, kept in (0, 2) as 2 sigmoid(theta).
    """

    def __init__(self, *, gamma: OpenZeroTwo = 1.0, learn: bool = True) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(math.log(gamma / (2 - gamma))), requires_grad=learn)

    @property
    def gamma(self) -> Tensor:
        """The step size in units of 1/L_f, a scalar."""
        return 2 * torch.sigmoid(self.theta)

    def bind(self, problem: Problem) -> BoundOperator:
        gamma = self.gamma / problem.f.lipschitz

        def apply(u: State, k: int) -> State:
            gradient = problem.f.grad(u)
            moved = tuple(a - gamma * b for a, b in zip(u, gradient, strict=True))
            return problem.g.prox(moved, gamma)

        return BoundOperator(apply, ScaledIdentity(1 / gamma))


@checked
class Resolvent(NumericalOperator):
    """The proximal map of the data term; firmly nonexpansive in I/gamma.

    Args:
        gamma: step size in units of 1/L_f, > 0.
        learn: whether gamma is a hyper-parameter, kept positive as exp(theta).
    """

    def __init__(self, *, gamma: Positive = 50.0, learn: bool = True) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(math.log(gamma)), requires_grad=learn)

    @property
    def gamma(self) -> Tensor:
        """The step size in units of 1/L_f, a scalar."""
        return self.theta.exp()

    def bind(self, problem: Problem) -> BoundOperator:
        gamma = self.gamma / problem.f.lipschitz
        resolvent = problem.f.resolvent(gamma)
        return BoundOperator(lambda u, k: resolvent(u), ScaledIdentity(1 / gamma))
