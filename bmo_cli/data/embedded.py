"""The photographs that scikit-image ships, in three splits without a common scene."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import skimage.data

EMBEDDED: Mapping[str, tuple[str, ...]] = {
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


def embedded_files(split: str) -> list[Path]:
    """The files of a split of the photographs that scikit-image ships."""
    # Read as files: skimage.data's functions would try a download for one that is missing.
    folder = Path(skimage.data.__file__).parent
    return [folder / name for name in EMBEDDED[split]]
