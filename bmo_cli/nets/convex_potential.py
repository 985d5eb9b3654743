"""Convex-potential networks: nonexpansive by construction (docs/method.md, "Networks").

Shape legend: B images, C channels, H x W pixels, L layers of m filters of k x k, J clips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from bmo_cli.config.checks import Channels, Count, Positive, Repeats, Seed, checked
from bmo_cli.nets.filter_bank import (
    analyse,
    dct_filters,
    require_room,
    synthesise,
    unit_filters,
)
from bmo_cli.nets.huber import huber_gradient
from bmo_cli.nets.network import LayerBound, Network, NormBound, largest, open_unit, product
from bmo_cli.nets.operator_norms import norm_bound

Gradient = Callable[[Tensor, Tensor], Tensor]
"""(x, filters) -> W^T s(W x)"""


@checked
class ConvexPotential(Network):
    """Composition of L steps x - rho W^T s(W x) / |W|^2, 0 < rho < 2.

    s(z) = sum_j a_j clip(z, -t_j, t_j) with a_j > 0 and sum_j a_j = 1 is monotone and 1-Lipschitz.
    W^T s(W x) is therefore the gradient of a convex function (a mixture of Huber norms of the
    filtered image) with constant |W|^2. The step is averaged for every weight, level and rho. The
    filters have zero mean, so that constant images are fixed points. |W| is bounded rigorously for
    images of every size (`nets.operator_norms`). Borders are periodic. With L = 1 the network is
    one gradient step on a learned convex regulariser. (Meunier et al., "A dynamical system
    perspective for Lipschitz neural networks", ICML 2022, with ReLU instead of the clipping;
    Goujon et al., "A neural-network-based convex regularizer for inverse problems", IEEE TCI 2023.)

    Args:
        channels: of the images, 1 or 3.
        depth: L, number of steps.
        width: m, filters a step.
        size: k, odd. Images have at least k // 2 pixels a side.
        threshold: initial level t, in units of the image range. Levels of further clips start at
            4 t, 16 t, ...
        clips: J, number of clips in the activation.
        initial: initial filters: dct, the lowest frequencies of the discrete cosine transform
            (filters beyond k^2 - 1 a channel are random), or random.
        seed: seed of the initial filters.
    """

    nonexpansive = True
    averaged = True
    numerical = ("log_levels", "mixture", "relaxation")
    guarantee = "averaged for all weights: composition of gradient steps on convex functions"

    def __init__(
        self,
        *,
        channels: Channels = 1,
        depth: Repeats = 1,
        width: Count = 24,
        size: Literal[3, 5, 7, 9, 11, 13, 15] = 5,
        threshold: Positive = 0.005,
        clips: Count = 1,
        initial: Literal["dct", "random"] = "dct",
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        self.channels = channels
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn((depth, width, channels, size, size), generator=generator) / size
        if initial == "dct":
            known = dct_filters(channels, size)[:width]
            drawn *= 0.05  # deeper layers start near the first one, but differ from it
            drawn[:, : len(known)] += known
        self.filters = nn.Parameter(drawn)
        levels = threshold * 4.0 ** torch.arange(clips)
        self.log_levels = nn.Parameter(levels.log().repeat(depth, width, 1).contiguous())
        self.mixture: nn.Parameter | None
        mixture = nn.Parameter(torch.zeros(depth, width, clips)) if clips > 1 else None
        self.register_parameter("mixture", mixture)
        self.relaxation = nn.Parameter(torch.zeros(depth))

    def bind(self, guide: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """The map with every |W| and every activation computed once."""
        steps = list(zip(self._units(), self._gradients(guide), self._rho(), strict=True))
        side = self.filters.shape[-1]

        def apply(x: Tensor) -> Tensor:
            require_room(x.shape, side)
            for unit, gradient, rho in steps:
                x = x - rho * gradient(x, unit)
            return x

        return apply

    def forward(self, x: Tensor) -> Tensor:
        """The map at x, shape (B, C, H, W)."""
        return self.bind()(x)

    def bound(self) -> NormBound:
        """The steps' Jacobians have eigenvalues between 1 - rho |W|^2 and 1, with |W| = 1."""
        layers = tuple(
            LayerBound(
                f"step {i}",
                largest(1.0, rho.item() * norm_bound(unit, grid=192) ** 2 - 1),
                "max(1, rho |W|^2 - 1), |W| on images of every size",
            )
            for i, (unit, rho) in enumerate(zip(self._units(), self._rho(), strict=True))
        )
        return product(layers)

    def _units(self) -> list[Tensor]:
        """Filters of zero mean with |W| <= 1."""
        return [unit_filters(filters) for filters in self.filters]

    def _rho(self) -> Tensor:
        return 2 * open_unit(self.relaxation)

    def _gradients(self, guide: Tensor | None) -> list[Gradient]:
        """W^T s(W x) of every step, s a monotone 1-Lipschitz gradient of the responses."""
        levels = self.log_levels.exp()[..., None, None]
        if self.mixture is None:
            return [partial(huber_gradient, levels=layer[:, 0]) for layer in levels]
        shares = self.mixture.softmax(-1)[..., None, None]
        return [
            partial(_mixed_gradient, levels=layer.unbind(1), shares=share.unbind(1))
            for layer, share in zip(levels, shares, strict=True)
        ]


def _mixed_gradient(
    x: Tensor, filters: Tensor, levels: Sequence[Tensor], shares: Sequence[Tensor]
) -> Tensor:
    """W^T s(W x), s a convex combination of clippings."""
    z = analyse(x, filters)
    parts = [a * torch.clamp(z, -t, t) for a, t in zip(shares, levels, strict=True)]
    return synthesise(torch.stack(parts).sum(0), filters)
