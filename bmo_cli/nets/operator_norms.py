"""Operator norms of convolutions with stride 1: a bound for all image sizes, values for one size.

The spectral norm of the reshaped weight is not the operator's norm. A periodic convolution W is
block diagonal in the Fourier domain, with blocks W(theta); |W|^2 is the maximum over theta of the
largest eigenvalue of W(theta) W(theta)^H. The square of the reshaped weight's norm is the largest
eigenvalue of the mean of these matrices, so that it can be k times too small for a k x k filter
(and is too large for zero-padded images that are small).

The entries of M(theta) = W(theta)^H W(theta) are trigonometric polynomials of degree k - 1. The
supremum over all frequencies, hence for periodic images of any size, is at most the maximum on an
N x N grid divided by cos(pi (k - 1) / N)^2 (Pfister & Bresler, "Bounding multivariate
trigonometric polynomials", IEEE TSP 2018). Zero padding restricts the operator on the infinite
plane, so the bound holds for it as well.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def norm_squared_bound(weight: Tensor, grid: int = 128) -> Tensor:
    """Upper bound of |W|^2, differentiable; at most 3 % above it for 7 x 7 filters at N = 128.

    Args:
        weight: (out, in, k, k) of a convolution with stride 1.
        grid: N > 2 (k - 1), frequencies sampled a dimension.

    Returns:
        A scalar tensor.
    """
    k = weight.shape[-1]
    if grid <= 2 * (k - 1):
        raise ValueError(f"grid must be larger than 2 (k - 1) = {2 * (k - 1)}, got {grid}")
    # M's coefficients: correlations of the filters, summed over the outputs; (in, in, 2k-1, 2k-1).
    filters = weight.transpose(0, 1)
    correlations = F.conv2d(filters, filters, padding=k - 1)
    spectrum = torch.fft.fft2(correlations, s=(grid, grid))
    steps = torch.arange(grid, device=weight.device, dtype=weight.dtype)
    phase = steps * (2 * math.pi * (k - 1) / grid)
    shift = torch.polar(torch.ones_like(phase), phase).to(spectrum.dtype)
    blocks = (spectrum * shift[:, None] * shift).permute(2, 3, 0, 1)
    if not torch.isfinite(torch.view_as_real(blocks)).all():  # no eigenvalues exist
        lost: Tensor = blocks.real.sum() * torch.nan
        return lost
    if blocks.shape[-1] == 1:
        largest: Tensor = blocks.real.amax()
    else:
        largest = torch.linalg.eigvalsh((blocks + blocks.mH) / 2).amax()
    return largest / math.cos(math.pi * (k - 1) / grid) ** 2


def norm_bound(weight: Tensor, grid: int = 128) -> float:
    """Upper bound of |W| in float64, for certificates; nan if a weight is not finite.

    Args:
        weight: (out, in, k, k) of a convolution with stride 1.
        grid: as in `norm_squared_bound`.
    """
    exact = weight.detach().to("cpu", torch.float64)
    return math.sqrt(float(norm_squared_bound(exact, grid=grid)))


def periodic_norm(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """|W| on periodic images of exactly H x W pixels, differentiable (Sedghi et al., ICLR 2019).

    It is the largest singular value over the out x in matrices W(theta) at the H x W frequencies.
    All of these matrices must fit in memory.

    Args:
        weight: (out, in, k, l) of a convolution with stride 1.
        size: (H, W).

    Returns:
        A scalar tensor.
    """
    # fft2 would cut a filter larger than the image: take a finer grid and subsample it.
    fold = [-(-k // side) for k, side in zip(weight.shape[2:], size, strict=True)]
    spectrum = torch.fft.rfft2(weight, s=[n * side for n, side in zip(fold, size, strict=True)])
    blocks = spectrum[:, :, :: fold[0], :: fold[1]].permute(2, 3, 0, 1)
    largest: Tensor = torch.linalg.svdvals(blocks).amax()
    return largest


def zero_padded_norm(
    weight: Tensor, size: tuple[int, int], *, iterations: int = 200, seed: int = 0
) -> Tensor:
    """|W| on images of exactly H x W pixels with zero ("same") padding, by power iteration.

    It is |W v| for the last unit image v, which approaches |W| from below. It is differentiable in
    the weight for fixed v.

    Args:
        weight: (out, in, k, l) of a convolution with stride 1, k and l odd.
        size: (H, W).
        iterations: steps v <- W^T W v / |W^T W v|.
        seed: seed of the first v.

    Returns:
        A scalar tensor.
    """
    if any(k % 2 == 0 for k in weight.shape[2:]):
        raise ValueError(f"filters must be odd, got {tuple(weight.shape[2:])}")
    padding = [k // 2 for k in weight.shape[2:]]
    v = torch.randn(1, weight.shape[1], *size, generator=torch.Generator().manual_seed(seed))
    v = v.to(weight)
    with torch.no_grad():
        for _ in range(iterations):
            v = F.conv_transpose2d(F.conv2d(v, weight, padding=padding), weight, padding=padding)
            v = v / v.norm().clamp_min(torch.finfo(v.dtype).tiny)
    length: Tensor = torch.linalg.vector_norm(F.conv2d(v, weight, padding=padding))
    return length
