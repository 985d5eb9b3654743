"""Periodic correlation with a bank of small filters, its adjoint, and the filters of the DCT.

Shape legend: B images, C channels, H x W pixels, m filters of k x k.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from bmo_cli.errors import InputError
from bmo_cli.nets.operator_norms import norm_squared_bound

_BLOCK = 4
"""side of the blocks of pixels that `synthesise` computes together"""


def analyse(x: Tensor, filters: Tensor) -> Tensor:
    """W x, the periodic correlation with (m, C, k, k) filters: (B, C, H, W) -> (B, m, H, W)."""
    responses: Tensor = _Analysis.apply(*in_one_precision(x, filters))  # type: ignore[no-untyped-call]
    return responses


def synthesise(z: Tensor, filters: Tensor) -> Tensor:
    """W^T z, the adjoint of `analyse`: (B, m, H, W) -> (B, C, H, W)."""
    image: Tensor = _Synthesis.apply(*in_one_precision(z, filters))  # type: ignore[no-untyped-call]
    return image


def unit_filters(filters: Tensor, *, zero_mean: bool = True) -> Tensor:
    """The filters divided by |W|, so that |W| <= 1: (m, C, k, k).

    |W| is bounded for images of every size (`nets.operator_norms`).

    Args:
        filters: (m, C, k, k).
        zero_mean: whether their means are subtracted first.
    """
    if zero_mean:
        filters = filters - filters.mean((2, 3), keepdim=True)
    return filters / norm_squared_bound(filters).clamp_min(1e-30).sqrt()


def require_room(shape: Sequence[int], size: int) -> None:
    """Refuse images that are smaller than the reach of the filters.

    Args:
        shape: of the images, (B, C, H, W).
        size: k.

    Raises:
        InputError: a side has fewer than k // 2 pixels.
    """
    if min(shape[2:]) < size // 2:
        raise InputError(
            f"an image of {shape[2]} x {shape[3]} is too small for filters of {size} x {size} "
            "(net.size)"
        )


class PeriodicBuffer:
    """Memory for responses and for their periodic continuation, which `synthesise` fills in.

    Args:
        shape: (B, m, H, W).
        filters: (m, C, k, k).

    Attributes:
        interior: view of shape (B, m, H, W), to be filled with the responses z.
    """

    def __init__(self, shape: torch.Size, filters: Tensor) -> None:
        require_room(shape, filters.shape[-1])
        self._reach = p = filters.shape[-1] // 2
        *first, self._height, self._width = shape
        rows, columns = (n + 2 * p + -n % _BLOCK for n in shape[2:])
        self._all = filters.new_empty(*first, rows, columns)
        self.interior = self._all[..., p : p + self._height, p : p + self._width]

    def synthesise(self, filters: Tensor) -> Tensor:
        """W^T z, (B, C, H, W), without a derivative.

        It is one convolution of stride 4 with 16 C outputs, one a pixel of a block. On a CPU, this
        takes a sixth of the time of a convolution with C outputs (5 x 5, C = 1).
        """
        self._continue()
        blocks = F.conv2d(self._all, _block_filters(filters), stride=_BLOCK)
        return F.pixel_shuffle(blocks, _BLOCK)[..., : self._height, : self._width]

    def _continue(self) -> None:
        z, p, height, width = self._all, self._reach, self._height, self._width
        z[..., :p, :] = z[..., height : height + p, :]
        z[..., height + p : height + 2 * p, :] = z[..., p : 2 * p, :]
        z[..., :p] = z[..., width : width + p]
        z[..., width + p : width + 2 * p] = z[..., p : 2 * p]
        z[..., height + 2 * p :, :] = 0  # what completes the last blocks has no effect
        z[..., width + 2 * p :] = 0


class _Analysis(torch.autograd.Function):
    """`analyse`. Its derivative in x is `synthesise`, faster than that of torch's convolution."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, filters: Tensor) -> Tensor:
        ctx.save_for_backward(x, filters)
        return F.conv2d(wrap(x, filters), filters)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, filters = ctx.saved_tensors
        to_x, to_filters = ctx.needs_input_grad
        return (
            synthesise(gradient, filters) if to_x else None,
            filter_gradient(x, gradient, filters) if to_filters else None,
        )


class _Synthesis(torch.autograd.Function):
    """`synthesise`. Its derivative in z is `analyse`."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, filters: Tensor) -> Tensor:
        ctx.save_for_backward(z, filters)
        buffer = PeriodicBuffer(z.shape, filters)
        buffer.interior.copy_(z)
        return buffer.synthesise(filters)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        z, filters = ctx.saved_tensors
        to_z, to_filters = ctx.needs_input_grad
        return (
            analyse(gradient, filters) if to_z else None,
            filter_gradient(gradient, z, filters) if to_filters else None,
        )


def in_one_precision(images: Tensor, filters: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the precision of autocast, which ends before the derivative is computed.

    Args:
        images: (B, C, H, W) or responses (B, m, H, W).
        filters: (m, C, k, k).
    """
    kind = images.device.type
    if not torch.is_autocast_enabled(kind):
        return images, filters
    dtype = torch.get_autocast_dtype(kind)
    return images.to(dtype), filters.to(dtype)


def wrap(x: Tensor, filters: Tensor) -> Tensor:
    """Images (B, C, H, W) continued periodically by the reach of the (m, C, k, k) filters."""
    p = filters.shape[-1] // 2
    return F.pad(x, (p, p, p, p), mode="circular")


def _block_filters(filters: Tensor) -> Tensor:
    """Filters of the adjoint for every pixel of a block: (16 C, m, k + 3, k + 3)."""
    room = _BLOCK - 1
    side = filters.shape[-1] + room
    wide = F.pad(filters.transpose(0, 1), (room, room, room, room))
    # The window that begins at (a, b), flipped, belongs to pixel (a, b) of the block.
    windows = wide.unfold(2, side, 1).unfold(3, side, 1)
    return windows.permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flip(2, 3)


def filter_gradient(x: Tensor, z: Tensor, filters: Tensor) -> Tensor:
    """The derivative of <z, W x> with respect to the filters, (m, C, k, k).

    Args:
        x: (B, C, H, W).
        z: (B, m, H, W), contiguous.
        filters: for their shape.
    """
    shape = list(filters.shape)
    gradient: Tensor = conv2d_weight(wrap(x, filters), shape, z)  # type: ignore[no-untyped-call]
    return gradient


def dct_filters(channels: int, size: int, *, constant: bool = False) -> Tensor:
    """DCT-II basis of k x k patches, lowest frequencies first.

    Args:
        channels: C. With 3, every frequency exists for the sum and two differences of the channels.
        size: k.
        constant: whether the basis has the constants of the sum and of the differences.

    Returns:
        (m, C, k, k), orthonormal; m = C k^2 with the constants, C (k^2 - 1) without.
    """
    frequencies = sorted(
        ((i, j) for i in range(size) for j in range(size) if constant or i + j > 0),
        key=lambda f: (f[0] ** 2 + f[1] ** 2, f),
    )
    waves = _waves(size)
    return _in_colours(torch.stack([waves[i, j] for i, j in frequencies]), channels)


def steerable_filters(channels: int, size: int) -> Tensor:
    """An orthonormal basis of the span of `dct_filters`, in pairs of one colour.

    A pair has one order, where there are as many filters. The first pair are differences along
    rows and columns: a rotation of the two responses measures differences in another direction.
    (Freeman & Adelson, "The design and use of steerable filters", IEEE TPAMI 1991.) On so few
    pixels, the pairs of higher orders turn only approximately.

    Args:
        channels: C, as in `dct_filters`.
        size: k, odd.

    Returns:
        (C (k^2 - 1), C, k, k), orthonormal; filters 2 i and 2 i + 1 are a pair.
    """
    waves = _waves(size)
    mixed = sorted(
        ((i, j) for j in range(size) for i in range(j)), key=lambda f: (f[0] ** 2 + f[1] ** 2, f)
    )
    odd = [f for f in mixed if sum(f) % 2]
    even = [f for f in mixed if sum(f) % 2 == 0]
    diagonal = [waves[i, i] for i in range(1, size)]
    differences = [(waves[i, j] - waves[j, i]) / math.sqrt(2) for i, j in even]
    sums = [(waves[i, j] + waves[j, i]) / math.sqrt(2) for i, j in even]
    turning = min(len(differences), len(diagonal))
    pairs = [
        *(wave for i, j in odd for wave in (waves[i, j], waves[j, i])),
        *(w for pair in zip(differences, diagonal, strict=False) for w in pair),
        *sums,
        *differences[turning:],
        *diagonal[turning:],
    ]
    colours = _in_colours(torch.stack(pairs), channels)
    # A pair is of one colour.
    by_pair = colours.reshape(-1, 2, channels, *colours.shape[1:])
    return by_pair.transpose(1, 2).flatten(0, 2)


def _waves(size: int) -> Tensor:
    """Products of cosines, (k, k, k, k) in float64: [i, j] has frequency (i, j)."""
    n = torch.arange(size, dtype=torch.float64)
    rows = torch.cos(math.pi * (n[None] + 0.5) * n[:, None] / size)
    rows = rows / rows.norm(dim=1, keepdim=True)
    return torch.einsum("ip,jq->ijpq", rows, rows)


def _in_colours(waves: Tensor, channels: int) -> Tensor:
    """(n, k, k) gray filters for the sum and two differences of the channels, (n C, C, k, k)."""
    mixes = {1: [[1.0]], 3: [[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]]}[channels]
    colours = torch.tensor(mixes, dtype=torch.float64)
    colours = colours / colours.norm(dim=1, keepdim=True)
    return torch.einsum("npq,dc->ndcpq", waves, colours).flatten(0, 1).float()
