"""Photographs blurred by known kernels, with Gaussian noise: y = k * x + noise.

Shape legend: B images, C channels, H x W pixels, n kernels of h x w.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bmo_cli.config.checks import Channels, NonNegative, Seed, checked
from bmo_cli.data.degraded import (
    DegradedImages,
    DegradedPhotographs,
    fold_channels,
    require_channels,
)
from bmo_cli.data.kernels import KernelSet
from bmo_cli.data.loaded import Photographs
from bmo_cli.data.splits import PhotographData, Split
from bmo_cli.errors import InputError
from bmo_cli.linear.blur import PeriodicBlur, stack_kernels, transfer_function


@dataclass(frozen=True)
class BlurredImages(DegradedImages):
    """Clean images, their blurred versions, and what is known of the degradation.

    Attributes:
        blur: of the batch.
        noise: standard deviation, (B,).
    """

    blur: PeriodicBlur
    noise: Tensor


@checked
class BlurredPhotographs(DegradedPhotographs):
    """Photographs under kernels of a set.

    Args:
        data: the photographs.
        channels: of the network. A network for gray images restores colour channel by channel.
        noise: standard deviation in grey levels of 255, or a range (low, high) drawn from
            uniformly for every image.
        test_noise: noise of the test split alone, likewise; None: that of `noise`.
        seed: of kernels, noise and crops in training.
        eval_seed: of noise and kernels of validation and test, so that runs with different seeds
            are judged on the same observations.
        eval_kernels: random: every image of the test split meets one kernel. each: it meets all of
            them, as in published tables. Validation always takes one, which is enough to choose a
            checkpoint.
        kernel_keys: arguments of `KernelSet`.
    """

    def __init__(
        self,
        *,
        data: PhotographData,
        channels: Channels = 1,
        noise: NonNegative | tuple[NonNegative, NonNegative] = 2.55,
        test_noise: NonNegative | tuple[NonNegative, NonNegative] | None = None,
        seed: Seed = 0,
        eval_seed: Seed = 0,
        eval_kernels: Literal["random", "each"] = "random",
        **kernel_keys: Any,
    ) -> None:
        require_channels(data, channels)
        super().__init__(Photographs(data))
        self.data, self.channels, self.eval_kernels = data, channels, eval_kernels
        self.seed, self.eval_seed = seed, eval_seed
        self.noise_range = _noise_range(noise, "task.noise")
        self.test_noise_range = (
            self.noise_range if test_noise is None else _noise_range(test_noise, "task.test_noise")
        )
        self.kernel_set = KernelSet(root=data.root, **kernel_keys)
        chosen = self.kernel_set.chosen
        self.kernel_content = self.kernel_set.content()
        stack = stack_kernels([torch.tensor(k, dtype=torch.float32) for k in chosen.values()])
        self.kernels: Tensor
        self.register_buffer("kernels", stack, persistent=False)

    def prepare(self, splits: Sequence[Split]) -> None:
        h, w = self.kernels.shape[1:]
        sides = {"eval_crop": self.data.eval_crop}
        if "train" in splits:
            sides["crop"] = self.data.crop
        for key, side in sides.items():
            if side is not None and side < max(h, w):
                raise InputError(f"data.{key}={side} is smaller than the kernel ({h} x {w})")
        self.photographs.prepare(splits, (h, w), "the blur kernel", self.data.crop)

    def fingerprints(self) -> dict[str, Any]:
        return super().fingerprints() | {
            "kernels": list(self.kernel_set.chosen),
            "kernel_content": self.kernel_content,
        }

    def batches(self, steps: range, batch: int) -> Iterator[tuple[BlurredImages, int]]:
        """Training batches, each with a seed for what else is drawn at random for it."""
        crop = self.data.crop
        transfers = transfer_function(self.kernels, (crop, crop))
        crops = self.photographs.crops(steps, batch, self.seed, crop)
        for step, clean in zip(steps, crops, strict=True):
            rng = np.random.default_rng([self.seed, step, 0xDEC0])
            chosen = torch.from_numpy(rng.integers(len(self.kernels), size=len(clean)))
            chosen = chosen.repeat_interleave(self._problems_an_image)
            transfer = transfers[chosen.to(transfers.device)]
            images = self._observe(clean.to(self.kernels.device), transfer, self.noise_range, rng)
            yield images, int(rng.integers(2**31))

    def cases(self, split: Split) -> Iterator[tuple[str, Tensor, BlurredImages]]:
        """Evaluation images by name: the clean one, (C, H, W), and its observation."""
        each = self.eval_kernels == "each" and split == "test"
        noise = self.test_noise_range if split == "test" else self.noise_range
        for i, (name, clean, _) in enumerate(self.photographs.evaluation_images(split)):
            if not each:
                rng = np.random.default_rng([self.eval_seed, i, 0xE7A1])
                yield self._case(name, clean, int(rng.integers(len(self.kernels))), noise, rng)
                continue
            for j, (kernel, number) in enumerate(self.kernel_set.numbers.items()):
                rng = np.random.default_rng([self.eval_seed, i, number, 0xE7A1])
                yield self._case(f"{name} {kernel}", clean, j, noise, rng)

    def _case(
        self,
        name: str,
        clean: Tensor,
        j: int,
        noise: tuple[float, float],
        rng: np.random.Generator,
    ) -> tuple[str, Tensor, BlurredImages]:
        """The image (C, H, W) under kernel number j, with noise of a range."""
        clean = clean.to(self.kernels.device)
        transfer = transfer_function(self.kernels[j][None], (clean.shape[-2], clean.shape[-1]))
        return name, clean, self._observe(clean[None], transfer, noise, rng)

    @property
    def _problems_an_image(self) -> int:
        """Three where a network for gray images restores colour, else one."""
        return self.data.channels // self.channels

    def _observe(
        self,
        images: Tensor,
        transfer: Tensor,
        noise_range: tuple[float, float],
        rng: np.random.Generator,
    ) -> BlurredImages:
        """Blur the images (B, C, H, W), folded to the network's channels, and add noise.

        A range of one level takes as many random numbers as any other.
        """
        level = rng.uniform(*noise_range, size=len(images)).repeat(self._problems_an_image)
        clean = fold_channels(images, self.channels)
        blur = PeriodicBlur(transfer, (clean.shape[-2], clean.shape[-1]))
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        noise = torch.tensor(level, dtype=clean.dtype)
        draw = torch.randn(clean.shape, generator=generator, dtype=clean.dtype)
        y = blur(clean) + (noise[:, None, None, None] * draw).to(clean.device)
        return BlurredImages(clean, y, blur, noise.to(clean.device))


def _noise_range(noise: float | Sequence[float], key: str) -> tuple[float, float]:
    """The standard deviations of a level or a range in grey levels of 255, in units of white.

    Raises:
        InputError: the range is empty; `key` set it.
    """
    low, high = noise if isinstance(noise, Sequence) else (noise, noise)
    if low > high:
        raise InputError(f"{key} must be (low, high) with low <= high, got {noise}")
    return low / 255, high / 255
