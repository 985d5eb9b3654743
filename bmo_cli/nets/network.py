"""The interface of networks.

Shape legend: B images, C channels, H x W pixels.
"""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from bmo_cli.errors import InputError


@dataclass(frozen=True)
class LayerBound:
    """An upper bound of the Lipschitz constant of one layer, for images of every size.

    Attributes:
        layer: name of the layer.
        value: value of the bound at the present weights.
        how: origin of the bound, in words.
    """

    layer: str
    value: float
    how: str


@dataclass(frozen=True)
class NormBound:
    """An upper bound of |R(a) - R(b)| / |a - b|, at the present weights.

    Attributes:
        value: value of the bound.
        layers: bounds of the layers.
        how: how the bounds are composed, in words.
    """

    value: float
    layers: tuple[LayerBound, ...]
    how: str = "product of the layers"


def product(layers: tuple[LayerBound, ...]) -> NormBound:
    """The bound of a composition of layers."""
    return NormBound(math.prod(layer.value for layer in layers), layers)


def largest(*values: float) -> float:
    """The largest value; nan if one is nan, which Python's `max` may skip."""
    return math.nan if any(math.isnan(value) for value in values) else max(values)


def open_unit(theta: Tensor) -> Tensor:
    """A number in (0, 1) that never reaches its ends, although a sigmoid may round to 1."""
    return 1e-6 + (1 - 2e-6) * theta.sigmoid()


class Network(nn.Module, ABC):
    """A map of images (B, C, H, W) into images of the same shape, type and device.

    Attributes:
        channels: C of the images (1 gray, 3 colour).
        nonexpansive: whether |R(a) - R(b)| <= |a - b| holds by construction, for any parameters.
        averaged: whether R is moreover (1 - t) I + t N with N nonexpansive and t < 1, which makes
            undamped iterations converge (compositions of averaged maps are averaged).
        numerical: names of parameters that are step sizes and levels rather than weights. They are
            learned at the rate of the scheme's numerical parameters.
        guided: whether the map depends on a guide, see `bind`.
        guarantee: property that holds for all values of the parameters, in a line.
    """

    nonexpansive: bool = False
    averaged: bool = False
    numerical: ClassVar[tuple[str, ...]] = ()
    guided: bool = False
    guarantee: str = "none"
    channels: int

    def forward(self, x: Tensor) -> Tensor:
        """The map at x, shape (B, C, H, W). A network that overrides `bind` needs no `forward`."""
        raise InputError(f"{type(self).__name__} has no `forward`, the map of images (B, C, H, W)")

    def bind(self, guide: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """The map at the present weights, with everything constant computed once.

        Args:
            guide: (B, C, H, W), a first estimate made from the observation alone. It is constant
                along the iteration. A network whose guide selects one of several nonexpansive maps
                is therefore nonexpansive.
        """
        return self

    def bound(self) -> NormBound | None:
        """An upper bound of the Lipschitz constant at the present weights; None: unknown."""
        return None

    def project_(self) -> None:
        """Project constrained parameters onto their set; nothing by default."""


def require_alike(net: nn.Module, x: Tensor, output: object) -> Tensor:
    """The output of a network, known to be an image of the shape of x.

    Args:
        net: network that returned the output.
        x: (B, C, H, W), argument of the network.
        output: returned object.

    Raises:
        InputError: the output is no tensor, or has another shape, type or device. Arithmetic would
            silently broadcast a shape like (B, 1, 1, 1).
    """
    name = type(net).__name__
    if not isinstance(output, Tensor):
        raise InputError(
            f"{name} returned a {type(output).__name__}; expected a tensor {tuple(x.shape)}"
        )
    if output.shape != x.shape:
        raise InputError(
            f"{name} returned shape {tuple(output.shape)} for an image of shape {tuple(x.shape)}; "
            "expected the same shape"
        )
    if output.dtype != x.dtype or output.device != x.device:
        raise InputError(
            f"{name} returned {output.dtype} on {output.device} for an image of {x.dtype} on "
            f"{x.device}; expected the same type and device"
        )
    return output


class Identity(Network):
    """No network: the numerical operator works alone.

    Args:
        channels: channels of the data.
    """

    nonexpansive = True
    averaged = True
    guarantee = "the identity"

    def __init__(self, *, channels: int = 1) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """x, shape (B, C, H, W)."""
        return x

    def bound(self) -> NormBound:
        return NormBound(1.0, ())
