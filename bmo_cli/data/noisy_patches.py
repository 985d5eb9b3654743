"""Patches of photographs with salt-and-pepper noise, and the dictionary that codes clean ones.

Shape legend: B patches, m pixels of a patch (rows), n atoms (columns), C channels, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bmo_cli.config.checks import Count, HalfOpenUnit, Seed, checked
from bmo_cli.data.degraded import DegradedImages, DegradedPhotographs
from bmo_cli.data.dictionary_source import DictionarySource
from bmo_cli.data.loaded import Photographs
from bmo_cli.data.patches import PatchGrid
from bmo_cli.data.splits import PhotographData, Split
from bmo_cli.errors import InputError


@checked
class NoisyPatches(DegradedPhotographs):
    """Random patches in training, and whole images in validation and test.

    A patch has the side sqrt(rows), whatever data.crop says. Every channel of a colour photograph
    has patches of its own.

    Args:
        data: the photographs.
        rows: m, pixels of a square patch: the square of its side, >= 4.
        corrupted: share of pixels that become 0 or 1, with equal odds.
        stride: from patch to patch in validation and test, where overlapping patches are averaged;
            None: the side, adjacent patches.
        seed: of patches and noise in training.
        eval_seed: of the noise of validation and test.
        train_batches: number of different training batches, which repeat; None: every step has a
            new one. With 1, training minimises one function of the parameters.
        dictionary_keys: arguments of `DictionarySource`.
    """

    def __init__(
        self,
        *,
        data: PhotographData,
        rows: Count = 256,
        corrupted: HalfOpenUnit = 0.1,
        stride: Count | None = None,
        seed: Seed = 0,
        eval_seed: Seed = 0,
        train_batches: Count | None = None,
        **dictionary_keys: Any,
    ) -> None:
        super().__init__(Photographs(data))
        self.side = _patch_side(rows)
        self.source = DictionarySource(rows=rows, **dictionary_keys)
        self.stride = self.side if stride is None else stride
        if self.stride > self.side:
            raise InputError(
                f"task.stride={stride} leaves gaps between patches of {self.side} x {self.side}; "
                f"use task.stride <= {self.side}"
            )
        self.eval_crop, self.corrupted = data.eval_crop, corrupted
        self.seed, self.eval_seed, self.train_batches = seed, eval_seed, train_batches

    def prepare(self, splits: Sequence[Split]) -> None:
        if self.eval_crop is not None and self.eval_crop < self.side:
            raise InputError(
                f"data.eval_crop={self.eval_crop} is smaller than a patch "
                f"({self.side} x {self.side})"
            )
        least = (self.side, self.side)
        self.photographs.prepare(splits, least, "a patch, the square root of task.rows")

    def make_dictionary(self) -> Tensor:
        """The dictionary, (m, n), read or learned from clean training patches."""
        return self.source.make(self._clean_patches)

    def batches(self, steps: range, batch: int) -> Iterator[DegradedImages]:
        """Training batches of patches as rows, (B, m)."""
        if self.train_batches is None:
            yield from self._fresh_batches(steps, batch)
            return
        kept: dict[int, DegradedImages] = {}
        for step in steps:
            number = step % self.train_batches
            if number not in kept:
                (kept[number],) = self._fresh_batches(range(number, number + 1), batch)
            yield kept[number]

    def _fresh_batches(self, steps: range, batch: int) -> Iterator[DegradedImages]:
        patches = self._clean_patches(steps, batch, self.seed)
        for step, clean in zip(steps, patches, strict=True):
            rng = np.random.default_rng([self.seed, step, 0x5A17])
            yield DegradedImages(clean, self.corrupt(clean, rng))

    def cases(self, split: Split) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Evaluation images by name: the clean one, (C, H, W), and the noisy one."""
        for i, (name, clean, _) in enumerate(self.photographs.evaluation_images(split)):
            rng = np.random.default_rng([self.eval_seed, i, 0xE7A1])
            yield name, clean, self.corrupt(clean, rng)

    def grid(self, image: Tensor) -> PatchGrid:
        """The patches that cover an image, (C, H, W)."""
        return PatchGrid((image.shape[-2], image.shape[-1]), self.side, self.stride)

    def corrupt(self, clean: Tensor, rng: np.random.Generator) -> Tensor:
        """Add salt and pepper."""
        hit = torch.from_numpy(rng.random(tuple(clean.shape)) < self.corrupted)
        salt = torch.from_numpy(rng.random(tuple(clean.shape)) < 0.5).to(clean.dtype)
        return torch.where(hit, salt, clean)

    def _clean_patches(self, steps: range, batch: int, seed: int) -> Iterator[Tensor]:
        """Random clean patches of these steps as rows, (B, m): a channel is a patch."""
        for patches in self.photographs.crops(steps, batch, seed, self.side):
            yield patches.reshape(-1, self.side**2)


def _patch_side(rows: int) -> int:
    """The side of a square patch of so many pixels.

    Raises:
        InputError: no square of at least 4 pixels.
    """
    side = math.isqrt(rows)
    if side < 2 or side**2 != rows:
        below = max(side, 2) ** 2
        raise InputError(
            f"task.rows must be the square of a patch's side, got {rows}; try {below} or "
            f"{(math.isqrt(below) + 1) ** 2}"
        )
    return side
