"""Rainy photographs beside clean ones: pairs as they are, or clean photographs in synthetic rain.

Shape legend: B images, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bmo_cli.config.checks import Channels, Seed, checked
from bmo_cli.data.degraded import (
    DegradedImages,
    DegradedPhotographs,
    fold_channels,
    require_channels,
)
from bmo_cli.data.loaded import Photographs
from bmo_cli.data.rain import SyntheticRain
from bmo_cli.data.splits import PhotographData, Split


@checked
class RainyPhotographs(DegradedPhotographs):
    """Pairs of photographs as they are, or clean photographs in synthetic rain.

    Every crop of every step gets its own rain, and so does every evaluation image.

    Args:
        data: the photographs.
        channels: of the network. A network for gray images works channel by channel.
        seed: of rain and crops in training.
        eval_seed: of the rain of validation and test, so that runs with different seeds are judged
            on the same observations.
        rain_keys: arguments of `SyntheticRain`.
    """

    def __init__(
        self,
        *,
        data: PhotographData,
        channels: Channels = 3,
        seed: Seed = 0,
        eval_seed: Seed = 0,
        **rain_keys: Any,
    ) -> None:
        require_channels(data, channels)
        super().__init__(Photographs(data, pairs=True))
        self.crop, self.channels = data.crop, channels
        self.seed, self.eval_seed = seed, eval_seed
        self.rain = SyntheticRain(**rain_keys)
        self.place: Tensor
        self.register_buffer("place", torch.zeros(()), persistent=False)  # knows the device

    def prepare(self, splits: Sequence[Split]) -> None:
        self.photographs.prepare(splits, (1, 1), "a pixel", self.crop)

    def batches(self, steps: range, batch: int) -> Iterator[tuple[DegradedImages, int]]:
        """Training batches, each with a seed for what else is drawn at random for it."""
        sets = 1 if self.photographs.degraded("train") is None else 2
        crops = self.photographs.crops(steps, batch, self.seed, self.crop)
        for step, images in zip(steps, crops, strict=True):
            rng = np.random.default_rng([self.seed, step, 0x5A1D])
            clean, *partners = images.to(self.place.device).chunk(sets, 1)
            rainy = partners[0] if partners else self.rain.fall(clean, rng)
            yield self._fold(clean, rainy), int(rng.integers(2**31))

    def cases(self, split: Split) -> Iterator[tuple[str, Tensor, DegradedImages]]:
        """Evaluation images by name: the clean one, (C, H, W), and its observation."""
        for i, (name, clean, partner) in enumerate(self.photographs.evaluation_images(split)):
            rng = np.random.default_rng([self.eval_seed, i, 0xE7A1])
            clean = clean.to(self.place.device)
            if partner is None:
                rainy = self.rain.fall(clean[None], rng)
            else:
                rainy = partner.to(self.place.device)[None]
            yield name, clean, self._fold(clean[None], rainy)

    def _fold(self, clean: Tensor, rainy: Tensor) -> DegradedImages:
        return DegradedImages(
            fold_channels(clean, self.channels), fold_channels(rainy, self.channels)
        )
