"""What a solver may know of a problem: min_u f(u) + g(u). Never the ground truth.

Shape legend: see `solver.state`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bmo_cli.errors import InputError
from bmo_cli.linear.map import LinearMap
from bmo_cli.solver.state import State

StateMap = Callable[[State], State]


class Smooth(ABC):
    """A convex differentiable f with a Lipschitz gradient."""

    lipschitz: float | Tensor
    """L_f, the Lipschitz constant of the gradient: a number or a scalar tensor."""

    @abstractmethod
    def grad(self, u: State) -> State:
        """Gradient of f at u."""

    def resolvent(self, gamma: Tensor) -> StateMap:
        """The map prox_{gamma f}; what depends on gamma alone is computed once, here.

        Raises:
            InputError: f has no resolvent in closed form.
        """
        raise InputError(
            f"{type(self).__name__} has no resolvent in closed form; use gkm=pg instead of gkm=prox"
        )


class Proximable(ABC):
    """A convex g whose proximal map is computable."""

    @abstractmethod
    def prox(self, u: State, gamma: Tensor) -> State:
        """argmin_v g(v) + |v - u|^2 / (2 gamma)."""


class Zero(Proximable):
    """g = 0."""

    def prox(self, u: State, gamma: Tensor) -> State:
        return u


class LeastSquares(Smooth):
    """f(u) = 1/2 |A u - y|^2 on a state of one block.

    Args:
        a: linear map.
        y: observation, shape (B, ...) as `a` returns it.
    """

    def __init__(self, a: LinearMap, y: Tensor) -> None:
        self.a, self.y = a, y
        self.lipschitz = a.norm_squared
        self._back = a.adjoint(y)

    def grad(self, u: State) -> State:
        """A^T (A u - y)."""
        return (self.a.normal(u[0]) - self._back,)

    def resolvent(self, gamma: Tensor) -> StateMap:
        """v -> (I + gamma A^T A)^{-1} (v + gamma A^T y)."""
        solve = self.a.shifted_inverse(gamma)
        shift = gamma * self._back
        return lambda v: (solve(v[0] + shift),)


@dataclass(frozen=True)
class Problem:
    """min_u f(u) + g(u), with what else is known about the observation.

    Attributes:
        f: smooth part, usually the data term.
        g: proximable part.
        noise: standard deviation of the noise in the observation, shape (B,), when it is known.
    """

    f: Smooth
    g: Proximable = field(default_factory=Zero)
    noise: Tensor | None = None


class Loss(ABC):
    """l(u): what hyper-training minimises. It may hold ground truth, so evaluation never has it."""

    lipschitz: float = 1.0
    """L_l, the Lipschitz constant of grad_u l."""
    size: int = 1
    """entries of a problem's state; values are reported per entry, l itself is not divided"""

    @abstractmethod
    def value(self, u: State) -> Tensor:
        """l(u) for each problem, shape (B,)."""

    def grad(self, u: State) -> State:
        """grad_u l(u), differentiable."""
        with torch.enable_grad():
            leaves = tuple(a if a.requires_grad else a.detach().requires_grad_() for a in u)
            value = self.value(leaves).sum()
            return torch.autograd.grad(
                value, leaves, create_graph=True, allow_unused=True, materialize_grads=True
            )


class SquaredError(Loss):
    """l(u) = 1/2 |u - x|^2 on a state of one block; unnormalised, so that L_l = 1.

    Args:
        target: x, shape (B, ...).
    """

    def __init__(self, target: Tensor) -> None:
        self.target = target
        self.size = target[0].numel()

    def value(self, u: State) -> Tensor:
        return 0.5 * (u[0] - self.target).square().flatten(1).sum(1)

    def grad(self, u: State) -> State:
        return (u[0] - self.target,)


@dataclass(frozen=True)
class Sample:
    """A batch to learn from. `loss` holds the ground truth and exists in training alone.

    Attributes:
        problem: what the scheme may see.
        initial: u^0.
        loss: l.
        seed: of whatever the hyper-optimiser draws at random for this batch.
    """

    problem: Problem
    initial: State
    loss: Loss
    seed: int = 0
