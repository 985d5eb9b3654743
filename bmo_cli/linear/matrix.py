"""A matrix as a linear map of vectors.

Shape legend: B problems, m rows, n columns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from bmo_cli.errors import InputError
from bmo_cli.linear.map import LinearMap, in_double


class Matrix(LinearMap):
    """u -> A u, (B, n) -> (B, m).

    Args:
        a: A, (m, n), finite; differentiable where it is learned.
    """

    def __init__(self, a: Tensor) -> None:
        if a.dim() != 2 or not torch.isfinite(a).all():
            raise InputError(f"a linear map needs a finite matrix, got shape {tuple(a.shape)}")
        self.a = a

    @cached_property
    def norm_squared(self) -> Tensor:  # type: ignore[override]
        norm: Tensor = torch.linalg.matrix_norm(in_double(self.a), 2)
        return norm.square()

    def computed_norm_squared(self) -> float:
        norm = torch.linalg.matrix_norm(self.a.detach().to("cpu", torch.float64), 2)
        return float(norm.square())

    def __call__(self, u: Tensor) -> Tensor:
        return u @ self.a.mT

    def adjoint(self, y: Tensor) -> Tensor:
        return y @ self.a

    def take(self, problems: Tensor) -> Matrix:
        return self

    def shifted_inverse(self, gamma: Tensor) -> Callable[[Tensor], Tensor]:
        rows, columns = self.a.shape
        identity = torch.eye(min(rows, columns), dtype=self.a.dtype, device=self.a.device)
        if rows >= columns:
            inverse = torch.linalg.inv(identity + gamma * (self.a.mT @ self.a))
            return lambda v: v @ inverse.mT
        # On the null space of A the inverse is the identity, exactly so for large gamma as well.
        small = gamma * torch.linalg.inv(identity + gamma * (self.a @ self.a.mT))
        return lambda v: v - ((v @ self.a.mT) @ small.mT) @ self.a
