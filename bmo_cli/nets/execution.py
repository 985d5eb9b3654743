"""How training computes the layers of networks: precision and compilation.

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
    """How networks are computed. Evaluation uses the defaults.

    Attributes:
        precision: precision of the layers; None: that of the weights. Argument and output keep
            theirs.
        compiled: whether torch.compile translates the network. Guided networks are not compiled:
            what they compute once a problem would be computed in every iteration.
        finite: whether an output that is not finite is refused.
    """

    precision: torch.dtype | None = None
    compiled: bool = False
    finite: bool = False

    def bind(self, net: Network, guide: Tensor | None = None) -> Map:
        """The map of a network, (B, C, H, W) to the same shape; see `Network.bind`.

        The map raises an `InputError` if the output is no image of the shape of its argument.
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
        """The network's output, with its layers in the precision of this execution."""
        if self.precision is None:
            return network(x)
        with torch.autocast(x.device.type, self.precision):
            output = network(x)
        return output.to(x.dtype) if isinstance(output, Tensor) else output


AS_WRITTEN = Execution()


@functools.cache
def _compiler() -> Callable[[Network, Tensor], Tensor]:
    """One compiled function for all networks, so that steps do not compile again."""
    return torch.compile(_apply, dynamic=False)  # training crops have one size


def _apply(net: Network, x: Tensor) -> Tensor:
    return net.bind()(x)


def _is_finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all())
