"""Networks that are nonexpansive by construction (method.md, section 2).

Shape legend: B images, C channels, H x W pixels, L layers of m filters of k x k.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bmo_cli.config.checks import Channels, Count, Positive, checked
from bmo_cli.errors import InputError
from bmo_cli.nets.conv_norm import norm_squared_bound
from bmo_cli.nets.network import Network


@checked
class ConvexPotential(Network):
    """Composition of L steps x - rho W^T s(W x) / |W|^2, 0 < rho < 2.

    s(z) = clip(z, -t, t) is monotone and 1-Lipschitz, so that W^T s(W x) is the gradient of a
    convex function (a Huber norm of the filtered image) with constant |W|^2, and the step is
    averaged for every weight, threshold and rho. The filters have zero mean: constant images
    are fixed points. |W| is bounded rigorously for images of every size (`nets.conv_norm`).
    Borders are periodic. (Meunier et al., "A dynamical system perspective for Lipschitz neural
    networks", ICML 2022, with ReLU instead of the clipping.)

    Args:
        channels: of the images, 1 or 3.
        depth: L, number of steps.
        width: m, filters a step.
        size: k, odd. Images have at least k // 2 pixels a side.
        threshold: initial t, in units of the image range.
        seed: of the initial filters.
    """

    nonexpansive = True
    averaged = True

    def __init__(
        self,
        *,
        channels: Channels = 1,
        depth: Count = 4,
        width: Count = 32,
        size: Literal[3, 5, 7, 9, 11, 13, 15] = 7,
        threshold: Positive = 0.02,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.channels = channels
        generator = torch.Generator().manual_seed(seed)
        shape = (depth, width, channels, size, size)
        self.filters = nn.Parameter(torch.randn(shape, generator=generator) / size)
        self.thresholds = nn.Parameter(torch.full((depth, width, 1, 1), threshold))
        self.relaxation = nn.Parameter(torch.zeros(depth))

    def bind(self) -> Callable[[Tensor], Tensor]:
        """The map with every |W| computed once."""
        layers = []
        for filters, t, theta in zip(self.filters, self.thresholds, self.relaxation, strict=True):
            centred = filters - filters.mean((2, 3), keepdim=True)
            unit = centred / norm_squared_bound(centred).clamp_min(1e-30).sqrt()
            layers.append((unit, t, 2 * torch.sigmoid(theta)))

        def apply(x: Tensor) -> Tensor:
            if min(x.shape[2:]) < self.filters.shape[-1] // 2:
                raise InputError(
                    f"an image of {x.shape[2]} x {x.shape[3]} is too small for filters of "
                    f"{self.filters.shape[-1]} x {self.filters.shape[-1]} (net.size)"
                )
            for unit, t, rho in layers:
                response = _analyse(x, unit)
                x = x - rho * _synthesise(response.clamp(-t, t), unit)
            return x

        return apply

    def forward(self, x: Tensor) -> Tensor:
        """The map at x, shape (B, C, H, W)."""
        return self.bind()(x)

    @torch.no_grad()
    def project_(self) -> None:
        """Thresholds are non-negative."""
        self.thresholds.clamp_min_(0)


def _analyse(x: Tensor, filters: Tensor) -> Tensor:
    """W x: periodic correlation with (m, C, k, k) filters; (B, C, H, W) -> (B, m, H, W)."""
    p = filters.shape[-1] // 2
    return F.conv2d(F.pad(x, (p, p, p, p), mode="circular"), filters)


def _synthesise(z: Tensor, filters: Tensor) -> Tensor:
    """W^T z, the adjoint of `_analyse`: what falls beyond a border comes back at the other."""
    p = filters.shape[-1] // 2
    full = F.conv_transpose2d(z, filters)
    for dim in (2, 3):
        size = full.shape[dim] - 2 * p
        body = full.narrow(dim, p, size).clone()
        body.narrow(dim, size - p, p).add_(full.narrow(dim, 0, p))
        body.narrow(dim, 0, p).add_(full.narrow(dim, size + p, p))
        full = body
    return full
