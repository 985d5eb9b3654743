"""Metrics G > 0 on states: |u|_G^2 = <u, G u> (method: section 2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from bmo_cli.solver.state import State, inner, scale


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
