"""Data sets of photographs: training, validation and test split, by image.

A data set is a class with `load(split) -> ImageSet`; only the splits that are used are read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import skimage.data

from bmo_cli.config.checks import Channels, Count, Index, Positive, checked
from bmo_cli.data.image_file import read_image
from bmo_cli.data.image_set import ImageSet, files_digest, folder_images, image_files
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

    def observed(self, split: Split) -> ImageSet | None:
        """Degraded partners of `load(split)`, image by image; None: the data are clean alone."""
        return None

    @abstractmethod
    def digest(self) -> str:
        """Identity of the files of all splits, by name and content; nothing is decoded.

        Raises:
            InputError: files are missing.
        """


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
        sources = [(file.stem, partial(read_image, file)) for file in self._files(split)]
        return ImageSet(sources, channels=self.channels)

    def digest(self) -> str:
        return files_digest([file for split in self.SPLITS for file in self._files(split)])

    def _files(self, split: str) -> list[Path]:
        # Read as files: skimage.data's functions would try a download for one that is missing.
        folder = Path(skimage.data.__file__).parent
        return [folder / name for name in self.SPLITS[split]]


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
        place, key = _given(self.places, split), f"data.{split}"
        return folder_images(place, key, channels=self.channels, cache_mib=self.cache_mib)

    def digest(self) -> str:
        found = [image_files(p, f"data.{split}") for split, p in self.places.items() if p]
        return files_digest([file for files in found for file in files])


@checked
class Paired(PhotographData):
    """Degraded photographs with their clean partners: DIR/rain and DIR/clean, equal names.

    Files are matched by name without the ending. Gray beside colour and different sizes within a
    pair are refused; an alpha channel is left out.

    Args:
        train: folder that holds the two folders of pairs.
        val: the same for validation; None: the last `val_count` pairs of `train`.
        test: the same for the final evaluation.
        val_count: pairs of `train` that validation takes where `val` is None.
        degraded: name of the folder of degraded photographs.
        clean: name of the folder of clean photographs.
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
        val_count: Count = 5,
        degraded: str = "rain",
        clean: str = "clean",
        cache_mib: Positive = 2048.0,
        channels: Channels = 3,
        crop: Count = 96,
        eval_crop: Count | None = None,
        flips: bool = True,
        workers: Index | None = None,
    ) -> None:
        super().__init__(
            channels=channels, crop=crop, eval_crop=eval_crop, flips=flips, workers=workers
        )
        self.places = {"train": train, "val": val, "test": test}
        self.val_count, self.kinds, self.cache_mib = val_count, (clean, degraded), cache_mib
        self._sets: dict[str, tuple[ImageSet, ImageSet]] = {}

    def load(self, split: Split) -> ImageSet:
        return self._pairs(split)[0]

    def observed(self, split: Split) -> ImageSet:
        return self._pairs(split)[1]

    def digest(self) -> str:
        found = [
            file
            for split, place in self.places.items()
            if place
            for files in self._files(split, place)
            for file in files
        ]
        return files_digest(found)

    def _pairs(self, split: Split) -> tuple[ImageSet, ImageSet]:
        if split in self._sets:
            return self._sets[split]
        held_out = split != "test" and not self.places["val"]
        source: Split = "train" if held_out else split
        place = _given(self.places, source)
        clean, degraded = self._files(source, place)
        if held_out:
            if len(clean) <= self.val_count:
                raise InputError(
                    f"data.val_count={self.val_count} leaves nothing to train on: data.train="
                    f"{place} holds {len(clean)} pairs; use fewer, or give data.val=DIR"
                )
            part = slice(-self.val_count, None) if split == "val" else slice(-self.val_count)
            clean, degraded = clean[part], degraded[part]
        sets = [
            ImageSet(
                [(file.name, partial(read_image, file)) for file in files],
                channels=self.channels,
                cache_mib=self.cache_mib / 2,
            )
            for files in (clean, degraded)
        ]
        _require_alike(clean, degraded, *sets)
        self._sets[split] = (sets[0], sets[1])
        return self._sets[split]

    def _files(self, split: str, place: str) -> tuple[list[Path], list[Path]]:
        """Clean and degraded files in the same order."""
        folders = [Path(place).expanduser() / kind for kind in self.kinds]
        for folder in folders:
            if not folder.is_dir():
                raise InputError(
                    f"data.{split}={place} holds no folder '{folder.name}'; expected "
                    f"{place}/{self.kinds[1]} and {place}/{self.kinds[0]} (data.degraded and "
                    "data.clean name them)"
                )
        clean, degraded = (image_files(str(folder), f"data.{split}") for folder in folders)
        by_stem = [{file.stem: file for file in files} for files in (clean, degraded)]
        for files, known, folder in zip((clean, degraded), by_stem, folders, strict=True):
            if len(known) < len(files):
                raise InputError(f"{folder} holds two images of one name with different endings")
        alone = sorted(set(by_stem[0]) ^ set(by_stem[1]))
        if alone:
            listed = ", ".join(alone[:4]) + (", ..." if len(alone) > 4 else "")
            raise InputError(
                f"data.{split}={place}: {len(alone)} images have no partner ({listed}); every name "
                f"must occur in {self.kinds[1]}/ and in {self.kinds[0]}/"
            )
        return [by_stem[0][stem] for stem in by_stem[0]], [by_stem[1][stem] for stem in by_stem[0]]


def _given(places: Mapping[str, str | None], split: str) -> str:
    place = places[split]
    if not place:
        raise InputError(f"data.{split} is not set; name a folder: data.{split}=DIR")
    return place


def _require_alike(
    clean: Sequence[Path], degraded: Sequence[Path], first: ImageSet, second: ImageSet
) -> None:
    """Refuse a pair of different sizes, or of gray and colour."""
    for i, (a, b) in enumerate(zip(clean, degraded, strict=True)):
        if first.sizes[i] != second.sizes[i]:
            own, other = ("{} x {}".format(*images.sizes[i]) for images in (first, second))
            raise InputError(f"{a} is {own} but its partner {b} is {other}; sizes must agree")
        if first.bands[i] != second.bands[i]:
            kinds = {1: "gray", 3: "colour"}
            raise InputError(
                f"{a} is {kinds[first.bands[i]]} but its partner {b} is {kinds[second.bands[i]]}; "
                "both must be gray or both colour"
            )
