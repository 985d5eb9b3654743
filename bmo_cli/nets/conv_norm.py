"""A rigorous bound of the operator norm of a convolution, for images of every size.

The spectral norm of the reshaped weight is not the operator's norm. A convolution W is block
diagonal in the Fourier domain, with blocks W(theta); |W|^2 = sup over theta of the largest
eigenvalue of M(theta) = W(theta)^H W(theta), whose entries are trigonometric polynomials of degree
k - 1 for a k x k filter. Their supremum over all frequencies, hence for periodic images of any
size, is at most the maximum on an N x N grid divided by cos(pi (k - 1) / N)^2 (Pfister & Bresler,
"Bounding multivariate trigonometric polynomials", IEEE TSP 2018). Zero padding restricts the
operator on the infinite plane, so the bound holds for it as well.
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
    phase = torch.arange(grid, device=weight.device) * (2 * math.pi * (k - 1) / grid)
    shift = torch.polar(torch.ones_like(phase), phase).to(spectrum.dtype)
    blocks = (spectrum * shift[:, None] * shift).permute(2, 3, 0, 1)
    if blocks.shape[-1] == 1:
        largest: Tensor = blocks.real.amax()
    else:
        largest = torch.linalg.eigvalsh((blocks + blocks.mH) / 2).amax()
    return largest / math.cos(math.pi * (k - 1) / grid) ** 2
