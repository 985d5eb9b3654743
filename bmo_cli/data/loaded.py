"""The photographs of a task. Every split is read once, when it is first asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from bmo_cli.data.images.image_set import ImageSet, shared_images, similar_images
from bmo_cli.data.patches import Patches, as_tensor, central
from bmo_cli.data.prefetch import prefetch
from bmo_cli.data.splits import PhotographData, Split

log = logging.getLogger(__name__)


class Photographs:
    """Splits of a data set, as far as they were asked for.

    Args:
        data: where they come from.
        pairs: whether degraded partners are wanted as well, where the data have them.
    """

    def __init__(self, data: PhotographData, *, pairs: bool = False) -> None:
        self._data, self._pairs = data, pairs
        self._clean: dict[str, ImageSet] = {}
        self._degraded: dict[str, ImageSet | None] = {}

    def __getitem__(self, split: Split) -> ImageSet:
        """The clean photographs of a split."""
        if split not in self._clean:
            self._clean[split] = self._data.load(split)
            self._degraded[split] = self._data.observed(split) if self._pairs else None
        return self._clean[split]

    def degraded(self, split: Split) -> ImageSet | None:
        """Their degraded partners, in the same order."""
        _ = self[split]
        return self._degraded[split]

    def prepare(
        self, splits: Sequence[Split], least: tuple[int, int], what: str, crop: int | None = None
    ) -> None:
        """Read these splits, refuse what is too small, and warn of images that two of them share.

        Args:
            splits: to read.
            least: (H, W) that every image must have.
            what: has this size, for the message.
            crop: side of training crops; None: of the size `least`.

        Raises:
            InputError: an image is missing, unusable or too small.
        """
        for split in splits:
            self[split].require(least, what)
            if split == "train" and crop is not None:
                self[split].require((crop, crop), "the training crop, data.crop")
        for line in shared_images(self._clean):
            log.warning("the same image is in two splits: %s", line)
        for line in similar_images(self._clean):
            log.warning("nearly the same image is in two splits: %s", line)

    def crops(self, steps: range, batch: int, seed: int, crop: int) -> Iterator[Tensor]:
        """Training crops of these steps, (batch, C, crop, crop), or (batch, 2 C, ...) of pairs.

        Args:
            steps: of training.
            batch: crops a step.
            seed: of positions and flips.
            crop: side in pixels.
        """
        clean, degraded = self["train"], self.degraded("train")
        sets = [clean] if degraded is None else [clean, degraded]
        patches = Patches(*sets, crop=crop, batch=batch, seed=seed, flips=self._data.flips)
        workers = self._data.workers
        if workers is None:
            workers = 0 if all(images.in_memory for images in sets) else 2
        return prefetch(patches.__getitem__, steps, workers)

    def evaluation_images(self, split: Split) -> Iterator[tuple[str, Tensor, Tensor | None]]:
        """Names, clean images (C, H, W) and degraded partners, as validation and test see them."""
        clean, degraded = self[split], self.degraded(split)
        for i, name in enumerate(clean.names):
            partner = None if degraded is None else self._central(degraded[i])
            yield name, self._central(clean[i]), partner

    def _central(self, pixels: NDArray[Any]) -> Tensor:
        return central(as_tensor(pixels), self._data.eval_crop)

    def fingerprints(self) -> dict[str, Any]:
        """Identity of every split read so far, and the images that two of them share."""
        splits: dict[str, Any] = {k: images.fingerprint() for k, images in self._clean.items()}
        for split, images in self._degraded.items():
            if images is not None:
                splits[f"{split}_rain"] = images.fingerprint()
        shared, similar = shared_images(self._clean), similar_images(self._clean)
        return splits | {"shared": shared, "similar": similar}
