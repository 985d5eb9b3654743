"""Borders of photographs: smooth periodic continuation, and tiles with overlap.

Shape legend: B images, C channels, H x W pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from bmo_cli.errors import InputError

ALIGNMENT = 16
"""Tiles begin at multiples of this: networks that halve the grid then use the same one."""


def continue_periodically(y: Tensor, margin: int) -> Tensor:
    """Continue images by `margin` pixels so that opposite borders meet without a step.

    A photograph is not periodic: the jump between opposite borders would cause ringing. Beyond a
    border, its nearest pixel is continued and blended into that of the opposite border.

    Args:
        y: (B, C, H, W).
        margin: pixels; 0: the images as they are.

    Returns:
        (B, C, H + 2 margin, W + 2 margin); `interior` reverts this.
    """
    if margin == 0:
        return y
    for dim in (-2, -1):
        ramp = (torch.arange(2 * margin, device=y.device, dtype=y.dtype) + 0.5) / (2 * margin)
        shape = [1] * y.dim()
        shape[dim] = 2 * margin
        weight = (0.5 - 0.5 * torch.cos(torch.pi * ramp)).reshape(shape)
        first, last = y.narrow(dim, 0, 1), y.narrow(dim, y.shape[dim] - 1, 1)
        bridge = (1 - weight) * last + weight * first
        after, before = bridge.narrow(dim, 0, margin), bridge.narrow(dim, margin, margin)
        y = torch.cat([before, y, after], dim)
    return y


def interior(y: Tensor, margin: int | tuple[int, int]) -> Tensor:
    """Images without `margin` pixels at every border, (B, C, H - 2 margin, W - 2 margin).

    Args:
        y: (B, C, H, W).
        margin: pixels; rows and columns, where they differ.
    """
    rows, columns = (margin, margin) if isinstance(margin, int) else margin
    height, width = y.shape[-2:]
    return y[..., rows : height - rows, columns : width - columns]


def align_up(pixels: int) -> int:
    """The next multiple of `ALIGNMENT`."""
    return -(-pixels // ALIGNMENT) * ALIGNMENT


def enlargement(given: Tensor, made: Tensor) -> tuple[int, int]:
    """Factors by which a map enlarges the rows and the columns of an image.

    Args:
        given: (B, C, H, W).
        made: (B, C, a H, b W).

    Returns:
        (a, b).

    Raises:
        InputError: a or b is no integer, or the number of images or channels changes.
    """
    shape, size_made = tuple(given.shape), tuple(made.shape)
    fits = len(size_made) == 4 and size_made[:2] == shape[:2]
    if not fits or any(b < a or b % a for a, b in zip(shape[2:], size_made[2:], strict=True)):
        raise InputError(
            f"images of shape {shape} were restored to {size_made}: expected as many channels, "
            "and rows and columns as before or a whole number of times as many"
        )
    return size_made[2] // shape[2], size_made[3] // shape[3]


def in_tiles(
    restore: Callable[[Tensor], Tensor],
    y: Tensor,
    side: int,
    margin: int,
    *,
    periodic: bool = False,
) -> Tensor:
    """Apply a map of images tile by tile; memory then depends on the tile, not on the image.

    A tile is a square of `side` pixels. The map gets it with `margin` pixels around it, which are
    cut off again. The result equals that of the whole image if the map looks no farther than the
    margin and is the same at every multiple of `ALIGNMENT` pixels.

    Args:
        restore: map of (B, C, h, w) into (B, C, a h, b w) with integers a and b, mostly 1. Its
            argument ends at borders inside the image: a periodic map should continue tiles there,
            see `continue_periodically`.
        y: (B, C, H, W); images of at most `side` pixels are one tile.
        side: of a tile, pixels.
        margin: pixels; both are rounded up to multiples of `ALIGNMENT`.
        periodic: whether a tile continues at the opposite side beyond a border of the image;
            otherwise it ends there.

    Returns:
        (B, C, a H, b W).

    Raises:
        InputError: the map changes the size of images in another way, or differently by tile.
    """
    height, width = y.shape[-2:]
    if max(height, width) <= side:
        made = restore(y)
        enlargement(y, made)
        return made
    side, margin = align_up(side), align_up(margin)
    out, factor = None, (1, 1)
    for top, left in itertools.product(range(0, height, side), range(0, width, side)):
        bottom, right = min(height, top + side), min(width, left + side)
        above, rows = _indices_around(top, bottom, margin, height, periodic)
        before, columns = _indices_around(left, right, margin, width, periodic)
        tile = y[..., rows[:, None], columns]
        made = restore(tile)
        if out is None:
            factor = enlargement(tile, made)
            out = made.new_empty(*y.shape[:2], factor[0] * height, factor[1] * width)
        if enlargement(tile, made) != factor:
            raise InputError(
                f"a tile of {tuple(tile.shape[2:])} pixels became {tuple(made.shape[2:])}, but the "
                f"first one grew {factor[0]} x {factor[1]} times; use a tile as large as the image"
            )
        kept = _window(made, factor, (above, bottom - top), (before, right - left))
        _window(out, factor, (top, bottom - top), (left, right - left)).copy_(kept)
    assert out is not None
    return out


def _window(
    image: Tensor, factor: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]
) -> Tensor:
    """A view of (first, length) rows and columns of an image that was enlarged by `factor`."""
    for dim, (first, length), by in ((-2, rows, factor[0]), (-1, columns, factor[1])):
        image = image.narrow(dim, by * first, by * length)
    return image


def _indices_around(
    start: int, stop: int, margin: int, length: int, periodic: bool
) -> tuple[int, Tensor]:
    """Number of margin pixels before `start`, and the indices of [start, stop) with its margin."""
    before = margin if periodic else min(margin, start)
    after = margin if periodic else min(margin, length - stop)
    return before, torch.arange(start - before, stop + after) % length
