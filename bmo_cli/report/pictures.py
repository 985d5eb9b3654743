"""Pictures of runs for a page: decoded, encoded again, each held once, within a budget."""

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

from bmo_cli.data.images.file import read_image
from bmo_cli.errors import InputError
from bmo_cli.report.entry import Entry

BUDGET = 4_000_000
"""Bytes of all pictures of a page, encoded."""
_SIDES = (10_000, 768, 512, 384, 256, 192, 128)
"""Largest sides of the cuts, tried until all pictures fit."""
_MEGAPIXELS = 40
_ESTIMATE = "restored"
"""Name of the picture that a run made of the observation."""
_NAME = re.compile(r"[\w.-]{1,40}")


@dataclass(frozen=True)
class Shown:
    """A picture of a case.

    Attributes:
        name: title of the picture.
        key: key in `Album.data`.
        run: number of the run; None if the picture belongs to the case.
    """

    name: str
    key: str
    run: int | None


@dataclass
class Album:
    """Pictures by case.

    Attributes:
        cases: pictures by case, those that belong to the case itself first.
        data: data URIs by key.
        side: largest side of the central crops; None if the pictures are whole.
        left_out: number of runs without pictures on the page.
    """

    cases: dict[str, list[Shown]] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    side: int | None = None
    left_out: int = 0


def collect(entries: Sequence[tuple[int, str, Entry]], cases: int = 3, runs: int = 12) -> Album:
    """Collect the pictures of the first test cases.

    Args:
        entries: number, label and run, the most important first.
        cases: number of cases.
        runs: largest number of runs.

    Returns:
        The readable pictures; empty if no run wrote any.
    """
    pictures: dict[str, list[_Picture]] = {}
    for number, label, entry in entries[:runs]:
        for case, files in _files(entry, cases).items():
            if case in pictures or len(pictures) < cases:
                read = [_Picture(name, number, label, _read(file)) for name, file in files.items()]
                readable = [picture for picture in read if picture.pixels.size]
                if readable:
                    pictures.setdefault(case, []).extend(readable)
    for side in _SIDES:
        album = _encode(pictures, side)
        if sum(map(len, album.data.values())) <= BUDGET:
            break
    album.left_out = max(0, len(entries) - runs)
    return album


@dataclass(frozen=True)
class _Picture:
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
    """8-bit pixels (H, W) or (H, W, 3); empty for a link or an unreadable file."""
    nothing = np.zeros((0, 0), np.uint8)
    if file.is_symlink():
        return nothing
    try:
        image = read_image(file, _MEGAPIXELS)
    except (InputError, OSError):
        return nothing
    pixels = image.pixels if image.depth == 8 else (image.pixels // 257).astype(np.uint8)
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels


def _encode(cases: Mapping[str, Sequence[_Picture]], side: int) -> Album:
    album = Album()
    for case, pictures in cases.items():
        keys = []
        for picture in pictures:
            cut = _cut(picture.pixels, side)
            if cut.shape != picture.pixels.shape:
                album.side = side
            key = hashlib.sha256(cut.tobytes() + repr(cut.shape).encode()).hexdigest()[:12]
            if key not in album.data:
                album.data[key] = _data_uri(cut)
            keys.append(key)
        album.cases[case] = _shown(pictures, keys)
    return album


def _shown(pictures: Sequence[_Picture], keys: Sequence[str]) -> list[Shown]:
    """Titles of the pictures of a case. A picture that all runs share appears once."""
    contents: dict[str, set[str]] = {}
    for picture, key in zip(pictures, keys, strict=True):
        contents.setdefault(picture.name, set()).add(key)
    shown = {}
    for picture, key in zip(pictures, keys, strict=True):
        name, run = picture.name, picture.run
        if name == _ESTIMATE:
            shown[name, run] = Shown(picture.label, key, run)
        elif len(contents[name]) == 1:
            shown[name, -1] = Shown(name, key, None)
        else:
            shown[name, run] = Shown(f"{picture.label}: {name}", key, run)
    return sorted(shown.values(), key=lambda picture: picture.run is not None)


def _cut(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The central crop. Pictures are not scaled, because scaling would hide differences."""
    height, width = pixels.shape[:2]
    h, w = min(height, side), min(width, side)
    top, left = (height - h) // 2, (width - w) // 2
    return pixels[top : top + h, left : left + w]


def _data_uri(pixels: NDArray[np.uint8]) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "WEBP", lossless=True, quality=60, method=4)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
