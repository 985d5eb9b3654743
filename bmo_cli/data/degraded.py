"""Photographs together with the degradation through which they are observed.

A task asks such a class for degraded images beside their clean ones, and makes problems of the
degraded ones alone. All randomness is drawn on the CPU, so that devices agree.

Shape legend: B images, C channels, H x W pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bmo_cli.data.loaded import Photographs
from bmo_cli.data.splits import PhotographData, Split
from bmo_cli.errors import InputError


@dataclass(frozen=True)
class DegradedImages:
    """Clean images and what is observed of them.

    Attributes:
        clean: ground truth, (B, C, H, W).
        y: observation of the same shape.
    """

    clean: Tensor
    y: Tensor


class DegradedPhotographs(nn.Module, ABC):
    """Photographs and their degradation.

    It is a module so that its buffers follow the task to another device.

    Args:
        photographs: clean ones, or pairs.
    """

    def __init__(self, photographs: Photographs) -> None:
        super().__init__()
        self.photographs = photographs

    @abstractmethod
    def prepare(self, splits: Sequence[Split]) -> None:
        """Read these splits and refuse what is unusable.

        Raises:
            InputError: an image is missing, unusable or too small.
        """

    def fingerprints(self) -> dict[str, Any]:
        """Identity of every split read so far, and what else decides the observations."""
        return self.photographs.fingerprints()


def require_channels(data: PhotographData, channels: int) -> None:
    """Refuse a network for colour on gray photographs.

    Args:
        data: the photographs.
        channels: of the network.

    Raises:
        InputError: the data have fewer channels.
    """
    if channels > data.channels:
        raise InputError("a network for colour (net.channels=3) needs data.channels=3")


def fold_channels(images: Tensor, channels: int) -> Tensor:
    """(B, C, H, W) as images of `channels`: for a gray network every channel is an image."""
    return images.reshape(-1, channels, *images.shape[-2:])
