"""How bright photographs are against the white of their files, and warnings about it.

A photograph of 12 bits in a file of 16 looks dark where the file does not state its white.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bmo_cli.data.images.photograph import Photograph

_DARK = 1 / 4
"""Share of white: 14 bits in a file of 16 are just below."""
_NAMED = 4


@dataclass(frozen=True)
class Brightness:
    """Of a photograph, in the values of its file.

    Attributes:
        name: of the photograph.
        largest: value of it.
        white: value that stands for white.
        stated: who says so: the user, the file, or nobody, so that it is the largest that fits.
        clipped: how many values were above white.
    """

    name: str
    largest: int
    white: int
    stated: Literal["user", "file", "nobody"]
    clipped: int

    @staticmethod
    def of(name: str, photograph: Photograph, white: int | None = None) -> Brightness:
        """Of a photograph; `white`: as the user gave it."""
        description = photograph.description
        level, in_file = photograph.levels, False
        if description is not None:
            level, in_file = description.white or description.levels, description.white is not None
        largest = round(int(photograph.pixels.max()) * level / photograph.levels)
        stated: Literal["user", "file", "nobody"] = "file" if in_file else "nobody"
        return Brightness(name, largest, level, "user" if white else stated, photograph.clipped)

    @property
    def is_dark(self) -> bool:
        """Whether white may be lower than the file suggests. A black image does not count."""
        return self.stated == "nobody" and 0 < self.largest <= self.white * _DARK

    @property
    def is_unusual(self) -> bool:
        """Whether the file states a white that is not the largest value of some number of bits.

        Some programs write the largest value of the image there.
        """
        return self.stated == "file" and self.white & (self.white + 1) != 0


def remarks(photographs: Sequence[Brightness], key: str | None) -> list[str]:
    """Lines about dark photographs, unusual whites and clipped values.

    Args:
        photographs: that were read.
        key: of the configuration that sets white; None: there is none.
    """
    lines = []
    dark = [image for image in photographs if image.is_dark]
    if dark:
        guess = 2 ** max(image.largest for image in dark).bit_length() - 1
        option = f"say {key}={guess}" if key else f"read it with data=folder data.white={guess}"
        values = [f"{image.name}: {image.largest} of {image.white}" for image in dark]
        lines.append(
            f"the largest value is less than a quarter of white in {_list(values)}; if white is "
            f"{guess} there, {option}"
        )
    unusual = [f"{image.name}: {image.white}" for image in photographs if image.is_unusual]
    if unusual:
        option = f"; {key}=N sets another" if key else ""
        lines.append(f"white is what MaxSampleValue says in {_list(unusual)}{option}")
    clipped = [image for image in photographs if image.clipped]
    if clipped:
        counts = [f"{image.name}: {image.clipped}" for image in clipped]
        lines.append(f"values above {key}={clipped[0].white} were clipped in {_list(counts)}")
    return lines


def _list(items: Sequence[str]) -> str:
    more = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return ", ".join(items[:_NAMED]) + more
