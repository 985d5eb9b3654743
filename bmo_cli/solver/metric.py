"""Metrics G > 0 on states: |u|_G^2 = <u, G u> (method: section 2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bmo_cli.linear.map import LinearMap
from bmo_cli.solver.state import State, inner, scale

_Map = Callable[[Tensor], Tensor]


class _OfEachMode:
    """What is computed once with its graph and once without: iterations are repeated in both."""

    def __init__(self) -> None:
        self._found: dict[bool, _Map] = {}

    def __call__(self, make: Callable[[], _Map]) -> _Map:
        mode = torch.is_grad_enabled()
        if mode not in self._found:
            self._found[mode] = make()
        return self._found[mode]


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
        """lambda_min(G), a scalar tensor."""

    @property
    @abstractmethod
    def is_diagonal(self) -> bool:
        """Whether the G-projection onto a box is the entrywise clamp."""

    def norm(self, u: State) -> Tensor:
        """|u|_G for each problem, shape (B,)."""
        return inner(u, self.apply(u)).clamp_min(0).sqrt()


@dataclass(frozen=True)
class ScaledIdentity(Metric):
    """G = weight * I, the metric I/gamma of proximal gradient and resolvent steps.

    Args:
        weight: positive scalar tensor.
    """

    weight: Tensor

    def apply(self, u: State) -> State:
        return scale(u, self.weight)

    def solve(self, u: State) -> State:
        return scale(u, 1 / self.weight)

    @property
    def smallest_eigenvalue(self) -> Tensor:
        return self.weight

    @property
    def is_diagonal(self) -> bool:
        return True


@dataclass(frozen=True)
class LinearizedBlock(Metric):
    """G = I/tau - beta A^T A on one block: what linearising beta/2 |A u - b|^2 leaves.

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
    def _inverses(self) -> _OfEachMode:
        return _OfEachMode()

    @property
    def smallest_eigenvalue(self) -> Tensor:
        return 1 / self.tau - self.beta * self.a.norm_squared

    @property
    def is_diagonal(self) -> bool:
        return False


@dataclass(frozen=True)
class BlockDiagonal(Metric):
    """One metric a block.

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
    def _inverses(self) -> _OfEachMode:
        return _OfEachMode()

    @property
    def smallest_eigenvalue(self) -> Tensor:
        """That of [[1/tau, -|A|], [-|A|, 1/sigma]]: the singular values of A decouple G."""
        p, q = 1 / self.tau, 1 / self.sigma
        return (p + q - ((p - q).square() + 4 * self.a.norm_squared).sqrt()) / 2

    @property
    def is_diagonal(self) -> bool:
        return False
