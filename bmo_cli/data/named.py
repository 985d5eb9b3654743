"""Data sets with names, for training and for testing: `data=set12`, `data=rain100l`, ..."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from bmo_cli.config.checks import Count, Flips, Index, Positive, checked
from bmo_cli.data.embedded import embedded_files
from bmo_cli.data.images.image_set import ImageSet
from bmo_cli.data.named_sets import SETS, Files, find, require
from bmo_cli.data.pairs import held_out_part, pairs_digest
from bmo_cli.data.splits import SPLITS, PhotographData, Split
from bmo_cli.errors import InputError, suggest_nearest


@checked
class Named(PhotographData):
    """Published data sets under one folder, by the names of `named_sets.SETS`.

    Sets of pairs have degraded partners. Other sets are clean alone. A task may be trained on one
    kind and tested on the other.

    Args:
        root: folder of the data sets; None: environment variable BMO_DATA.
        test_set: set that is tested on; None: the test photographs of scikit-image.
        train_set: set that is trained on; None: the photographs of scikit-image.
        subset: names of the test images to use, without ending; None: all.
        val_count: images of `train_set`, its last ones, that validation takes.
        cache_mib: memory for decoded images of a split. Further images are decoded when used.
        flips: as `PhotographData`; None: mirror where one of the sets is of pairs, else all.
        crop_keys: arguments of `PhotographData`.

    Raises:
        InputError: no such set; a training set that shows scenes of the test set; gray photographs
            to train a network for colour.
    """

    def __init__(
        self,
        *,
        root: str | None = None,
        test_set: str | None = None,
        train_set: str | None = "bsd400",
        subset: list[Index | str] | None = None,
        val_count: Count = 10,
        cache_mib: Positive = 2048.0,
        flips: Flips | None = None,
        **crop_keys: Any,
    ) -> None:
        if test_set is not None:
            require(test_set, "test", "data.test_set")
        if train_set is not None:
            require(train_set, "train", "data.train_set")
            _require_other_scenes(train_set, test_set)
        rainy = any(name and SETS[name].kind == "pairs" for name in (test_set, train_set))
        flips = flips or ("mirror" if rainy else "all")  # rain falls: no turning
        super().__init__(flips=flips, **crop_keys)
        if train_set is not None and SETS[train_set].kind == "gray" and self.channels > 1:
            raise InputError(
                f"data.train_set={train_set} holds gray photographs, and data.channels="
                f"{self.channels} trains a network for colour; use data.train_set=bsd_colour, or "
                "null for the photographs of scikit-image"
            )
        self.root, self.test_set, self.train_set = root, test_set, train_set
        self.subset = None if subset is None else [str(name) for name in subset]
        self.val_count, self.cache_mib = val_count, cache_mib
        self._files_of_sets: dict[str, Files] = {}
        self._read_splits: dict[str, tuple[ImageSet, ImageSet | None]] = {}

    def load(self, split: Split) -> ImageSet:
        return self._images(split)[0]

    def observed(self, split: Split) -> ImageSet | None:
        return self._images(split)[1]

    def digest(self, splits: Sequence[Split] = SPLITS) -> str:
        return pairs_digest({split: self._files(split) for split in splits})

    def require_files(self, splits: Sequence[Split]) -> None:
        for split in splits:
            self._files(split)

    def _images(self, split: Split) -> tuple[ImageSet, ImageSet | None]:
        if split not in self._read_splits:
            clean, degraded = self._files(split)
            self._read_splits[split] = (
                (self._read(clean, self.cache_mib), None)
                if degraded is None
                else self._read_pairs((clean, degraded), self.cache_mib)
            )
        return self._read_splits[split]

    def _find(self, name: str, purpose: Literal["train", "test"]) -> Files:
        if purpose not in self._files_of_sets:
            self._files_of_sets[purpose] = find(name, purpose, self.root, f"data.{purpose}_set")
        return self._files_of_sets[purpose]

    def _files(self, split: Split) -> Files:
        if split == "test":
            return self._test_files()
        if self.train_set is None:
            return embedded_files(split), None
        clean, degraded = self._find(self.train_set, "train")
        part = held_out_part(split, self.val_count, len(clean), f"data.train_set={self.train_set}")
        return clean[part], None if degraded is None else degraded[part]

    def _test_files(self) -> Files:
        """The test images, those of `subset` where it is given."""
        clean, degraded = (
            (embedded_files("test"), None)
            if self.test_set is None
            else self._find(self.test_set, "test")
        )
        if self.subset is None:
            return clean, degraded
        names = [file.stem for file in clean]
        if not self.subset:
            raise InputError("data.subset is empty; use null for all test images")
        for name in self.subset:
            if name not in names:
                there = ", ".join(names[:20]) + (f", ... {names[-1]}" if len(names) > 20 else "")
                raise InputError(
                    f"data.subset: '{name}' is not in {self.test_set or 'the embedded test images'}"
                    f"{suggest_nearest(name, names)}; there are {there}"
                )
        chosen = [i for i, name in enumerate(names) if name in self.subset]
        return [clean[i] for i in chosen], degraded and [degraded[i] for i in chosen]


def _require_other_scenes(train_set: str, test_set: str | None) -> None:
    if test_set is not None and test_set in SETS[train_set].scenes_of:
        raise InputError(
            f"data.train_set={train_set} shows scenes of the test images of {test_set}, so that "
            "scores would be too high; use data.train_set=bsd_colour"
        )
