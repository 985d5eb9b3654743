"""A network for each layer of an unknown that is stacked along the channels, as u = (b, r).

Shape legend: B images, C_i channels of layer i, H x W pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bmo_cli.errors import InputError
from bmo_cli.nets.network import (
    Identity,
    LayerBound,
    Network,
    NormBound,
    largest,
    require_alike,
)


class Layers(Network):
    """(u_1, ..., u_n) -> (R_1(u_1), ..., R_n(u_n)), on (B, C_1 + ... + C_n, H, W).

    It is nonexpansive (averaged) if every R_i is, with the largest of their constants.

    Args:
        background: R_1.
        rain: R_2; None: a copy of R_1 with its own weights.
    """

    def __init__(self, *, background: Network, rain: Network | None = None) -> None:
        super().__init__()
        second = copy.deepcopy(background) if rain is None else rain
        self.parts = nn.ModuleList([background, second])
        self.channels = background.channels
        networks = self.networks
        self.nonexpansive = all(net.nonexpansive for net in networks)
        self.averaged = all(net.averaged for net in networks)
        self.guided = any(net.guided for net in networks)
        self.guarantee = " | ".join(dict.fromkeys(net.guarantee for net in networks))

    @property
    def networks(self) -> tuple[Network, ...]:
        """R_1, ..., R_n."""
        return tuple(net for net in self.parts if isinstance(net, Network))

    @property
    def is_identity(self) -> bool:
        """Whether no layer has a network."""
        return all(type(net) is Identity for net in self.networks)

    def bind(self, guide: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """The map with everything constant computed once. All networks get the same guide."""
        maps = [net.bind(guide if net.guided else None) for net in self.networks]

        def apply(u: Tensor) -> Tensor:
            layers = torch.split(u, self._channels_of(u), 1)
            parts = zip(self.networks, maps, layers, strict=True)
            return torch.cat([require_alike(net, v, network(v)) for net, network, v in parts], 1)

        return apply

    def _channels_of(self, u: Tensor) -> list[int]:
        channels = [net.channels for net in self.networks]
        if u.shape[1] != sum(channels):
            raise InputError(
                f"the networks of net=layers are for layers of {' and '.join(map(str, channels))} "
                f"channels, and the unknown has {u.shape[1]} channels"
            )
        return channels

    def forward(self, u: Tensor) -> Tensor:
        """The map at u, shape (B, C_1 + ... + C_n, H, W)."""
        return self.bind()(u)

    def bound(self) -> NormBound | None:
        """The largest of the layers' bounds; None where one is unknown."""
        bounds = [net.bound() for net in self.networks]
        known = [bound for bound in bounds if bound is not None]
        if len(known) < len(bounds):
            return None
        layers = tuple(
            LayerBound(f"{name}: {layer.layer}", layer.value, layer.how)
            for name, bound in zip(("background", "rain"), known, strict=True)
            for layer in bound.layers
        )
        how = f"largest of the networks' ({known[0].how})"
        return NormBound(largest(*(bound.value for bound in known)), layers, how)

    def project_(self) -> None:
        for net in self.networks:
            net.project_()
