"""Data sets of photographs: training, validation and test split, by image.

A data set is a class with `load(split) -> ImageSet`; only the splits that are used are read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal

import numpy as np
import skimage.data

from bmo_cli.config.checks import Channels, Count, Index, Positive, checked
from bmo_cli.data.image_file import Photograph
from bmo_cli.data.image_set import ImageSet, folder_images
from bmo_cli.errors import InputError

Split = Literal["train", "val", "test"]


class PhotographData(ABC):
    """Photographs in three splits, and how training crops are taken from them.

    Attributes:
        channels: 1 gray or 3 colour; every image is converted.
        crop: side of the training crops in pixels.
        flips: whether crops are mirrored and turned by 90 degrees at random.
        workers: processes that prepare batches; None: none when all images fit in memory, else 2.
    """

    def __init__(
        self,
        *,
        channels: Channels = 1,
        crop: Count = 64,
        flips: bool = True,
        workers: Index | None = None,
    ) -> None:
        self.channels, self.crop, self.flips, self.workers = channels, crop, flips, workers

    @abstractmethod
    def load(self, split: Split) -> ImageSet:
        """Read one split."""


@checked
class Embedded(PhotographData):
    """Photographs that scikit-image ships: nothing to download, no scene in two splits."""

    SPLITS: ClassVar[dict[str, tuple[str, ...]]] = {
        "train": (
            "astronaut",
            "brick",
            "grass",
            "gravel",
            "hubble_deep_field",
            "moon",
            "motorcycle",
            "retina",
        ),
        "val": ("coins", "rocket"),
        "test": ("camera", "chelsea", "coffee"),
    }

    def load(self, split: Split) -> ImageSet:
        sources = [(name, _embedded(name)) for name in self.SPLITS[split]]
        return ImageSet(sources, channels=self.channels)


def _embedded(name: str) -> Callable[[], Photograph]:
    def load() -> Photograph:
        if name == "motorcycle":
            pixels = skimage.data.stereo_motorcycle()[0]
        else:
            pixels = getattr(skimage.data, name)()
        return Photograph(np.asarray(pixels if pixels.ndim == 3 else pixels[..., None]))

    return load


@checked
class Folder(PhotographData):
    """Any folders of PNG, JPEG, BMP or TIFF files, 8 or 16 bit, gray or colour, any size.

    Args:
        train: folder, file or file pattern (`photos/*.png`).
        val: the same for validation.
        test: the same for the final evaluation.
        cache_mib: memory for decoded images, a split; beyond it images are decoded when used.
        channels: as `PhotographData`.
        crop: as `PhotographData`.
        flips: as `PhotographData`.
        workers: as `PhotographData`.
    """

    def __init__(
        self,
        *,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        cache_mib: Positive = 2048.0,
        channels: Channels = 1,
        crop: Count = 64,
        flips: bool = True,
        workers: Index | None = None,
    ) -> None:
        super().__init__(channels=channels, crop=crop, flips=flips, workers=workers)
        self.places = {"train": train, "val": val, "test": test}
        self.cache_mib = cache_mib

    def load(self, split: Split) -> ImageSet:
        place = self.places[split]
        if place is None:
            raise InputError(f"data.{split} is not set; name a folder: data.{split}=DIR")
        key = f"data.{split}"
        return folder_images(place, key, channels=self.channels, cache_mib=self.cache_mib)
