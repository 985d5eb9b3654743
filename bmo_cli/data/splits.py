"""Data sets of photographs: training, validation and test split, by image.

A data set is a class with `load(split) -> ImageSet`; only the splits that are used are read.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import skimage.data

from bmo_cli.config.checks import Channels, Count, Flips, Positive, Workers, checked
from bmo_cli.data.image_file import MAX_MEGAPIXELS, read_image
from bmo_cli.data.image_set import ImageSet, files_digest, image_files, shown_names
from bmo_cli.data.pairs import pair_files, require_alike
from bmo_cli.data.white_level import remarks
from bmo_cli.errors import InputError

log = logging.getLogger(__name__)
Split = Literal["train", "val", "test"]


class PhotographData(ABC):
    """Photographs in three splits, and how training crops are taken from them.

    Attributes:
        channels: 1 gray or 3 colour; every image is converted.
        crop: side of the training crops in pixels.
        eval_crop: side of the central square that validation and test see; None: whole images.
        flips: of training crops, see `Patches`.
        workers: threads that prepare batches ahead; None: 2, or none when memory holds all images.
        max_megapixels: files that claim more million pixels are refused before they are decoded.
        root: folder of the data sets with names, where the data are told one.
        white: value that stands for white in the files; None: as each of them says.
        white_key: of the configuration that sets it; None: it cannot be set.
    """

    root: str | None = None
    white: int | None = None
    white_key: str | None = None

    def __init__(
        self,
        *,
        channels: Channels = 1,
        crop: Count = 64,
        eval_crop: Count | None = None,
        flips: Flips = "all",
        workers: Workers | None = None,
        max_megapixels: Positive = MAX_MEGAPIXELS,
    ) -> None:
        self.channels, self.crop, self.flips, self.workers = channels, crop, flips, workers
        self.eval_crop, self.max_megapixels = eval_crop, max_megapixels

    @abstractmethod
    def load(self, split: Split) -> ImageSet:
        """Read one split."""

    def observed(self, split: Split) -> ImageSet | None:
        """Degraded partners of `load(split)`, image by image; None: the data are clean alone."""
        return None

    def require_files(self, splits: Sequence[Split]) -> None:  # noqa: B027 - plug-ins lack it
        """Look for the files of these splits; nothing is read.

        Raises:
            InputError: files are missing.
        """

    @abstractmethod
    def digest(self) -> str:
        """Identity of the files of each split, by name and content; nothing is decoded.

        Raises:
            InputError: files are missing.
        """

    def _read(
        self, files: Sequence[Path], cache_mib: float, names: Sequence[str] | None = None
    ) -> ImageSet:
        """These files as a split, under their own names or others."""
        read = partial(
            read_image,
            max_megapixels=self.max_megapixels,
            key="data.max_megapixels",
            white=self.white,
            white_key=self.white_key,
        )
        names = shown_names(files) if names is None else names
        sources = [(name, partial(read, file)) for name, file in zip(names, files, strict=True)]
        images = ImageSet(sources, channels=self.channels, white=self.white, cache_mib=cache_mib)
        for line in remarks(images.brightness, self.white_key):
            log.warning("%s", line)
        return images

    def _read_pairs(
        self, files: tuple[Sequence[Path], Sequence[Path]], cache_mib: float
    ) -> tuple[ImageSet, ImageSet]:
        """Clean and degraded files as a split."""
        clean, degraded = (self._read(part, cache_mib / 2) for part in files)
        require_alike(files, (clean, degraded))
        return clean, degraded


EMBEDDED: Mapping[Split, tuple[str, ...]] = {
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


def embedded_files(split: Split) -> list[Path]:
    """The files of a split of the photographs that scikit-image ships."""
    # Read as files: skimage.data's functions would try a download for one that is missing.
    folder = Path(skimage.data.__file__).parent
    return [folder / name for name in EMBEDDED[split]]


@checked
class Embedded(PhotographData):
    """Photographs that scikit-image ships: nothing to download, no scene in two splits."""

    def load(self, split: Split) -> ImageSet:
        files = embedded_files(split)
        return self._read(files, math.inf, [file.stem for file in files])

    def digest(self) -> str:
        return files_digest({split: embedded_files(split) for split in EMBEDDED})


@checked
class Folder(PhotographData):
    """Any folders of PNG, JPEG, BMP or TIFF files, 8 or 16 bit, gray or colour, any size.

    Args:
        train: folder, file or file pattern (`photos/*.png`).
        val: the same for validation.
        test: the same for the final evaluation.
        cache_mib: memory for decoded images, a split; beyond it images are decoded when used.
        white: value that stands for white (4095 for 12 bits in a file of 16); None: as each file
            says.
        channels: as `PhotographData`.
        crop: as `PhotographData`.
        eval_crop: as `PhotographData`.
        flips: as `PhotographData`.
        workers: as `PhotographData`.
        max_megapixels: as `PhotographData`.
    """

    white_key = "data.white"

    def __init__(
        self,
        *,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        cache_mib: Positive = 2048.0,
        white: Count | None = None,
        channels: Channels = 1,
        crop: Count = 64,
        eval_crop: Count | None = None,
        flips: Flips = "all",
        workers: Workers | None = None,
        max_megapixels: Positive = MAX_MEGAPIXELS,
    ) -> None:
        super().__init__(
            channels=channels,
            crop=crop,
            eval_crop=eval_crop,
            flips=flips,
            workers=workers,
            max_megapixels=max_megapixels,
        )
        self.places = {"train": train, "val": val, "test": test}
        self.cache_mib, self.white = cache_mib, white

    def load(self, split: Split) -> ImageSet:
        return self._read(image_files(_given(self.places, split), f"data.{split}"), self.cache_mib)

    def require_files(self, splits: Sequence[Split]) -> None:
        for split in splits:
            image_files(_given(self.places, split), f"data.{split}")

    def digest(self) -> str:
        return files_digest(
            {split: image_files(p, f"data.{split}") for split, p in self.places.items() if p}
        )


@checked
class Paired(PhotographData):
    """Degraded photographs with their clean partners: DIR/rain and DIR/clean.

    Files are matched by name without the ending, see `pair_files`. Gray beside colour and different
    sizes within a pair are refused; an alpha channel is left out.

    Args:
        train: folder that holds the two folders of pairs.
        val: the same for validation; None: the last `val_count` pairs of `train`.
        test: the same for the final evaluation.
        val_count: pairs of `train` that validation takes where `val` is None.
        degraded: name of the folder of degraded photographs.
        clean: name of the folder of clean photographs.
        cache_mib: memory for decoded images, a split; beyond it images are decoded when used.
        white: value that stands for white (4095 for 12 bits in a file of 16); None: as each file
            says.
        channels: as `PhotographData`.
        crop: as `PhotographData`.
        eval_crop: as `PhotographData`.
        flips: as `PhotographData`.
        workers: as `PhotographData`.
        max_megapixels: as `PhotographData`.
    """

    white_key = "data.white"

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
        white: Count | None = None,
        channels: Channels = 3,
        crop: Count = 96,
        eval_crop: Count | None = None,
        flips: Flips = "all",
        workers: Workers | None = None,
        max_megapixels: Positive = MAX_MEGAPIXELS,
    ) -> None:
        super().__init__(
            channels=channels,
            crop=crop,
            eval_crop=eval_crop,
            flips=flips,
            workers=workers,
            max_megapixels=max_megapixels,
        )
        self.places = {"train": train, "val": val, "test": test}
        self.val_count, self.kinds, self.cache_mib = val_count, (clean, degraded), cache_mib
        self.white = white
        self._sets: dict[str, tuple[ImageSet, ImageSet]] = {}

    def load(self, split: Split) -> ImageSet:
        return self._pairs(split)[0]

    def observed(self, split: Split) -> ImageSet:
        return self._pairs(split)[1]

    def digest(self) -> str:
        return pairs_digest(
            {split: self._files(split, place) for split, place in self.places.items() if place}
        )

    def require_files(self, splits: Sequence[Split]) -> None:
        for split in splits:
            self._pair_files(split)

    def _pairs(self, split: Split) -> tuple[ImageSet, ImageSet]:
        if split not in self._sets:
            self._sets[split] = self._read_pairs(self._pair_files(split), self.cache_mib)
        return self._sets[split]

    def _pair_files(self, split: Split) -> tuple[list[Path], list[Path]]:
        """The clean and the degraded files of a split, held out of training where it has none."""
        held_out = split != "test" and not self.places["val"]
        source: Split = "train" if held_out else split
        files = self._files(source, _given(self.places, source))
        if not held_out:
            return files
        where = f"data.train={self.places['train']}"
        part = held_out_part(split, self.val_count, len(files[0]), where)
        return files[0][part], files[1][part]

    def _files(self, split: str, place: str) -> tuple[list[Path], list[Path]]:
        return pair_files(place, f"data.{split}", *self.kinds)


def pairs_digest(splits: Mapping[str, tuple[Sequence[Path], Sequence[Path] | None]]) -> str:
    """`files_digest` of clean and degraded files by split; None: a split has clean ones alone."""
    parts = {
        f"{split} {kind}": files
        for split, both in splits.items()
        for kind, files in zip(("clean", "degraded"), both, strict=True)
        if files is not None
    }
    return files_digest(parts)


def held_out_part(split: Split, val_count: int, count: int, where: str) -> slice:
    """The part of `count` training images that a split takes, where validation has none of its own.

    Raises:
        InputError: nothing would be left to train on; `where` says of what.
    """
    if count <= val_count:
        raise InputError(
            f"data.val_count={val_count} leaves nothing to train on: {where} holds {count}; "
            "use fewer"
        )
    return slice(-val_count, None) if split == "val" else slice(-val_count)


def _given(places: Mapping[str, str | None], split: str) -> str:
    place = places[split]
    if not place:
        raise InputError(f"data.{split} is not set; name a folder: data.{split}=DIR")
    return place
