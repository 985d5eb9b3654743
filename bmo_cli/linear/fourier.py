"""Multiplication in the Fourier domain, which periodic maps of images share.

Shape legend: B images, C channels, H x W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fft import irfft2, rfft2


class _SpectralMultiplier(torch.autograd.Function):
    """A real multiplier in the Fourier domain. The map is symmetric: it is its own derivative.

    Torch's derivative of `irfft2` weights the columns of the half spectrum one by one. For small
    images this takes longer than the transforms.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, multiplier: Tensor) -> Tensor:
        ctx.save_for_backward(u, multiplier)
        return _multiply(u, multiplier)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        u, multiplier = ctx.saved_tensors
        to_u, to_multiplier = ctx.needs_input_grad
        grad_u = multiply_spectrum(gradient, multiplier) if to_u else None
        if not to_multiplier:
            return grad_u, None
        size = u.shape[-1]
        products = rfft2(gradient) * rfft2(u).conj()
        weight = products.real.new_full(products.shape[-1:], 2.0)  # a column and its mirror image
        weight[0] = 1
        if size % 2 == 0:
            weight[-1] = 1
        each = products.real * (weight / (size * u.shape[-2]))
        return grad_u, each.sum_to_size(multiplier.shape)


def multiply_spectrum(u: Tensor, multiplier: Tensor) -> Tensor:
    """Images (B, C, H, W) times a multiplier, real or complex, as `rfft2` lays it out."""
    if multiplier.is_complex() or not torch.is_grad_enabled():
        return _multiply(u, multiplier)
    product: Tensor = _SpectralMultiplier.apply(u, multiplier)  # type: ignore[no-untyped-call]
    return product


def _multiply(u: Tensor, multiplier: Tensor) -> Tensor:
    product: Tensor = irfft2(rfft2(u) * multiplier, s=u.shape[-2:])
    return product
