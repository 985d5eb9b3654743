"""Gradient-step denoiser: x - grad g(x) for a learned potential g.

Shape legend: B images, C channels, H x W pixels.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bmo_cli.config.checks import Channels, Count, Positive, Repeats, Seed, checked
from bmo_cli.nets.network import Network


@checked
class GradientStep(Network):
    """x - grad g(x) with g(x) = 1/2 |x - N(x)|^2, N a chain of 3 x 3 convolutions and ELU.

    grad g(x) = (I - J_N(x)^T) (x - N(x)), so that the Jacobian of the network is symmetric: it is
    a gradient step on a potential. The potential may be nonconvex, and the Lipschitz constant of
    its gradient may exceed 2. Nothing is promised about its norm. (Hurault, Leclaire & Papadakis,
    "Gradient step denoiser for convergent plug-and-play", ICLR 2022.)

    Args:
        channels: of the images, 1 or 3.
        depth: number of convolutions.
        width: features a layer.
        last_gain: factor on the last layer's initial weights. N starts near I, and g near 0.
        seed: of the initial weights.
    """

    guarantee = "a gradient step on a potential (symmetric Jacobian); its norm is not bounded"

    def __init__(
        self,
        *,
        channels: Channels = 1,
        depth: Repeats = 4,
        width: Count = 32,
        last_gain: Positive = 0.1,
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        self.channels = channels
        generator = torch.Generator().manual_seed(seed)
        sizes = [channels, *[width] * (depth - 1), channels]
        convs = [nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in itertools.pairwise(sizes)]
        for conv in convs:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu", generator=generator)
        convs[-1].weight.data.mul_(last_gain)
        self.convs = nn.ModuleList(convs)

    def residual(self, x: Tensor) -> Tensor:
        """x - N(x)."""
        *features, last = self.convs
        z = x
        for conv in features:
            z = F.elu(conv(z))
        result: Tensor = last(z)
        return result

    def potential(self, x: Tensor) -> Tensor:
        """g of each image, shape (B,)."""
        return 0.5 * self.residual(x).square().flatten(1).sum(1)

    def forward(self, x: Tensor) -> Tensor:
        """The map at x, shape (B, C, H, W)."""
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            point = x if x.requires_grad else x.detach().requires_grad_()
            value = self.potential(point).sum()
            (gradient,) = torch.autograd.grad(value, point, create_graph=keep)
        return x - gradient
