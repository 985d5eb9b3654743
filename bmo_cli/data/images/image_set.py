"""The images of a split with names and fingerprints. Memory keeps what fits of the decoded ones."""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmo_cli.data.images.file import FORMATS, SUFFIXES
from bmo_cli.data.images.photograph import Photograph
from bmo_cli.data.images.white_level import Brightness
from bmo_cli.data.perceptual import look_alikes, perceptual_hash
from bmo_cli.errors import InputError, escape_unprintable

log = logging.getLogger(__name__)
_WORKERS = 4
_AHEAD = 2 * _WORKERS
"""Images that may be decoded before it is known whether memory for them is left."""
Source = tuple[str, Callable[[], Photograph]]
"""A name, and the function that decodes the image."""


@dataclass(frozen=True)
class _Entry:
    name: str
    size: tuple[int, int]
    bands: int
    digest: str
    perceptual: str | None
    brightness: Brightness
    pixels: NDArray[Any] | None
    load: Callable[[], Photograph]


class ImageSet:
    """Images of one split, all gray or all colour.

    Args:
        sources: of every image.
        channels: 1 gray or 3 colour. Every image is converted.
        white: value that stands for white, as the user gave it. The sources apply it.
        cache_mib: decoded images are kept up to this much memory. The rest is decoded when asked
            for. Every image is decoded once at construction, so a damaged one is found at once.

    Raises:
        InputError: an image cannot be decoded.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        channels: int,
        white: int | None = None,
        cache_mib: float = 2048,
    ) -> None:
        self.channels, self._white = channels, white
        self._entries: list[_Entry] = []
        budget = cache_mib * 2**20
        with ThreadPoolExecutor(_WORKERS) as pool:
            for start in range(0, len(sources), _AHEAD):
                for entry in pool.map(self._entry, sources[start : start + _AHEAD]):
                    kept = entry.pixels
                    if kept is not None and kept.nbytes <= budget:
                        budget -= kept.nbytes
                    else:
                        entry = replace(entry, pixels=None)
                    self._entries.append(entry)

    def _entry(self, source: Source) -> _Entry:
        name, load = source
        image = load()
        pixels = image.pixels
        digest = hashlib.sha256(f"{pixels.shape}{pixels.dtype}".encode())
        digest.update(np.ascontiguousarray(pixels).tobytes())
        height, width = pixels.shape[:2]
        kept = image.channels_first(self.channels)
        hashes = digest.hexdigest()[:16], perceptual_hash(pixels)
        brightness = Brightness.of(name, image, self._white)
        return _Entry(name, (height, width), pixels.shape[2], *hashes, brightness, kept, load)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, i: int) -> NDArray[Any]:
        """Image i as (C, H, W) of uint8 or uint16."""
        kept = self._entries[i].pixels
        return self._entries[i].load().channels_first(self.channels) if kept is None else kept

    @property
    def names(self) -> list[str]:
        """Name of every image."""
        return [entry.name for entry in self._entries]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(H, W) of every image."""
        return [entry.size for entry in self._entries]

    @property
    def bands(self) -> list[int]:
        """Channels of every image as it is stored: 1 gray, 3 colour."""
        return [entry.bands for entry in self._entries]

    @property
    def brightness(self) -> list[Brightness]:
        """Of every image."""
        return [entry.brightness for entry in self._entries]

    @property
    def in_memory(self) -> bool:
        """Whether no image has to be decoded again."""
        return all(entry.pixels is not None for entry in self._entries)

    @property
    def digests(self) -> dict[str, str]:
        """Content hash of the decoded pixels of every image."""
        return {entry.name: entry.digest for entry in self._entries}

    @property
    def perceptual(self) -> dict[str, str | None]:
        """Hash of what every image looks like, see `perceptual`."""
        return {entry.name: entry.perceptual for entry in self._entries}

    def fingerprint(self) -> dict[str, Any]:
        """Count, names, sizes and content hashes, one hash of it all, and perceptual hashes."""
        files = {e.name: {"size": list(e.size), "hash": e.digest} for e in self._entries}
        whole = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:16]
        summary = {"images": len(self), "hash": whole, "files": files}
        return summary | {"perceptual": self.perceptual}

    def require(self, least: tuple[int, int], what: str) -> None:
        """Refuse images smaller than `least` = (H, W), which is the size of `what`."""
        for name, (height, width) in zip(self.names, self.sizes, strict=True):
            if height < least[0] or width < least[1]:
                raise InputError(
                    f"image {name} is {height} x {width}, smaller than {what} "
                    f"({least[0]} x {least[1]})"
                )


def image_files(place: str, key: str) -> list[Path]:
    """The image files of a folder, or those that a pattern matches, sorted by name.

    Names that begin with a dot are hidden and do not count. What else is no image is named in a
    line.

    Raises:
        InputError: missing or empty folder, nothing matches, or an image that is a dead link.
    """
    entries = _matching(place, key)
    named = [entry for entry in entries if entry.suffix.lower() in SUFFIXES]
    dead = [entry.name for entry in named if entry.is_symlink() and not entry.exists()]
    if dead:
        raise InputError(
            f"{key}={place}: {len(dead)} of {len(named)} images are links to nothing: "
            f"{_list_names(dead)}; fetch them, or remove the links"
        )
    files = [entry for entry in named if entry.is_file()]
    if not files:
        raise InputError(f"{key}={place} holds no images ({FORMATS})")
    images = set(files)
    other = [entry.name for entry in entries if entry not in images]
    if other:
        where = escape_unprintable(f"{key}={place}")
        log.warning("%s: ignored %d other files: %s", where, len(other), _list_names(other))
    return files


def _list_names(names: Sequence[str], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return escape_unprintable(", ".join(names[:most])) + more


def printable_names(files: Sequence[Path]) -> list[str]:
    """Names of files as text that can be printed and encoded, no two of them alike."""
    names: dict[str, None] = {}
    for file in files:
        name, number = escape_unprintable(file.name), 1
        while name in names:
            number += 1
            name = escape_unprintable(f"{file.stem}~{number}{file.suffix}")
        names[name] = None
    return list(names)


def files_digest(parts: Mapping[str, Sequence[Path]]) -> str:
    """A hash of names and contents. Nothing is decoded, and the folder is not part of it.

    Args:
        parts: files by what they are for, which is in the hash: an image that moves from training
            to validation makes another experiment.

    Raises:
        InputError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for part, files in parts.items():
        digest.update(f"{part}\0{len(files)}\0".encode())
        for file in files:
            try:
                content = hashlib.sha256(file.read_bytes()).hexdigest()
            except OSError as error:
                raise InputError(f"{file} cannot be read: {error.strerror or error}") from error
            digest.update(os.fsencode(file.name) + f"\0{content}\0".encode())
    return digest.hexdigest()[:16]


def _matching(place: str, key: str) -> list[Path]:
    path = Path(place).expanduser()
    if path.is_dir():
        entries = list(path.iterdir())
    elif path.is_file():
        return [path]
    elif path.is_symlink():
        raise InputError(f"{key}={place} is a link to nothing; fetch it, or remove the link")
    else:
        entries = list(path.parent.glob(path.name))
        if not entries:
            raise InputError(f"{key}={place} does not exist; expected a folder or a file pattern")
    return sorted(entry for entry in entries if not entry.name.startswith("."))


def shared_images(splits: dict[str, ImageSet]) -> list[str]:
    """`name (split) = name (split)` for every image whose pixels occur in two splits."""
    owner: dict[str, tuple[str, str]] = {}
    shared = []
    for split, images in splits.items():
        for name, digest in images.digests.items():
            other = owner.setdefault(digest, (name, split))
            if other[1] != split:
                shared.append(f"{other[0]} ({other[1]}) = {name} ({split})")
    return shared


def similar_images(splits: dict[str, ImageSet]) -> list[str]:
    """`name (split) ~ name (split)` for near-duplicates in two splits that are not equal."""
    similar = []
    for (split, images), (other, others) in itertools.combinations(splits.items(), 2):
        for name, partner in look_alikes(images.perceptual, others.perceptual):
            if images.digests[name] != others.digests[partner]:
                similar.append(f"{name} ({split}) ~ {partner} ({other})")
    return similar
