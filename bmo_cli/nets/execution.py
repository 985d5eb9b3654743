"""How the layers of networks are computed in training: in which precision, compiled or not.

Shape legend: B images, C channels, H x W pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bmo_cli.errors import InputError
from bmo_cli.nets.network import Network, require_alike

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Execution:
    """What training asks of networks; evaluation asks for nothing.

    Attributes:
        precision: of the layers, None: that of the weights. Argument and image keep theirs.
        compiled: whether torch.compile translates the network. A guided network is not: what it
            computes once a problem would be computed once an iteration.
        finite: whether an output that is not finite is refused.
    """

    precision: torch.dtype | None = None
    compiled: bool = False
    finite: bool = False

    def bind(self, net: Network, guide: Tensor | None = None) -> Map:
        """The map of a network, (B, C, H, W) to the same shape; see `Network.bind`.

        The map raises an `InputError` where the output is no such image.
        """
        if self.compiled and not net.guided:
            network: Map = functools.partial(_compiler(), net)
        else:
            network = net.bind(guide)

        def apply_checked(x: Tensor) -> Tensor:
            output = require_alike(net, x, self._apply_in_precision(network, x))
            if self.finite and not _is_finite(output) and _is_finite(x):
                raise InputError(
                    f"{type(net).__name__} returned values that are not finite for a finite image "
                    f"of shape {tuple(x.shape)}; look at its weights"
                )
            return output

        return apply_checked

    def _apply_in_precision(self, network: Map, x: Tensor) -> Tensor:
        """The network's output, its layers in the precision that was asked for."""
        if self.precision is None:
            return network(x)
        with torch.autocast(x.device.type, self.precision):
            output = network(x)
        return output.to(x.dtype) if isinstance(output, Tensor) else output


AS_WRITTEN = Execution()


@functools.cache
def _compiler() -> Callable[[Network, Tensor], Tensor]:
    """One compiled function for all networks, so that a step compiles nothing again."""
    return torch.compile(_apply, dynamic=False)  # crops of training have one size


def _apply(net: Network, x: Tensor) -> Tensor:
    return net.bind()(x)


def _is_finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all())
