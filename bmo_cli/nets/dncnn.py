"""DnCNN: a plain residual denoiser (Zhang et al., IEEE TIP 2017), without batch norm.

Shape legend: B images, C channels, H x W pixels.
"""

from __future__ import annotations

import itertools
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bmo_cli.config.checks import Channels, Count, Positive, checked
from bmo_cli.nets.network import Network


@checked
class DnCNN(Network):
    """x - N(x) with N a chain of 3 x 3 convolutions and ReLU. Nothing is promised about its norm.

    Args:
        channels: of the images, 1 or 3.
        depth: number of convolutions (17 in the paper).
        width: features a layer (64 in the paper).
        padding: at the image border.
        last_gain: factor on the last layer's initial weights; small, so that iterations start near
            the identity.
        seed: of the initial weights.
    """

    def __init__(
        self,
        *,
        channels: Channels = 1,
        depth: Count = 5,
        width: Count = 32,
        padding: Literal["zeros", "circular"] = "zeros",
        last_gain: Positive = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.channels = channels
        sizes = [channels, *[width] * (depth - 1), channels]
        layers = [
            nn.Conv2d(a, b, 3, padding=1, padding_mode=padding)
            for a, b in itertools.pairwise(sizes)
        ]
        generator = torch.Generator().manual_seed(seed)
        for conv in layers:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu", generator=generator)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
            conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)
        layers[-1].weight.data.mul_(last_gain)
        self.convs = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Denoise x, shape (B, C, H, W)."""
        *features, last = self.convs
        z = x
        for conv in features:
            z = F.relu(conv(z), inplace=True)
        residual: Tensor = last(z)
        return x - residual
