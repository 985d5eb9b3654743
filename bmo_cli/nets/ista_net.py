"""ISTA-Net: a proximal map in a learned nonlinear transform (Zhang & Ghanem, CVPR 2018).

Shape legend: B images, C channels, H x W pixels, m features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bmo_cli.config.checks import Channels, Count, NonNegative, Positive, Seed, checked
from bmo_cli.nets.network import LayerBound, Network, NormBound, product
from bmo_cli.nets.operator_norms import norm_bound


@checked
class ISTANet(Network):
    """Ft(soft(F(x), theta)), optionally added to x. Nothing is promised about its norm.

    F(x) = B ReLU(A x) and Ft(z) = D ReLU(C z) with 3 x 3 convolutions A: C -> m, B: m -> m,
    C: m -> m, D: m -> C, zero padding and no bias; soft(z, t) = sign(z) max(|z| - t, 0), theta >= 0
    learned. Without `residual` it is the proximal step of ISTA-Net, Ft(soft(F(x))). With `residual`
    it is x + Ft(soft(F(x))) as in ISTA-Net+, but without the further convolutions before F and
    after Ft. Ft need not be a left inverse of F: the papers' symmetry loss |Ft(F(x)) - x|^2 belongs
    to training.

    Args:
        channels: of the images, 1 or 3.
        width: m (32 in the paper).
        theta: initial threshold of the features.
        residual: whether x is added.
        last_gain: factor on the initial D. With `residual`, a small one makes iterations start near
            the identity. Without, 1 keeps the scale of the features.
        seed: of the initial weights.
    """

    def __init__(
        self,
        *,
        channels: Channels = 1,
        width: Count = 32,
        theta: NonNegative = 0.01,
        residual: bool = True,
        last_gain: Positive = 0.01,
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.residual = residual
        self.theta = nn.Parameter(torch.tensor(float(theta)))
        generator = torch.Generator().manual_seed(seed)
        self.a = _weight(channels, width, generator)
        self.b = _weight(width, width, generator)
        self.c = _weight(width, width, generator)
        self.d = _weight(width, channels, generator, last_gain)

    def forward(self, x: Tensor) -> Tensor:
        """The map at x, shape (B, C, H, W)."""
        z = _conv(F.relu(_conv(x, self.a)), self.b)
        z = z - z.clamp(-self.theta, self.theta)  # soft thresholding
        y = _conv(F.relu(_conv(z, self.c)), self.d)
        return x + y if self.residual else y

    def bound(self) -> NormBound:
        """|D| |C| |B| |A|, and 1 more with `residual`: ReLU and soft thresholds are 1-Lipschitz."""
        layers = tuple(
            LayerBound(
                name,
                norm_bound(weight, grid=32),
                "norm of the convolution on images of every size",
            )
            for name, weight in (("a", self.a), ("b", self.b), ("c", self.c), ("d", self.d))
        )
        chain = product(layers)
        if not self.residual:
            return chain
        return NormBound(1 + chain.value, layers, "1 + product of the layers")

    @torch.no_grad()
    def project_(self) -> None:
        """Make the threshold non-negative."""
        self.theta.clamp_min_(0)


def _weight(n_in: int, n_out: int, generator: torch.Generator, gain: float = 1.0) -> nn.Parameter:
    weight = torch.empty(n_out, n_in, 3, 3)
    nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
    return nn.Parameter(gain * weight)


def _conv(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, weight, padding=1)
