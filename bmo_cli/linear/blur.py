"""Periodic blur, diagonal in the Fourier domain.

Shape legend: B images, C channels, H x W pixels, h x w kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor
from torch.fft import rfft2

from bmo_cli.linear.fourier import multiply_spectrum
from bmo_cli.linear.map import LinearMap


def transfer_function(kernels: Tensor, size: tuple[int, int]) -> Tensor:
    """Fourier transform of kernels centred at pixel (h // 2, w // 2).

    Args:
        kernels: (B, h, w), not larger than the image.
        size: (H, W) of the image.

    Returns:
        (B, 1, H, W // 2 + 1), complex, as `rfft2` lays it out.
    """
    h, w = kernels.shape[-2:]
    padded = kernels.new_zeros(kernels.shape[0], *size)
    padded[:, :h, :w] = kernels
    spectrum: Tensor = rfft2(padded.roll((-(h // 2), -(w // 2)), (1, 2)))
    return spectrum[:, None]


class PeriodicBlur(LinearMap):
    """(A u)(p) = sum_q k(q) u(p - q + centre), indices modulo the image size.

    This is convolution (the kernel is flipped against the image), as scipy.ndimage.convolve with
    mode="wrap" computes it for kernels of odd size. Every channel is blurred alike.

    Args:
        transfer: (B, 1, H, W // 2 + 1) or (1, 1, ...), from `transfer_function`.
        size: (H, W).
    """

    def __init__(self, transfer: Tensor, size: tuple[int, int]) -> None:
        self.transfer, self.size = transfer, size

    @cached_property
    def power(self) -> Tensor:
        """Eigenvalues of A^T A, real, shaped like `transfer`."""
        return self.transfer.real.square() + self.transfer.imag.square()

    @cached_property
    def norm_squared(self) -> float:  # type: ignore[override]
        return self.computed_norm_squared()

    def computed_norm_squared(self) -> float:
        transfer = self.transfer.detach().to("cpu", torch.complex128)
        return float((transfer.real.square() + transfer.imag.square()).max())

    def __call__(self, u: Tensor) -> Tensor:
        return multiply_spectrum(u, self.transfer)

    def adjoint(self, y: Tensor) -> Tensor:
        return multiply_spectrum(y, self.transfer.conj())

    def normal(self, u: Tensor) -> Tensor:
        return multiply_spectrum(u, self.power)

    def select(self, problems: Tensor) -> PeriodicBlur:
        if len(self.transfer) == 1:
            return self
        selected = PeriodicBlur(self.transfer[problems], self.size)
        selected.norm_squared = self.norm_squared
        return selected

    def shifted_inverse(self, gamma: Tensor) -> Callable[[Tensor], Tensor]:
        inverse = 1 / (1 + gamma * self.power)
        return lambda v: multiply_spectrum(v, inverse)


def stack_kernels(kernels: list[Tensor]) -> Tensor:
    """Stack kernels of several sizes into (n, h, w), their centres on one pixel."""
    before = [max(k.shape[i] // 2 for k in kernels) for i in (0, 1)]
    after = [max(k.shape[i] - k.shape[i] // 2 for k in kernels) for i in (0, 1)]
    stack = torch.zeros(len(kernels), before[0] + after[0], before[1] + after[1])
    for row, kernel in zip(stack, kernels, strict=True):
        h, w = kernel.shape
        top, left = before[0] - h // 2, before[1] - w // 2
        row[top : top + h, left : left + w] = kernel
    return stack
