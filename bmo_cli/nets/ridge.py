"""Ridge regularisers with learned spline activations: a convex one, and a weakly convex one.

Shape legend: B images, C channels, H x W pixels, m filters of k x k, n knots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from bmo_cli.config.checks import Channels, Count, Positive, Seed, checked
from bmo_cli.nets.filter_bank import (
    analyse,
    dct_filters,
    require_room,
    synthesise,
    unit_filters,
)
from bmo_cli.nets.network import LayerBound, Network, NormBound, largest, open_unit, product
from bmo_cli.nets.operator_norms import norm_bound
from bmo_cli.nets.spline import odd_spline

_LARGEST_LOG = 60.0
"""of a scale: beyond it, float32 would overflow"""


class _Ridge(Network):
    """The step of both classes below, whose docstrings have the formulas and the arguments."""

    numerical = ("slopes", "log_scales", "relaxation")
    _SLOPES: ClassVar[tuple[float, float]]
    _INITIAL: ClassVar[tuple[float, float]]  # slopes below and above the level

    def __init__(
        self,
        *,
        channels: Channels = 1,
        width: Count = 24,
        size: Literal[3, 5, 7, 9, 11, 13, 15] = 5,
        threshold: Positive = 0.005,
        knots: Count = 10,
        reach: Positive = 4.0,
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        self.channels, self._spacing = channels, reach / knots
        generator = torch.Generator().manual_seed(seed)
        filters = torch.randn((width, channels, size, size), generator=generator) / size
        known = dct_filters(channels, size)[:width]
        filters[: len(known)] = known
        self.filters = nn.Parameter(filters)
        below = (torch.arange(knots) + 0.5) * self._spacing < 1
        self.slopes = nn.Parameter(torch.where(below, *self._INITIAL))
        self.log_scales = nn.Parameter(-torch.tensor(float(threshold)).log().repeat(width))
        self.relaxation = nn.Parameter(torch.zeros(()))

    def bind(self, guide: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """The map with |W|, the scales and the spline computed once."""
        unit, rho, size = unit_filters(self.filters), self._rho(), self.filters.shape[-1]
        scales = self.log_scales.clamp(-_LARGEST_LOG, _LARGEST_LOG).exp()[:, None, None, None]
        # s_j(z) = psi'(alpha_j z) / alpha_j: the filters take the scales at no cost a pixel.
        scaled, back = unit * scales, unit * (rho / scales)
        slopes = torch.cat([self.slopes.clamp(*self._SLOPES), self.slopes.new_zeros(1)])

        def apply(x: Tensor) -> Tensor:
            require_room(x.shape, size)
            responses = analyse(x, scaled)
            return x - synthesise(odd_spline(responses, slopes, self._spacing), back)

        return apply

    def forward(self, x: Tensor) -> Tensor:
        """The map at x, shape (B, C, H, W)."""
        return self.bind()(x)

    def bound(self) -> NormBound:
        """The Jacobian's eigenvalues lie between 1 - high rho |W|^2 and 1 - low rho |W|^2.

        high and low are the limits of the slopes, and |W| = 1.
        """
        low, high = self._SLOPES
        squared = self._rho().item() * norm_bound(unit_filters(self.filters), grid=192) ** 2
        value = largest(1 - low * squared, high * squared - 1)
        how = f"slopes in [{low:g}, {high:g}], |W| on images of every size"
        return product((LayerBound("step", value, how),))

    def project_(self) -> None:
        """Bring slopes and scales back into their limits, where their gradients would vanish."""
        with torch.no_grad():
            self.slopes.clamp_(*self._SLOPES)
            self.log_scales.clamp_(-_LARGEST_LOG, _LARGEST_LOG)

    def _rho(self) -> Tensor:
        return 2 * open_unit(self.relaxation)


@checked
class ConvexRidge(_Ridge):
    """A gradient step x - rho W^T s(W x) / |W|^2 on a learned convex ridge regulariser.

        s_j(z) = psi'(alpha_j z) / alpha_j,      0 <= psi'' <= 1,      0 < rho < 2

    psi' is one learned odd linear spline for all filters, alpha_j > 0 a learned scale of filter j.
    R(x) = sum psi(alpha_j (W_j x) / |W|) / alpha_j^2 is convex and its gradient has constant 1, so
    that the step is averaged for all weights. Filters have zero mean, borders are periodic. The
    differences to `ConvexPotential` with one step are the spline in the place of its clippings,
    and one shape for all filters. (Goujon et al., "A neural-network-based convex regularizer for
    inverse problems", IEEE TCI 2023, where W is a composition of three convolutions; here it is one
    bank of larger filters.)

    Args:
        channels: of the images, 1 or 3.
        width: m, filters.
        size: k, odd. Images have at least k // 2 pixels a side.
        threshold: initial level 1/alpha_j, in units of the image range. The spline starts nearly as
            a clipping at this level.
        knots: n, knots on the positive axis. The spline is constant beyond the last one.
        reach: position of the last knot, in levels.
        seed: of the filters beyond the C (k^2 - 1) of the discrete cosine transform.
    """

    nonexpansive = True
    averaged = True
    guarantee = "averaged for all weights: a gradient step on a convex function"
    _SLOPES = (0.0, 1.0)
    _INITIAL = (0.99, 0.01)


@checked
class WeaklyConvexRidge(_Ridge):
    """A gradient step x - rho W^T s(W x) / |W|^2 on a learned weakly convex ridge regulariser.

        s_j(z) = psi'(alpha_j z) / alpha_j,      -1 <= psi'' <= 1,      0 < rho < 2

    It differs from `ConvexRidge` in the limits of the slopes alone. R + 1/2 |x|^2 is convex, but R
    need not be: the step may be expansive, and no certificate covers it. With `gkm=prox`, the
    resolvent z of f at a fixed point is a critical point of gamma f + rho R, which need not be a
    minimum. gkm.alpha=null makes this forward-backward splitting, along which z never increases
    the energy for convex f, because rho < 2; damping loses this argument. (Goujon, Neumayer &
    Unser, "Learning weakly convex regularizers for convergent image-reconstruction algorithms",
    SIAM J. Imaging Sci. 2024.)

    Args:
        channels: of the images, 1 or 3.
        width: m, filters.
        size: k, odd. Images have at least k // 2 pixels a side.
        threshold: initial level 1/alpha_j, in units of the image range. The spline starts nearly as
            a clipping at this level.
        knots: n, knots on the positive axis. The spline is constant beyond the last one.
        reach: position of the last knot, in levels.
        seed: of the filters beyond the C (k^2 - 1) of the discrete cosine transform.
    """

    guarantee = (
        "nothing about convergence: a gradient step on a weakly convex R; with gkm=prox, fixed "
        "points give critical points of gamma f + rho R"
    )
    _SLOPES = (-1.0, 1.0)
    _INITIAL = (0.95, -0.05)
