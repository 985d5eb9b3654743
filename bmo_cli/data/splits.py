"""Data sets of photographs: training, validation and test split, by image.

A data set is a class with `load(split) -> ImageSet`; only the splits that are used are read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import skimage.data

from bmo_cli.config.checks import Channels, Count, Index, Positive, checked
from bmo_cli.data.image_file import read_image
from bmo_cli.data.image_set import ImageSet, folder_images
from bmo_cli.errors import InputError

Split = Literal["train", "val", "test"]


class PhotographData(ABC):
    """Photographs in three splits, and how training crops are taken from them.

    Attributes:
        channels: 1 gray or 3 colour; every image is converted.
        crop: side of the training crops in pixels.
        eval_crop: side of the central square that validation and test see; None: whole images.
        flips: whether crops are mirrored and turned by 90 degrees at random.
        workers: processes that prepare batches; None: none when all images fit in memory, else 2.
    """

    def __init__(
        self,
        *,
        channels: Channels = 1,
        crop: Count = 64,
        eval_crop: Count | None = None,
        flips: bool = True,
        workers: Index | None = None,
    ) -> None:
        self.channels, self.crop, self.flips, self.workers = channels, crop, flips, workers
        self.eval_crop = eval_crop

    @abstractmethod
    def load(self, split: Split) -> ImageSet:
        """Read one split."""


@checked
class Embedded(PhotographData):
    """Photographs that scikit-image ships: nothing to download, no scene in two splits."""

    SPLITS: ClassVar[dict[str, tuple[str, ...]]] = {
        "train": (
            "astronaut.png",
            "brick.png",
            "grass.png",
            "gravel.png",
            "hubble_deep_field.jpg",
            "moon.png",
            "motorcycle_left.png",
            "retina.jpg",
        ),
        "val": ("coins.png", "rocket.jpg"),
        "test": ("camera.png", "chelsea.png", "coffee.png"),
    }

    def load(self, split: Split) -> ImageSet:
        # Read as files: skimage.data's functions would try a download for one that is missing.
        folder = Path(skimage.data.__file__).parent
        files = [folder / name for name in self.SPLITS[split]]
        sources = [(file.stem, partial(read_image, file)) for file in files]
        return ImageSet(sources, channels=self.channels)


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
        eval_crop: as `PhotographData`.
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
        eval_crop: Count | None = None,
        flips: bool = True,
        workers: Index | None = None,
    ) -> None:
        super().__init__(
            channels=channels, crop=crop, eval_crop=eval_crop, flips=flips, workers=workers
        )
        self.places = {"train": train, "val": val, "test": test}
        self.cache_mib = cache_mib

    def load(self, split: Split) -> ImageSet:
        place = self.places[split]
        if not place:
            raise InputError(f"data.{split} is not set; name a folder: data.{split}=DIR")
        key = f"data.{split}"
        return folder_images(place, key, channels=self.channels, cache_mib=self.cache_mib)
