"""Pairs of clean and degraded photographs: matched by name, alike in size and in colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bmo_cli.data.images.image_set import ImageSet, files_digest, image_files
from bmo_cli.errors import InputError


def pair_files(
    place: str, key: str, clean: str = "clean", degraded: str = "rain"
) -> tuple[list[Path], list[Path]]:
    """Clean and degraded files of `place` in the same order, matched by name without the ending.

    Where the names are not all equal, norain-NAME and rain-NAME are partners, as in the published
    sets of rain.

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
    if {file.stem for file in files[0]} == {file.stem for file in files[1]}:
        prefixes = ("", "")
    else:
        prefixes = _PREFIXES
    by_name = [
        _by_name(listed, folder, prefix)
        for listed, folder, prefix in zip(files, folders, prefixes, strict=True)
    ]
    alone = sorted(set(by_name[0]) ^ set(by_name[1]))
    if alone:
        listed = ", ".join(alone[:4]) + (", ..." if len(alone) > 4 else "")
        raise InputError(
            f"{key}={place}: {len(alone)} images have no partner ({listed}); every name must occur "
            f"in {degraded}/ and in {clean}/, or as rain-NAME there and norain-NAME here"
        )
    return list(by_name[0].values()), [by_name[1][name] for name in by_name[0]]


_PREFIXES = ("norain-", "rain-")
"""Of clean and degraded files."""


def _by_name(files: Sequence[Path], folder: Path, prefix: str) -> dict[str, Path]:
    """Files by their names without the prefix and the ending."""
    by_name: dict[str, Path] = {}
    for file in files:
        name = file.stem.removeprefix(prefix)
        other = by_name.setdefault(name, file)
        if other is not file:
            reason = (
                "two images of one name with different endings"
                if other.stem == file.stem
                else f"{other.name} and {file.name}, which could both be the partner of '{name}'"
            )
            raise InputError(f"{folder} holds {reason}")
    return by_name


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


def pairs_digest(splits: Mapping[str, tuple[Sequence[Path], Sequence[Path] | None]]) -> str:
    """`files_digest` of clean and degraded files by split; None: a split has clean ones alone."""
    parts = {
        f"{split} {kind}": files
        for split, both in splits.items()
        for kind, files in zip(("clean", "degraded"), both, strict=True)
        if files is not None
    }
    return files_digest(parts)


def held_out_part(split: str, val_count: int, count: int, where: str) -> slice:
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
