"""Networks of convolutions divided by their operator norm: nonexpansive, and averaged by mixing.

Shape legend: B images, C channels, H x W pixels, m features.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bmo_cli.config.checks import Channels, Count, OpenUnit, Repeats, Seed, checked
from bmo_cli.nets.network import LayerBound, Network, NormBound, open_unit
from bmo_cli.nets.operator_norms import norm_bound, norm_squared_bound

_GRID = 32  # sampled frequencies a dimension; the bound is 2 % above the norm for 3 x 3


@checked
class NormalizedConv(Network):
    """x + theta (N(x) - x), N a chain of 3 x 3 convolutions W_i / |W_i| and ReLU, 0 < theta < 1.

    |W_i| is the norm of the convolution on images of every size (`nets.operator_norms`), not the
    spectral norm of the reshaped weight. Hence |N(a) - N(b)| <= |a - b|, and the mixture is
    theta-averaged. Borders are padded with zeros. (Ryu et al., "Plug-and-play methods provably
    converge with properly trained denoisers", ICML 2019, and Pesquet et al., "Learning maximally
    monotone operators for image recovery", SIAM J. Imaging Sci. 2021, for the averaged form.)

    Args:
        channels: of the images, 1 or 3.
        depth: number of convolutions.
        width: m, features a layer.
        theta: initial share of N.
        seed: of the initial weights.
    """

    nonexpansive = True
    averaged = True
    numerical = ("logit",)
    guarantee = "averaged for all weights: every convolution is divided by its operator norm"

    def __init__(
        self,
        *,
        channels: Channels = 1,
        depth: Repeats = 4,
        width: Count = 32,
        theta: OpenUnit = 0.5,
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        self.channels = channels
        generator = torch.Generator().manual_seed(seed)
        sizes = [channels, *[width] * (depth - 1), channels]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList(torch.zeros(n) for n in sizes[1:])
        for n_in, n_out in itertools.pairwise(sizes):
            weight = torch.empty(n_out, n_in, 3, 3)
            nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
            # Layers of norm at most 1 attenuate, so the centre taps start as a partial isometry.
            nn.init.orthogonal_(weight[:, :, 1, 1], generator=generator)
            weight[:, :, 1, 1] *= 3
            self.weights.append(weight)
        self.logit = nn.Parameter(torch.logit(torch.tensor(float(theta))))

    def bind(self, guide: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """The map with every norm computed once."""
        units, theta = self._units(), open_unit(self.logit)

        def apply(x: Tensor) -> Tensor:
            z = x
            for i, (unit, bias) in enumerate(zip(units, self.biases, strict=True)):
                z = F.conv2d(z, unit, bias, padding=1)
                z = F.relu(z) if i < len(units) - 1 else z
            return x + theta * (z - x)

        return apply

    def forward(self, x: Tensor) -> Tensor:
        """The map at x, shape (B, C, H, W)."""
        return self.bind()(x)

    def bound(self) -> NormBound:
        """(1 - theta) + theta |W_1| ... |W_depth|."""
        how = "norm of the convolution on images of every size"
        norms = [norm_bound(unit, grid=2 * _GRID) for unit in self._units()]
        layers = tuple(LayerBound(f"conv {i}", norm, how) for i, norm in enumerate(norms))
        theta, chain = open_unit(self.logit).item(), 1.0
        for norm in norms:
            chain *= norm
        return NormBound(1 - theta + theta * chain, layers, "1 - theta + theta times the product")

    def _units(self) -> list[Tensor]:
        return [w / norm_squared_bound(w, grid=_GRID).clamp_min(1e-30).sqrt() for w in self.weights]
