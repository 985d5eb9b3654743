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

    def select(self, problems: Tensor) -> Matrix:
        return self

    def shifted_inverse(self, gamma: Tensor) -> Callable[[Tensor], Tensor]:
        # In float64, because the float32 inverse for large gamma is not nonexpansive.
        (rows, columns), a, kind = self.a.shape, in_double(self.a), self.a.dtype
        identity, gamma = torch.eye(min(rows, columns), dtype=a.dtype, device=a.device), gamma.to(a)
        if rows >= columns:
            inverse = torch.linalg.inv(identity + gamma * (a.mT @ a)).to(kind)
            return lambda v: v @ inverse.mT
        # I - gamma B^T B with B = L^{-1} A, L L^T = I + gamma A A^T. On the null space of A it is
        # exactly the identity. Rounding errors are not amplified, even for large gamma.
        factor, _ = torch.linalg.cholesky_ex(identity + gamma * (a @ a.mT))
        b = gamma.abs().sqrt() * torch.linalg.solve_triangular(factor, a, upper=False)
        left, right = (gamma.sign() * b).to(kind), b.to(kind)
        return lambda v: v - (v @ left.mT) @ right
