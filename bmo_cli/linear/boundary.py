"""What is done at the borders of photographs: smooth continuation, and tiles with overlap.

Shape legend: B images, C channels, H x W pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

ALIGNMENT = 16
"""Tiles begin at multiples of this, so that networks that halve the grid see the same one."""


def continue_periodically(y: Tensor, margin: int) -> Tensor:
    """Continue images by `margin` pixels so that opposite borders meet without a step.

    A photograph is not periodic, and its jump from one border to the other would ring. Beyond a
    border the nearest pixel is continued and blended into the one of the opposite border.

    Args:
        y: (B, C, H, W).
        margin: pixels; 0: the images as they are.

    Returns:
        (B, C, H + 2 margin, W + 2 margin); `interior` takes it back.
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


def interior(y: Tensor, margin: int) -> Tensor:
    """Images without `margin` pixels at every border, (B, C, H - 2 margin, W - 2 margin)."""
    height, width = y.shape[-2:]
    return y[..., margin : height - margin, margin : width - margin]


def aligned(pixels: int) -> int:
    """The next multiple of `ALIGNMENT`."""
    return -(-pixels // ALIGNMENT) * ALIGNMENT


def in_tiles(
    restore: Callable[[Tensor], Tensor],
    y: Tensor,
    side: int,
    margin: int,
    *,
    periodic: bool = False,
) -> Tensor:
    """Apply a map of images tile by tile; memory then depends on the tile, not on the image.

    A tile is a square of `side` pixels, seen with `margin` pixels around it, of which nothing is
    kept. Where the map looks no farther than the margin, and is the same at every multiple of
    `ALIGNMENT` pixels, the result is that of the whole image.

    Args:
        restore: map of (B, C, h, w) into the same shape. It sees cuts where a tile ends inside the
            image: a map that is periodic should continue tiles there, see `continue_periodically`.
        y: (B, C, H, W); images of at most `side` pixels are one tile.
        side: of a tile, pixels.
        margin: pixels; both are rounded up to multiples of `ALIGNMENT`.
        periodic: whether a tile sees the opposite side beyond a border of the image; otherwise it
            ends there.
    """
    height, width = y.shape[-2:]
    if max(height, width) <= side:
        return restore(y)
    side, margin = aligned(side), aligned(margin)
    out = torch.empty_like(y)
    for top, left in itertools.product(range(0, height, side), range(0, width, side)):
        bottom, right = min(height, top + side), min(width, left + side)
        above, rows = _seen(top, bottom, margin, height, periodic)
        before, columns = _seen(left, right, margin, width, periodic)
        found = restore(y[..., rows[:, None], columns])
        kept = found[..., above : above + bottom - top, before : before + right - left]
        out[..., top:bottom, left:right] = kept
    return out


def _seen(start: int, stop: int, margin: int, length: int, periodic: bool) -> tuple[int, Tensor]:
    """Indices of what is seen around [start, stop), after how many pixels of margin before it."""
    before = margin if periodic else min(margin, start)
    after = margin if periodic else min(margin, length - stop)
    return before, torch.arange(start - before, stop + after) % length
