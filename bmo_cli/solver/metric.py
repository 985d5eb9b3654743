"""Metrics G > 0 on states: `|u|_G^2 = <u, G u>` (docs/method.md, "Numerical operators").

The smallest eigenvalues are computed in float64. Near the limit of a step size they are small
differences of large numbers, and the aggregation step of bilevel meta optimisation (BMO) must stay
below them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bmo_cli.linear.map import LinearMap, in_double
from bmo_cli.solver.state import State, inner, scale

_Map = Callable[[Tensor], Tensor]
_ROUNDINGS = 4
"""number of rounding errors that a sum over a state accumulates, relative to its terms"""


class _CachePerGradMode:
    """Caches a map twice, with its graph and without: iterations are repeated in both modes."""

    def __init__(self) -> None:
        self._maps: dict[bool, _Map] = {}

    def __call__(self, make: Callable[[], _Map]) -> _Map:
        mode = torch.is_grad_enabled()
        if mode not in self._maps:
            self._maps[mode] = make()
        return self._maps[mode]


class Metric(ABC):
    """A symmetric positive definite linear map on states."""

    @abstractmethod
    def apply(self, u: State) -> State:
        """G u."""

    @abstractmethod
    def solve(self, u: State) -> State:
        """G^{-1} u."""

    @property
    @abstractmethod
    def smallest_eigenvalue(self) -> Tensor:
        """lambda_min(G), a scalar tensor; not positive if a step size violates its condition."""

    @property
    def smallest_eigenvalues(self) -> Tensor:
        """lambda_min(G) of every problem, in a shape that broadcasts to a block (B, ...)."""
        return self.smallest_eigenvalue

    @property
    @abstractmethod
    def is_diagonal(self) -> bool:
        """Whether the G-projection onto a box is the entrywise clamp."""

    def norm(self, u: State) -> Tensor:
        """|u|_G for each problem, shape (B,); nan where `<u, G u> < 0`: G is no metric then.

        Where G is nearly singular, rounding decides the sign of `<u, G u>`. A value within the
        rounding error of |u| |G u| is replaced by that error, so that no norm is rounded to 0.
        """
        weighted = self.apply(u)
        square, rounding = inner(u, weighted), rounding_of(u, weighted)
        least = torch.where(square < -rounding, torch.nan, rounding)
        return torch.maximum(square, least).sqrt()


def rounding_of(u: State, v: State) -> Tensor:
    """How far rounding may move `<u, v>`, as a multiple of |u| |v|, shape (B,)."""
    kind = torch.finfo(u[0].dtype)
    return _ROUNDINGS * kind.eps * (inner(u, u) * inner(v, v)).sqrt()


@dataclass(frozen=True)
class ScaledIdentity(Metric):
    """G = weight * I, the metric I/gamma of proximal gradient and resolvent steps.

    Args:
        weight: positive: a number, a scalar tensor, or one for each problem, (B, 1, ...).
    """

    weight: Tensor | float

    def apply(self, u: State) -> State:
        return scale(u, self.weight)

    def solve(self, u: State) -> State:
        return scale(u, 1 / self.weight)

    def norm(self, u: State) -> Tensor:
        return inner(u, self.apply(u)).sqrt()

    @property
    def smallest_eigenvalue(self) -> Tensor:
        return torch.as_tensor(self.weight).amin()

    @property
    def smallest_eigenvalues(self) -> Tensor:
        return torch.as_tensor(self.weight)

    @property
    def is_diagonal(self) -> bool:
        return True


@dataclass(frozen=True)
class LinearizedBlock(Metric):
    """G = I/tau - beta A^T A on one block, from linearising beta/2 |A u - b|^2.

    Args:
        tau: step, scalar tensor with tau beta |A|^2 < 1.
        beta: penalty, scalar tensor > 0.
        a: A.
    """

    tau: Tensor
    beta: Tensor
    a: LinearMap

    def apply(self, u: State) -> State:
        return (u[0] / self.tau - self.beta * self.a.normal(u[0]),)

    def solve(self, u: State) -> State:
        return (self.tau * self._inverse(u[0]),)

    def _inverse(self, v: Tensor) -> Tensor:
        return self._inverses(lambda: self.a.shifted_inverse(-self.tau * self.beta))(v)

    @cached_property
    def _inverses(self) -> _CachePerGradMode:
        return _CachePerGradMode()

    @property
    def smallest_eigenvalue(self) -> Tensor:
        lowest: Tensor = 1 / in_double(self.tau) - in_double(self.beta) * self.a.norm_squared
        return lowest.to(self.tau)

    @property
    def is_diagonal(self) -> bool:
        return False


@dataclass(frozen=True)
class BlockDiagonal(Metric):
    """One metric for each block.

    Args:
        blocks: metrics of states of one block.
    """

    blocks: tuple[Metric, ...]

    def apply(self, u: State) -> State:
        return tuple(g.apply((a,))[0] for g, a in zip(self.blocks, u, strict=True))

    def solve(self, u: State) -> State:
        return tuple(g.solve((a,))[0] for g, a in zip(self.blocks, u, strict=True))

    @property
    def smallest_eigenvalue(self) -> Tensor:
        return torch.stack([g.smallest_eigenvalue for g in self.blocks]).amin()

    @property
    def is_diagonal(self) -> bool:
        return all(g.is_diagonal for g in self.blocks)


@dataclass(frozen=True)
class PrimalDual(Metric):
    """G = [[I/tau, -A^T], [-A, I/sigma]], positive definite for tau sigma |A|^2 < 1.

    Args:
        tau: primal step, scalar tensor.
        sigma: dual step, scalar tensor.
        a: A.
    """

    tau: Tensor
    sigma: Tensor
    a: LinearMap

    def apply(self, u: State) -> State:
        x, v = u
        return (x / self.tau - self.a.adjoint(v), v / self.sigma - self.a(x))

    def solve(self, u: State) -> State:
        """By the Schur complement I/tau - sigma A^T A of the dual block."""
        p, q = u
        x = self.tau * self._inverse(p + self.sigma * self.a.adjoint(q))
        return (x, self.sigma * (q + self.a(x)))

    def _inverse(self, v: Tensor) -> Tensor:
        return self._inverses(lambda: self.a.shifted_inverse(-self.tau * self.sigma))(v)

    @cached_property
    def _inverses(self) -> _CachePerGradMode:
        return _CachePerGradMode()

    @property
    def smallest_eigenvalue(self) -> Tensor:
        """That of [[p, -|A|], [-|A|, q]], p = 1/tau, q = 1/sigma: A's singular values decouple G.

        It is the product of both eigenvalues, p q - |A|^2, divided by the larger one. A difference
        of the two would cancel where p and q differ much.
        """
        p, q, norm = 1 / in_double(self.tau), 1 / in_double(self.sigma), self.a.norm_squared
        largest = (p + q + ((p - q).square() + 4 * norm).sqrt()) / 2
        lowest: Tensor = (p * q - norm) / largest
        return lowest.to(self.tau)

    @property
    def is_diagonal(self) -> bool:
        return False
