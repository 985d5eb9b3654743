"""Pairs of clean and degraded photographs: matched by name, alike in size and in colour."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bmo_cli.data.image_set import ImageSet, image_files
from bmo_cli.errors import InputError


def pair_files(
    place: str, key: str, clean: str = "clean", degraded: str = "rain"
) -> tuple[list[Path], list[Path]]:
    """Clean and degraded files of `place` in the same order, matched by name without the ending.

    Args:
        place: folder that holds both folders.
        key: of the configuration that names it, for messages.
        clean, degraded: names of the two folders.

    Raises:
        InputError: a folder is missing or empty, or an image has no partner or two.
    """
    folders = [Path(place).expanduser() / kind for kind in (clean, degraded)]
    for folder in folders:
        if not folder.is_dir():
            raise InputError(
                f"{key}={place} holds no folder '{folder.name}'; expected {place}/{degraded} and "
                f"{place}/{clean} (data.degraded and data.clean name them)"
            )
    files = [image_files(str(folder), key) for folder in folders]
    by_stem = [{file.stem: file for file in found} for found in files]
    for found, known, folder in zip(files, by_stem, folders, strict=True):
        if len(known) < len(found):
            raise InputError(f"{folder} holds two images of one name with different endings")
    alone = sorted(set(by_stem[0]) ^ set(by_stem[1]))
    if alone:
        listed = ", ".join(alone[:4]) + (", ..." if len(alone) > 4 else "")
        raise InputError(
            f"{key}={place}: {len(alone)} images have no partner ({listed}); every name must occur "
            f"in {degraded}/ and in {clean}/"
        )
    return list(by_stem[0].values()), [by_stem[1][stem] for stem in by_stem[0]]


def require_alike(
    files: tuple[Sequence[Path], Sequence[Path]], sets: tuple[ImageSet, ImageSet]
) -> None:
    """Refuse a pair of different sizes, or of gray and colour.

    Args:
        files: clean and degraded.
        sets: what was read from them.

    Raises:
        InputError: naming the pair.
    """
    clean, degraded = sets
    for i, (a, b) in enumerate(zip(*files, strict=True)):
        if clean.sizes[i] != degraded.sizes[i]:
            own, other = ("{} x {}".format(*images.sizes[i]) for images in sets)
            raise InputError(f"{a} is {own} but its partner {b} is {other}; sizes must agree")
        if clean.bands[i] != degraded.bands[i]:
            own, other = ({1: "gray", 3: "colour"}[images.bands[i]] for images in sets)
            raise InputError(
                f"{a} is {own} but its partner {b} is {other}; both must be gray or both colour"
            )
