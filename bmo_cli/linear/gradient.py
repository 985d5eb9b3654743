"""Forward differences with periodic boundary, diagonal in the Fourier domain.

Shape legend: B images, C channels, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from bmo_cli.linear.fourier import multiply_spectrum
from bmo_cli.linear.map import LinearMap


def laplacian_symbol(size: tuple[int, int]) -> Tensor:
    """Eigenvalues of A^T A, (H, W // 2 + 1) as `rfft2` lays them out, float64."""
    rows = 2 - 2 * torch.cos(2 * math.pi * torch.fft.fftfreq(size[0], dtype=torch.float64))
    columns = 2 - 2 * torch.cos(2 * math.pi * torch.fft.rfftfreq(size[1], dtype=torch.float64))
    return rows[:, None] + columns


class PeriodicGradient(LinearMap):
    """A u = (u(i + 1, j) - u(i, j), u(i, j + 1) - u(i, j)), indices modulo the image size.

    (B, C, H, W) -> (B, 2 C, H, W): the vertical differences of all channels, then the horizontal.

    Args:
        size: (H, W).
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    @cached_property
    def norm_squared(self) -> float:  # type: ignore[override]
        return self.computed_norm_squared()

    def computed_norm_squared(self) -> float:
        return float(laplacian_symbol(self.size).max())

    def __call__(self, u: Tensor) -> Tensor:
        return torch.cat([u.roll(-1, 2) - u, u.roll(-1, 3) - u], 1)

    def adjoint(self, y: Tensor) -> Tensor:
        vertical, horizontal = y.chunk(2, 1)
        return vertical.roll(1, 2) - vertical + horizontal.roll(1, 3) - horizontal

    def select(self, problems: Tensor) -> PeriodicGradient:
        return self

    def shifted_inverse(self, gamma: Tensor) -> Callable[[Tensor], Tensor]:
        def solve(v: Tensor) -> Tensor:
            inverse = 1 / (1 + gamma * laplacian_symbol(self.size).to(v))
            return multiply_spectrum(v, inverse)

        return solve
