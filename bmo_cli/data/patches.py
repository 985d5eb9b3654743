"""Training crops. The batch of step t is a function of (seed, t) alone.

So the order is the same for any number of workers and after a resume.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bmo_cli.data.image_set import ImageSet


class Patches(Dataset[Tensor]):
    """Item t is the batch of step t, (batch, C, crop, crop) in [0, 1].

    Args:
        images: where crops are taken from, every image equally often on average; none is smaller
            than the crop.
        crop: side in pixels.
        batch: crops a step.
        seed: of positions and flips.
        flips: mirror and turn by 90 degrees at random.
    """

    def __init__(
        self, images: ImageSet, *, crop: int, batch: int, seed: int, flips: bool = True
    ) -> None:
        self._images, self._crop, self._batch = images, crop, batch
        self._seed, self._flips = seed, flips

    def __getitem__(self, step: int) -> Tensor:
        rng = np.random.default_rng([self._seed, step, 0xDA7A])
        return torch.stack([self._patch(rng) for _ in range(self._batch)])

    def _patch(self, rng: np.random.Generator) -> Tensor:
        image = self._images[int(rng.integers(len(self._images)))]
        top, left = (int(rng.integers(side - self._crop + 1)) for side in image.shape[1:])
        patch = image[:, top : top + self._crop, left : left + self._crop]
        if self._flips:
            patch = np.rot90(patch, int(rng.integers(4)), axes=(1, 2))
            patch = patch[:, :, ::-1] if rng.integers(2) else patch
        return as_tensor(patch)


def as_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 or uint16 pixels as float32 in [0, 1]."""
    return torch.from_numpy(pixels.astype(np.float32) / np.iinfo(pixels.dtype).max)


def batches(patches: Patches, steps: range, workers: int) -> Iterator[Tensor]:
    """The batches of these steps in order, prepared ahead by `workers` processes."""
    loader: DataLoader[Tensor] = DataLoader(
        patches, batch_size=None, sampler=steps, num_workers=workers
    )
    return iter(loader)
