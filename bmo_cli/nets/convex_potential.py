"""Convex-potential networks: nonexpansive by construction (docs/method.md, "Networks").

Shape legend: B images, C channels, H x W pixels, L layers of m filters of k x k, J clips.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bmo_cli.config.checks import Channels, Count, Positive, Repeats, Seed, checked
from bmo_cli.errors import InputError
from bmo_cli.nets.network import LayerBound, Network, NormBound, largest, open_unit, product
from bmo_cli.nets.operator_norms import norm_bound, norm_squared_bound


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
        """The map with every |W| and every level computed once."""
        layers = list(zip(self._units(), self._levels(guide), self._rho(), strict=True))
        mixture = self.mixture
        shares = [None] * len(layers) if mixture is None else list(mixture.softmax(-1))

        def apply(x: Tensor) -> Tensor:
            if min(x.shape[2:]) < self.filters.shape[-1] // 2:
                raise InputError(
                    f"an image of {x.shape[2]} x {x.shape[3]} is too small for filters of "
                    f"{self.filters.shape[-1]} x {self.filters.shape[-1]} (net.size)"
                )
            for (unit, levels, rho), share in zip(layers, shares, strict=True):
                response = _analyse(x, unit)
                if share is None:
                    clipped = clip(response, levels[0])
                else:
                    parts = (
                        a[:, None, None] * clip(response, t)
                        for a, t in zip(share.unbind(-1), levels, strict=True)
                    )
                    clipped = torch.stack(list(parts)).sum(0)
                x = x - rho * _synthesise(clipped, unit)
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
        centred = self.filters - self.filters.mean((3, 4), keepdim=True)
        return [c / norm_squared_bound(c).clamp_min(1e-30).sqrt() for c in centred]

    def _rho(self) -> Tensor:
        return 2 * open_unit(self.relaxation)

    def _levels(self, guide: Tensor | None) -> list[list[Tensor]]:
        """For every layer the J levels t, (m, 1, 1) or (B, m, H, W)."""
        levels = self.log_levels.exp()[..., None, None]
        return [list(layer.unbind(1)) for layer in levels]


@checked
class GuidedPotential(ConvexPotential):
    """`ConvexPotential` whose levels a second network chooses, for every pixel and filter.

        log t(y) = log t + G(y),   G a chain of convolutions of the guide alone

    The guide is made from the observation y and does not change along the iteration. For every y,
    the map is therefore nonexpansive in x, whatever G is. It can smooth strongly where the guide is
    flat and weakly across its edges. G runs once an image, not once an iteration. (Spatially
    adapted regularisation: Kofler et al., "Learning regularization parameter-maps for variational
    image reconstruction", SIAM J. Imaging Sci. 2023; Neumayer & Altekrueger, "Stability of
    data-dependent ridge-regularization", 2024.)

    Args:
        channels: as `ConvexPotential`.
        depth: as `ConvexPotential`.
        width: as `ConvexPotential`.
        size: as `ConvexPotential`.
        threshold: as `ConvexPotential`.
        clips: as `ConvexPotential`.
        initial: as `ConvexPotential`.
        views: number of images a channel in the guide of the task.
        features: features of G, on a grid of half the resolution.
        layers: number of convolutions of G.
        seed: seed of the initial filters and of G.
    """

    guided = True
    guarantee = "averaged for all weights and observations; the levels depend on the observation"
    _LARGEST = 6.0  # of |G|: a level moves by a factor 400 at most

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
        views: Count = 4,
        features: Count = 64,
        layers: Repeats = 5,
        seed: Seed = 0,
    ) -> None:
        super().__init__(
            channels=channels,
            depth=depth,
            width=width,
            size=size,
            threshold=threshold,
            clips=clips,
            initial=initial,
            seed=seed,
        )
        self.views = views
        generator = torch.Generator().manual_seed(seed + 1)
        sizes = [4 * views * channels, *[features] * layers]
        body = [nn.Conv2d(a, b, 3) for a, b in itertools.pairwise(sizes)]
        for conv in body:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu", generator=generator)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
        self.body = nn.ModuleList(body)
        self.head = nn.Conv2d(features, 4 * depth * width, 1)
        nn.init.zeros_(self.head.weight)  # training starts at the unguided network
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def _levels(self, guide: Tensor | None) -> list[list[Tensor]]:
        if guide is None:
            raise InputError(f"{type(self).__name__} needs a guide, a first estimate of the image")
        if guide.shape[1] != self.views * self.channels:
            raise InputError(
                f"the task's guide has {guide.shape[1]} channels, but net.views={self.views} and "
                f"net.channels={self.channels} expect {self.views * self.channels}"
            )
        depth, width = self.filters.shape[:2]
        shift = self._shift(guide)
        shift = shift.reshape(len(shift), depth, width, *shift.shape[2:])
        return [
            [(base[..., None, None] + moved).exp() for base in levels.unbind(-1)]
            for levels, moved in zip(self.log_levels, shift.unbind(1), strict=True)
        ]

    def _shift(self, guide: Tensor) -> Tensor:
        """G(y), (B, L m, H, W)."""
        height, width = guide.shape[2:]
        even = F.pad(guide, (0, width % 2, 0, height % 2), mode="circular")
        z = F.pixel_unshuffle(even, 2) - 0.5
        for i, conv in enumerate(self.body):
            new = F.relu(conv(F.pad(z, (1, 1, 1, 1), mode="circular")))
            z = new if i == 0 else z + new
        moved = F.pixel_shuffle(self.head(z), 2)[..., :height, :width]
        return moved.clamp(-self._LARGEST, self._LARGEST)


def dct_filters(channels: int, size: int) -> Tensor:
    """DCT-II basis of k x k patches without the constant, lowest frequencies first.

    Args:
        channels: C. With 3, every frequency exists for the sum and two differences of the channels.
            The constants of the differences are left out as well.
        size: k.

    Returns:
        (C (k^2 - 1), C, k, k), orthonormal.
    """
    n = torch.arange(size, dtype=torch.float64)
    rows = torch.cos(math.pi * (n[None] + 0.5) * n[:, None] / size)
    rows = rows / rows.norm(dim=1, keepdim=True)
    frequencies = sorted(
        ((i, j) for i in range(size) for j in range(size) if i + j > 0),
        key=lambda f: (f[0] ** 2 + f[1] ** 2, f),
    )
    mixes = {1: [[1.0]], 3: [[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]]}[channels]
    colours = torch.tensor(mixes, dtype=torch.float64)
    colours = colours / colours.norm(dim=1, keepdim=True)
    filters = [
        colour[:, None, None] * torch.outer(rows[i], rows[j])
        for i, j in frequencies
        for colour in colours
    ]
    return torch.stack(filters).float()


class _Clip(torch.autograd.Function):
    """clip(z, -t, t), whose backward pass takes half the time of that of `torch.clamp`."""

    @staticmethod
    def forward(z: Tensor, t: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(z, -t), t)

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        z, t = inputs
        ctx.shape = t.shape
        ctx.save_for_backward(z, output)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        z, output = ctx.saved_tensors
        passed = torch.where(output == z, gradient, 0.0)
        if not ctx.needs_input_grad[1]:
            return passed, None
        return passed, ((gradient - passed) * z.sign()).sum_to_size(ctx.shape)


def clip(z: Tensor, t: Tensor) -> Tensor:
    """clip(z, -t, t) for levels t >= 0 of a shape that broadcasts to that of z."""
    clipped: Tensor = _Clip.apply(z, t)  # type: ignore[no-untyped-call]
    return clipped


def _analyse(x: Tensor, filters: Tensor) -> Tensor:
    """W x: periodic correlation with (m, C, k, k) filters; (B, C, H, W) -> (B, m, H, W)."""
    p = filters.shape[-1] // 2
    return F.conv2d(F.pad(x, (p, p, p, p), mode="circular"), filters)


def _synthesise(z: Tensor, filters: Tensor) -> Tensor:
    """W^T z, the adjoint of `_analyse`, with periodic borders."""
    p = filters.shape[-1] // 2
    full = F.conv_transpose2d(z, filters)
    for dim in (2, 3):
        size = full.shape[dim] - 2 * p
        body = full.narrow(dim, p, size).clone()
        body.narrow(dim, size - p, p).add_(full.narrow(dim, 0, p))
        body.narrow(dim, 0, p).add_(full.narrow(dim, size + p, p))
        full = body
    return full
