"""What every network declares.

Shape legend: B images, C channels, H x W pixels.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn


class Network(nn.Module, ABC):
    """A map of images (B, C, H, W) into images of the same shape.

    Attributes:
        channels: C it works on (1 gray, 3 colour).
        nonexpansive: whether |R(a) - R(b)| <= |a - b| holds by construction, for any parameters.
        averaged: whether R is moreover (1 - t) I + t N with N nonexpansive and t < 1, which makes
            undamped iterations converge (compositions of averaged maps are averaged).
    """

    nonexpansive: ClassVar[bool] = False
    averaged: ClassVar[bool] = False
    channels: int

    def bind(self) -> Callable[[Tensor], Tensor]:
        """The map at the present weights, with what depends on the weights alone computed once."""
        return self

    def project_(self) -> None:
        """Bring constrained parameters back into their set; nothing by default."""


class Identity(Network):
    """No network: the numerical operator works alone.

    Args:
        channels: as the data have.
    """

    nonexpansive = True
    averaged = True

    def __init__(self, *, channels: int = 1) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """x, shape (B, C, H, W)."""
        return x
