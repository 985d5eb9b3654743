"""Convolutions between few and many channels on CPUs. Other devices use torch's convolutions.

The first and the last layer of a network for images connect few and many channels. As general
convolutions they are slow: blocks of channels are nearly empty, and with one channel the layout of
the result changes. Two maps with the same matrix R, adjoint to each other, avoid both:

    spread:  z = P(x)^T R,      P(x) the k x k patches of x, by a transposed convolution
    gather:  x = P^T(R z^T),    a product, then shifted sums

Zero padding, stride 1, odd k; differentiable any number of times. Weights of a lower precision
lower that of the products, not that of images.

Shape legend: B images, c few channels, m many channels, k x k weights, H x W pixels, N = H W.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FEW, _MANY = 4, 12
Map = Callable[[Tensor], Tensor]


def bound_convolution(layer: nn.Conv2d) -> Map:
    """The layer at its present weights, in the faster of both forms."""
    few, many = sorted((layer.in_channels, layer.out_channels))
    if few > _FEW or many < _MANY or layer.weight.device.type != "cpu" or not _is_plain(layer):
        return layer
    return _as_matrix_product(layer)


def _as_matrix_product(layer: nn.Conv2d) -> Map:
    spreads, bias = layer.out_channels > layer.in_channels, layer.bias
    few, many = sorted((layer.in_channels, layer.out_channels))
    k = layer.kernel_size[0]
    v = layer.weight if spreads else layer.weight.flip(2, 3).transpose(0, 1)  # (m, c, k, k)
    rows = v.reshape(many, few * k * k).mT
    kernel = v.detach().flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)
    product = _Spread.apply if spreads else _Gather.apply
    shift = None if bias is None else bias[:, None, None]

    def apply(x: Tensor) -> Tensor:
        kind = rows.dtype
        if torch.is_autocast_enabled("cpu"):
            kind = torch.get_autocast_dtype("cpu")
        out: Tensor = product(x, rows.to(kind), kernel.to(kind))  # type: ignore[no-untyped-call]
        return out if shift is None else out + shift.to(out.dtype)

    return apply


def _is_plain(layer: nn.Conv2d) -> bool:
    k = layer.kernel_size[0]
    return (
        layer.padding_mode == "zeros"
        and layer.groups == 1
        and layer.stride == layer.dilation == (1, 1)
        and layer.kernel_size == (k, k)
        and k % 2 == 1
        and layer.padding == (k // 2, k // 2)
    )


class _Spread(torch.autograd.Function):
    """P(x)^T R: (B, c, H, W) into (B, m, H, W), channels last in memory.

    `kernel` is R as weight of a transposed convolution, (c, m, k, k).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, kernel: Tensor) -> Tensor:
        ctx.save_for_backward(x, rows, kernel)
        return _spread(x, kernel)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, rows, kernel = ctx.saved_tensors
        to_x, to_rows, _ = ctx.needs_input_grad
        grad_x = None
        if to_x and torch.is_grad_enabled():
            grad_x = _Gather.apply(gradient, rows, kernel)  # type: ignore[no-untyped-call]
        elif to_x:
            grad_x = _gather(gradient, rows, kernel.shape[-1])
        return grad_x, _correlate(x, gradient, kernel.shape[-1]) if to_rows else None, None


class _Gather(torch.autograd.Function):
    """P^T(R z^T): (B, m, H, W) into (B, c, H, W), float32 at least; `kernel` as for `_Spread`."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, rows: Tensor, kernel: Tensor) -> Tensor:
        ctx.save_for_backward(z, rows, kernel)
        return _gather(z, rows, kernel.shape[-1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        z, rows, kernel = ctx.saved_tensors
        to_z, to_rows, _ = ctx.needs_input_grad
        grad_z = None
        if to_z and torch.is_grad_enabled():
            grad_z = _Spread.apply(gradient, rows, kernel)  # type: ignore[no-untyped-call]
        elif to_z:
            grad_z = _spread(gradient, kernel)
        return grad_z, _correlate(gradient, z, kernel.shape[-1]) if to_rows else None, None


def _spread(x: Tensor, kernel: Tensor) -> Tensor:
    return F.conv_transpose2d(x.to(kernel.dtype), kernel, padding=kernel.shape[-1] // 2)


def _gather(z: Tensor, rows: Tensor, k: int) -> Tensor:
    columns = torch.bmm(rows.expand(len(z), -1, -1), _flat(z).mT)
    columns = columns.to(torch.promote_types(columns.dtype, torch.float32))
    return F.fold(columns, z.shape[2:], k, padding=k // 2)


def _correlate(x: Tensor, z: Tensor, k: int) -> Tensor:
    """Gradient with respect to R of both maps: P(x) z, (c k k, m)."""
    height, width = x.shape[2:]
    wide = F.pad(x, (k // 2,) * 4)
    windows = wide.unfold(2, height, 1).unfold(3, width, 1)  # (B, c, k, k, H, W), without a copy
    patches = windows.reshape(len(x), -1, height * width).to(z.dtype)
    return torch.bmm(patches, _flat(z)).sum(0)


def _flat(z: Tensor) -> Tensor:
    """(B, m, H, W) -> (B, N, m), without a copy where channels come last in memory."""
    return z.permute(0, 2, 3, 1).flatten(1, 2)
