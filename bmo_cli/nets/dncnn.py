"""DnCNN: a plain residual denoiser (Zhang et al., IEEE TIP 2017), without batch norm.

Shape legend: B images, C channels, H x W pixels.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bmo_cli.config.checks import Channels, Count, Positive, Repeats, Seed, checked
from bmo_cli.errors import InputError
from bmo_cli.nets.convolution import bound_convolution
from bmo_cli.nets.network import LayerBound, Network, NormBound, product
from bmo_cli.nets.operator_norms import norm_bound
from bmo_cli.nets.weights import copy_weights, read_weights


@checked
class DnCNN(Network):
    """x - N(x) with N a chain of 3 x 3 convolutions and ReLU. Nothing is promised about its norm.

    Args:
        channels: of the images, 1 or 3.
        depth: number of convolutions (17 in the paper).
        width: features a layer (64 in the paper).
        padding: at the image border.
        last_gain: factor on the last layer's initial weights. It is small, so that iterations start
            near the identity.
        bias: whether layers have one. Without, the network scales with its argument (Mohan et al.,
            "Robust and interpretable blind image denoising via bias-free CNNs", ICLR 2020).
        weights: file of trained weights, or None for initial ones. The numbers in their names order
            its layers, so that `convs.3.weight` and the `model.6.weight` of the published files
            (github.com/cszn/KAIR) are both the fourth convolution.
        seed: of the initial weights.
    """

    def __init__(
        self,
        *,
        channels: Channels = 1,
        depth: Repeats = 5,
        width: Count = 32,
        padding: Literal["zeros", "circular"] = "zeros",
        last_gain: Positive = 0.1,
        bias: bool = True,
        weights: str | None = None,
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        self.channels = channels
        sizes = [channels, *[width] * (depth - 1), channels]
        layers = [
            nn.Conv2d(a, b, 3, padding=1, padding_mode=padding, bias=bias)
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
        if weights is not None:
            self._load(weights)

    def bind(self, guide: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        *features, last = (bound_convolution(conv) for conv in self.layers)

        def apply(x: Tensor) -> Tensor:
            z = x
            for convolution in features:
                z = F.relu(convolution(z), inplace=True)
            return x - last(z)

        return apply

    def forward(self, x: Tensor) -> Tensor:
        """Denoise x, shape (B, C, H, W)."""
        return self.bind()(x)

    @property
    def layers(self) -> list[nn.Conv2d]:
        """The convolutions, first to last."""
        return [conv for conv in self.convs if isinstance(conv, nn.Conv2d)]

    def bound(self) -> NormBound:
        """1 + |W_1| ... |W_depth|, as ReLU is 1-Lipschitz. Far from tight for deep chains."""
        how = "norm of the convolution on images of every size"
        weights = [p.detach() for name, p in self.convs.named_parameters() if "weight" in name]
        layers = tuple(
            LayerBound(f"convs.{i}", norm_bound(weight, grid=32), how)
            for i, weight in enumerate(weights)
        )
        return NormBound(1 + product(layers).value, layers, "1 + product of the layers")

    def _load(self, file: str) -> None:
        tensors = read_weights(file)
        names = [re.fullmatch(r"(.*?)(\d+)\.(weight|bias)", name) for name in tensors]
        if None in names or len({name[1] for name in names if name}) > 1:
            raise InputError(
                f"weights {file} are not a DnCNN without batch norm: expected one chain "
                f"NAME.0.weight, NAME.0.bias, ..., found {', '.join(list(tensors)[:4])}"
            )
        # Numbers, not the order in the file: safetensors sorts model.10 before model.2.
        numbers = sorted({int(name[2]) for name in names if name})
        weights = {
            f"convs.{numbers.index(int(name[2]))}.{name[3]}": tensor
            for name, tensor in zip(names, tensors.values(), strict=True)
            if name
        }
        first = weights.get("convs.0.weight")
        if first is not None and first.dim() == 4:
            have = {"depth": len(numbers), "width": first.shape[0], "channels": first.shape[1]}
            own = self.state_dict()["convs.0.weight"].shape
            if have != {"depth": len(self.convs), "width": own[0], "channels": own[1]}:
                settings = ", ".join(f"net.{key}={value}" for key, value in have.items())
                raise InputError(f"weights {file} are of another size of network; set {settings}")
        copy_weights(self, weights, file)
