"""Odd linear splines on equally spaced knots.

Shape legend: n knots on the positive axis; z of any shape.
"""

from __future__ import annotations

import torch
from torch import Tensor


def odd_spline(z: Tensor, slopes: Tensor, spacing: float) -> Tensor:
    """s(z) for the odd function with s(0) = 0 that has slope d_i between knots i h and (i + 1) h.

    The last slope continues beyond the last knot; append 0 for a spline that is constant there.
    s is monotone where every slope is >= 0, and |s(a) - s(b)| <= max_i |d_i| |a - b|. (Bohra et
    al., "Learning activation functions in deep (spline) neural networks", IEEE OJSP 2020.) Each
    entry looks up the slope and the intercept of its piece, so that the time does not depend on n.
    Derivatives of every order exist in z and in the slopes; in z, the second one is 0.

    Args:
        z: entries of any shape.
        slopes: d, (n,).
        spacing: h > 0, in units of z.

    Returns:
        s(z), of the shape of z.
    """
    n = len(slopes)
    knots = spacing * torch.arange(n, device=slopes.device, dtype=slopes.dtype)
    # s(z) = d_i z + c_i on piece i of the positive axis, and d_i z - c_i on the negative one.
    intercepts = spacing * (slopes.cumsum(0) - slopes) - knots * slopes
    both_slopes = torch.cat([slopes.flip(0), slopes])
    both_intercepts = torch.cat([-intercepts.flip(0), intercepts])
    piece = _pieces(z.detach(), n, spacing)
    slope, intercept = (
        table.index_select(0, piece).view(z.shape) for table in (both_slopes, both_intercepts)
    )
    return torch.addcmul(intercept, slope, z)


def _pieces(z: Tensor, n: int, spacing: float) -> Tensor:
    """The piece of every entry, 0 to 2 n - 1 from left to right, as a vector."""
    piece = (z / spacing).floor_().clamp_(-n, n - 1).to(torch.int32)
    return piece.add_(n).clamp_(0, 2 * n - 1).flatten()  # an entry that is nan has some piece
