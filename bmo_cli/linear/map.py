"""The interface of a linear map A between tensors of shape (B, ...)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor


class LinearMap(ABC):
    """A, its adjoint, and what solvers need of A^T A."""

    norm_squared: float | Tensor
    """|A|^2, the largest eigenvalue of A^T A over the whole batch: a number or a scalar tensor."""

    @abstractmethod
    def __call__(self, u: Tensor) -> Tensor:
        """A u."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y."""

    def normal(self, u: Tensor) -> Tensor:
        """A^T A u."""
        return self.adjoint(self(u))

    @abstractmethod
    def shifted_inverse(self, gamma: Tensor) -> Callable[[Tensor], Tensor]:
        """The map (I + gamma A^T A)^{-1} for a scalar tensor gamma > -1 / |A|^2."""
