"""Training crops, and the patches that cover a whole image.

The batch of crops of step t is a function of (seed, t) alone, so that the order is the same for
any number of workers and after a resume.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bmo_cli.config.checks import Flips
from bmo_cli.data.images.image_set import ImageSet


class Patches:
    """Item t is the batch of step t, (batch, C, crop, crop) in [0, 1]. n sets have n C channels.

    Args:
        images: where crops are taken from, every image equally often on average. None is smaller
            than the crop. Several sets of equal names and sizes (pairs) are cropped at the same
            places and stacked along the channels.
        crop: side in pixels.
        batch: crops a step.
        seed: of positions and flips.
        flips: all: mirror and turn by 90 degrees at random. mirror: left and right alone, where
            up and down are not alike, as in rain. none: no flips.
    """

    def __init__(
        self, *images: ImageSet, crop: int, batch: int, seed: int, flips: Flips = "all"
    ) -> None:
        self._images, self._crop, self._batch = images, crop, batch
        self._seed, self._flips = seed, flips

    def __getitem__(self, step: int) -> Tensor:
        rng = np.random.default_rng([self._seed, step, 0xDA7A])
        patches = [self._patch(rng) for _ in range(self._batch)]
        return torch.from_numpy(np.stack(patches))  # NumPy alone: torch would start threads

    def _patch(self, rng: np.random.Generator) -> NDArray[np.float32]:
        chosen = int(rng.integers(len(self._images[0])))
        aligned = [images[chosen] for images in self._images]
        top, left = (int(rng.integers(side - self._crop + 1)) for side in aligned[0].shape[1:])
        turns, mirrored = 0, False
        if self._flips == "all":
            turns = int(rng.integers(4))
        if self._flips != "none":
            mirrored = bool(rng.integers(2))
        patches = []
        for image in aligned:
            patch = image[:, top : top + self._crop, left : left + self._crop]
            patch = np.rot90(patch, turns, axes=(1, 2))
            patches.append(_in_unit_range(patch[:, :, ::-1] if mirrored else patch))
        return patches[0] if len(patches) == 1 else np.concatenate(patches)


def as_tensor(pixels: NDArray[Any]) -> Tensor:
    """uint8 or uint16 pixels as float32 in [0, 1]."""
    return torch.from_numpy(_in_unit_range(pixels))


def _in_unit_range(pixels: NDArray[Any]) -> NDArray[np.float32]:
    white = np.float32(np.iinfo(pixels.dtype).max)
    in_range: NDArray[np.float32] = pixels.astype(np.float32) / white
    return in_range


def central(image: Tensor, side: int | None) -> Tensor:
    """The central square of a (C, H, W) image, or as much of it as there is; None: the image."""
    if side is None:
        return image
    top, left = (max(0, (size - side) // 2) for size in image.shape[1:])
    return image[:, top : top + side, left : left + side]


@dataclass(frozen=True)
class PatchGrid:
    """Square patches that cover images of one size: every pixel lies in at least one.

    The last row and column of patches are moved to the border where the stride does not end there.

    Attributes:
        size: (H, W) of the image.
        side: of a patch, at most min(H, W).
        stride: from patch to patch, at most `side`.
    """

    size: tuple[int, int]
    side: int
    stride: int

    def _starts(self, length: int) -> Tensor:
        last = length - self.side
        return torch.tensor([*range(0, last, self.stride), last])

    def _corners(self) -> tuple[Tensor, Tensor]:
        """First rows, (R, 1), and first columns, (S,)."""
        return self._starts(self.size[0])[:, None], self._starts(self.size[1])

    def cut(self, image: Tensor) -> Tensor:
        """(C, H, W) -> (C R S, side^2), a patch row by row."""
        windows = image.unfold(1, self.side, 1).unfold(2, self.side, 1)
        top, left = (corner.to(image.device) for corner in self._corners())
        return windows[:, top, left].reshape(-1, self.side**2)

    def join(self, patches: Tensor) -> Tensor:
        """The average of all patches at every pixel: (C R S, side^2) -> (C, H, W)."""
        top, left = (corner.to(patches.device) for corner in self._corners())
        stack = patches.reshape(-1, len(top), len(left), self.side, self.side)
        total = patches.new_zeros(len(stack), *self.size)
        count = patches.new_zeros(self.size)
        for row in range(self.side):  # one pixel of every patch: no two of them fall together
            for column in range(self.side):
                total[:, top + row, left + column] += stack[..., row, column]
                count[top + row, left + column] += 1
        return total / count
