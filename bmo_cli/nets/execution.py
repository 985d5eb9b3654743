"""How the layers of networks are computed in training: in which precision, compiled or not.

Shape legend: B images, C channels, H x W pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bmo_cli.nets.network import Network

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Execution:
    """What training asks of networks; evaluation asks for nothing.

    Attributes:
        precision: of the layers, None: that of the weights. Argument and image keep theirs.
        compiled: whether torch.compile translates the network. A guided network is not: what it
            computes once a problem would be computed once an iteration.
    """

    precision: torch.dtype | None = None
    compiled: bool = False

    def bind(self, net: Network, guide: Tensor | None = None) -> Map:
        """The map of a network, (B, C, H, W) to the same shape; see `Network.bind`."""
        if self.compiled and not net.guided:
            network: Map = functools.partial(_compiler(), net)
        else:
            network = net.bind(guide)
        if self.precision is None:
            return network
        precision = self.precision

        def lowered(x: Tensor) -> Tensor:
            with torch.autocast(x.device.type, precision):
                return network(x).to(x.dtype)

        return lowered


AS_WRITTEN = Execution()


@functools.cache
def _compiler() -> Callable[[Network, Tensor], Tensor]:
    """One compiled function for all networks, so that a step compiles nothing again."""
    return torch.compile(_apply, dynamic=False)  # crops of training have one size


def _apply(net: Network, x: Tensor) -> Tensor:
    return net.bind()(x)
