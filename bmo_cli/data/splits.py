"""Data sets of photographs: training, validation and test split, by image.

A data set is a class with `load(split) -> ImageSet`. Only the splits that are used are read.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from bmo_cli.config.checks import Channels, Count, Flips, Positive, Workers, checked
from bmo_cli.data.embedded import embedded_files
from bmo_cli.data.images.file import MAX_MEGAPIXELS, read_image
from bmo_cli.data.images.image_set import ImageSet, files_digest, image_files, printable_names
from bmo_cli.data.images.white_level import remarks
from bmo_cli.data.pairs import held_out_part, pair_files, pairs_digest, require_alike
from bmo_cli.errors import InputError

log = logging.getLogger(__name__)
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@checked
class PhotographData(ABC):
    """Photographs in three splits, and how training crops are taken from them.

    Attributes:
        channels: 1 gray or 3 colour. Every image is converted.
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
        """Look for the files of these splits without reading them.

        Raises:
            InputError: files are missing.
        """

    @abstractmethod
    def digest(self, splits: Sequence[Split] = SPLITS) -> str:
        """Identity of the files of each split, by name and content. Nothing is decoded.

        Args:
            splits: those that count.

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
        names = printable_names(files) if names is None else names
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


class Embedded(PhotographData):
    """Photographs that scikit-image ships. They need no download, and no scene is in two splits."""

    def load(self, split: Split) -> ImageSet:
        files = embedded_files(split)
        return self._read(files, math.inf, [file.stem for file in files])

    def digest(self, splits: Sequence[Split] = SPLITS) -> str:
        return files_digest({split: embedded_files(split) for split in splits})


@checked
class PhotographFiles(PhotographData):
    """Photographs of the user's own, with a place for each split.

    Args:
        train: folder, file or file pattern (`photos/*.png`).
        val: the same for validation.
        test: the same for the final evaluation.
        cache_mib: memory for decoded images of a split. Further images are decoded when used.
        white: value that stands for white (4095 for 12 bits in a file of 16); None: as each file
            says.
        crop_keys: arguments of `PhotographData`.
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
        **crop_keys: Any,
    ) -> None:
        super().__init__(**crop_keys)
        self.places = {"train": train, "val": val, "test": test}
        self.cache_mib, self.white = cache_mib, white

    def _given(self, splits: Sequence[Split]) -> dict[str, str]:
        """What the user named for these splits, without those that have no place."""
        return {split: place for split in splits if (place := self.places[split])}

    def _place(self, split: Split) -> str:
        """What the user named for a split.

        Raises:
            InputError: nothing.
        """
        place = self.places[split]
        if not place:
            raise InputError(f"data.{split} is not set; name a folder: data.{split}=DIR")
        return place


class Folder(PhotographFiles):
    """Any folders of PNG, JPEG, BMP or TIFF files, 8 or 16 bit, gray or colour, any size.

    Its arguments are those of `PhotographFiles`.
    """

    def load(self, split: Split) -> ImageSet:
        return self._read(self._files(split), self.cache_mib)

    def require_files(self, splits: Sequence[Split]) -> None:
        for split in splits:
            self._files(split)

    def digest(self, splits: Sequence[Split] = SPLITS) -> str:
        given = self._given(splits)
        return files_digest({split: image_files(p, f"data.{split}") for split, p in given.items()})

    def _files(self, split: Split) -> list[Path]:
        return image_files(self._place(split), f"data.{split}")


@checked
class Paired(PhotographFiles):
    """Degraded photographs with their clean partners: DIR/rain and DIR/clean.

    Files are matched by name without the ending, see `pair_files`. A pair of gray and colour, or of
    different sizes, is refused. An alpha channel is left out.

    Args:
        val_count: pairs of `train` that validation takes where `val` is None.
        degraded: name of the folder of degraded photographs.
        clean: name of the folder of clean photographs.
        channels: as `PhotographData`.
        crop: as `PhotographData`.
        file_keys: arguments of `PhotographFiles`. A place is a folder that holds the two folders.
    """

    def __init__(
        self,
        *,
        val_count: Count = 5,
        degraded: str = "rain",
        clean: str = "clean",
        channels: Channels = 3,
        crop: Count = 96,
        **file_keys: Any,
    ) -> None:
        super().__init__(channels=channels, crop=crop, **file_keys)
        self.val_count, self.kinds = val_count, (clean, degraded)
        self._sets: dict[str, tuple[ImageSet, ImageSet]] = {}

    def load(self, split: Split) -> ImageSet:
        return self._pairs(split)[0]

    def observed(self, split: Split) -> ImageSet:
        return self._pairs(split)[1]

    def digest(self, splits: Sequence[Split] = SPLITS) -> str:
        given = self._given(splits)
        return pairs_digest({split: self._files(split, place) for split, place in given.items()})

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
        files = self._files(source, self._place(source))
        if not held_out:
            return files
        where = f"data.train={self.places['train']}"
        part = held_out_part(split, self.val_count, len(files[0]), where)
        return files[0][part], files[1][part]

    def _files(self, split: str, place: str) -> tuple[list[Path], list[Path]]:
        return pair_files(place, f"data.{split}", *self.kinds)
