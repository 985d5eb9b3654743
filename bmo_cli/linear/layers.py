"""Linear maps of images that are stacked along the channels as layers, y = b + r.

Shape legend: B images, C channels of a layer, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bmo_cli.linear.fourier import multiply_spectrum
from bmo_cli.linear.gradient import PeriodicGradient, laplacian_symbol
from bmo_cli.linear.map import LinearMap


class SumOfLayers(LinearMap):
    """A u = u_1 + ... + u_n, (B, n C, H, W) -> (B, C, H, W).

    Args:
        layers: n.
    """

    def __init__(self, layers: int) -> None:
        self.layers = layers
        self.norm_squared = self.computed_norm_squared()

    def computed_norm_squared(self) -> float:
        return float(self.layers)  # A A^T = n I

    def __call__(self, u: Tensor) -> Tensor:
        return torch.stack(u.chunk(self.layers, 1)).sum(0)

    def adjoint(self, y: Tensor) -> Tensor:
        return y.repeat(1, self.layers, 1, 1)

    def select(self, problems: Tensor) -> SumOfLayers:
        return self

    def shifted_inverse(self, gamma: Tensor) -> Callable[[Tensor], Tensor]:
        # A A^T = n I: the inverse is I - gamma / (1 + n gamma) A^T A (Woodbury).
        factor = gamma / (1 + self.layers * gamma)
        return lambda v: v - factor * self.normal(v)


class StreakGradient(LinearMap):
    """A (b, r) = (grad b, d r / d vertical): small for a clean b and upright streaks r.

    (B, 2 C, H, W) -> (B, 3 C, H, W): vertical and horizontal forward differences of b, then the
    vertical ones of r; periodic.

    Args:
        size: (H, W).
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self._gradient = PeriodicGradient(size)
        self.norm_squared = self.computed_norm_squared()

    def computed_norm_squared(self) -> float:
        return self._gradient.computed_norm_squared()  # the block of r is a part of the block of b

    def __call__(self, u: Tensor) -> Tensor:
        b, r = u.chunk(2, 1)
        return torch.cat([self._gradient(b), r.roll(-1, 2) - r], 1)

    def adjoint(self, y: Tensor) -> Tensor:
        vertical, horizontal, streaks = y.chunk(3, 1)
        b = self._gradient.adjoint(torch.cat([vertical, horizontal], 1))
        return torch.cat([b, streaks.roll(1, 2) - streaks], 1)

    def select(self, problems: Tensor) -> StreakGradient:
        return self

    def shifted_inverse(self, gamma: Tensor) -> Callable[[Tensor], Tensor]:
        both = laplacian_symbol(self.size)
        vertical = both - both[:1]  # its first row holds the horizontal part alone

        def solve(v: Tensor) -> Tensor:
            symbols = zip(v.chunk(2, 1), (both, vertical), strict=True)
            return torch.cat(
                [multiply_spectrum(u, 1 / (1 + gamma * s.to(v))) for u, s in symbols], 1
            )

        return solve
