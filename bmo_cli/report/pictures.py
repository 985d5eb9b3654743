"""Pictures of runs for a page: read as data, encoded again, each held once, within a budget."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bmo_cli.data.image_file import read_image
from bmo_cli.errors import InputError
from bmo_cli.report.entry import Entry

BUDGET = 4_000_000
"""bytes of all pictures of a page, encoded"""
_SIDES = (10_000, 768, 512, 384, 256, 192, 128)
"""largest sides of the cuts that are tried, until all fit"""
_MEGAPIXELS = 40
_ESTIMATE = "restored"
_NAME = re.compile(r"[\w.-]{1,40}")


@dataclass(frozen=True)
class Shown:
    """A picture of a case.

    Attributes:
        name: what it shows, for the reader.
        key: of its data in `Album.data`.
        run: whose it is; None: of the case.
        restored: whether it is what a run made of the observation.
    """

    name: str
    key: str
    run: int | None
    restored: bool


@dataclass
class Album:
    """Pictures by case.

    Attributes:
        cases: the pictures of every case, those of the case itself first.
        data: data URI by key.
        side: largest side of the cuts from their middle; None: they are whole.
        left_out: runs whose pictures found no room.
    """

    cases: dict[str, list[Shown]] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    side: int | None = None
    left_out: int = 0


def collect(entries: Sequence[tuple[int, str, Entry]], cases: int = 3, runs: int = 12) -> Album:
    """The pictures that runs wrote of their first test cases.

    Args:
        entries: number, label and run, the most important first.
        cases: how many cases are shown.
        runs: how many runs at most.

    Returns:
        An album, empty where no run wrote pictures. A picture that cannot be read is left out.
    """
    found: dict[str, list[_Found]] = {}
    for number, label, entry in entries[:runs]:
        for case, files in _files(entry, cases).items():
            if case in found or len(found) < cases:
                read = [_Found(name, number, label, _read(file)) for name, file in files.items()]
                read = [one for one in read if one.pixels.size]
                if read:
                    found.setdefault(case, []).extend(read)
    for side in _SIDES:
        album = _encoded(found, side)
        if sum(map(len, album.data.values())) <= BUDGET:
            break
    album.left_out = max(0, len(entries) - runs)
    return album


@dataclass(frozen=True)
class _Found:
    name: str
    run: int
    label: str
    pixels: NDArray[np.uint8]


def _files(entry: Entry, cases: int) -> Mapping[str, Mapping[str, Path]]:
    """Pictures in the run's folder by case and name, as its result.json lists them."""
    if entry.folder.images.is_symlink():
        return {}
    listed = (entry.run.result.pictures or {}).items()
    return {
        case: {n: entry.folder.picture(i, case, n) for n in names[:6] if _NAME.fullmatch(n)}
        for i, (case, names) in enumerate(list(listed)[:cases], 1)
    }


def _read(file: Path) -> NDArray[np.uint8]:
    """8-bit pixels (H, W) or (H, W, 3); none of a link or of what cannot be read."""
    nothing = np.zeros((0, 0), np.uint8)
    if file.is_symlink():
        return nothing
    try:
        image = read_image(file, _MEGAPIXELS)
    except (InputError, OSError):
        return nothing
    pixels = image.pixels if image.depth == 8 else (image.pixels // 257).astype(np.uint8)
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels


def _encoded(found: Mapping[str, Sequence[_Found]], side: int) -> Album:
    album = Album()
    for case, pictures in found.items():
        keys: dict[str, set[str]] = {}
        encoded = []
        for one in pictures:
            cut = _cut(one.pixels, side)
            if cut.shape != one.pixels.shape:
                album.side = side
            key = hashlib.sha256(cut.tobytes() + repr(cut.shape).encode()).hexdigest()[:12]
            if key not in album.data:
                album.data[key] = _data_uri(cut)
            keys.setdefault(one.name, set()).add(key)
            encoded.append((one, key))
        shown = {}
        for one, key in encoded:
            if one.name == _ESTIMATE:
                shown[one.name, one.run] = Shown(one.label, key, one.run, True)
            elif len(keys[one.name]) == 1:  # of the case: all runs have the same
                shown[one.name, -1] = Shown(one.name, key, None, False)
            else:
                title = f"{one.label}: {one.name}"
                shown[one.name, one.run] = Shown(title, key, one.run, False)
        album.cases[case] = sorted(shown.values(), key=lambda picture: picture.run is not None)
    return album


def _cut(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The middle, pixel for pixel: a smaller scale would hide what is compared."""
    height, width = pixels.shape[:2]
    h, w = min(height, side), min(width, side)
    top, left = (height - h) // 2, (width - w) // 2
    return pixels[top : top + h, left : left + w]


def _data_uri(pixels: NDArray[np.uint8]) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "WEBP", lossless=True, quality=60, method=4)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
