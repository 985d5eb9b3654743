"""A network that is nonexpansive for every observation and adapts to it.

Shape legend: B images, C channels, H x W pixels, m filters of k x k.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from bmo_cli.config.checks import Channels, Count, Positive, Repeats, Seed, checked
from bmo_cli.errors import InputError
from bmo_cli.nets.convex_potential import ConvexPotential, Gradient
from bmo_cli.nets.filter_bank import (
    analyse,
    dct_filters,
    steerable_filters,
    synthesise,
    unit_filters,
)
from bmo_cli.nets.huber import huber_gradient
from bmo_cli.nets.unet import MultiScale


@checked
class GuidedPotential(ConvexPotential):
    """A step x - rho W^T Q^T clip(Q W x, -t, t) / |W|^2 whose t and Q a second network chooses.

        log t(y) = log t + G(y),   Q(y) rotates pairs of responses,   G a U-Net of the guide alone

    t has a level for every pixel and filter. Q rotates each pair of filters by an angle of its own
    at every pixel, so that the first pair measures differences along and across an edge. The guide
    is made from the observation y and does not change along the iteration. For every y, the step is
    therefore a gradient step on a convex function of x, whatever G is. It can smooth strongly where
    the guide is flat, along edges and not across them. G runs once an image, not once an iteration.
    (Spatially adapted regularisation: Kofler et al., "Learning regularization parameter-maps for
    variational image reconstruction", SIAM J. Imaging Sci. 2023; Neumayer & Altekrueger, "Stability
    of data-dependent ridge-regularization", 2024. Directional total variation: Bayram & Kamasak,
    IEEE Signal Process. Lett. 2012.)

    With `centre`, G also predicts the responses themselves, and the filters keep their means:

        x - rho W^T s(W x - c(y)) / |W|^2,   s(z) = (z + clip(z, -t, t)) / 2

    s is monotone and 1-Lipschitz, so that this is a gradient step on a convex function for every c.
    It draws x towards a prediction, the more strongly the larger the level of a pixel. The slope of
    1/2 beyond t makes the iteration converge linearly where two layers share an image; a clipped
    force alone would move them by t an iteration. It serves layers that a U-Net can tell from the
    observation, such as rain. Filters of zero mean keep the mean of a layer, so that they cannot
    move the brightness of rain from one layer to the other.

    Args:
        channels: of the images, 1 or 3.
        size: k, odd. There are m = C (k^2 - 1) filters, with `centre` m = C k^2. Images have at
            least k // 2 pixels a side. Filters of one pixel need `centre`.
        threshold: initial level t, in units of the image range.
        steer: whether responses are rotated. Otherwise Q = I.
        centre: whether c is predicted. Otherwise c = 0. Such responses are not rotated.
        views: number of images a channel in the guide of the task.
        widths: features of the scales of G, the first at half the resolution.
        blocks: residual blocks of G on each side of a scale.
        seed: seed of G. The initial filters are those of the discrete cosine transform.
    """

    guided = True
    guarantee = (
        "averaged for all weights and observations for which the guide is finite; the step depends "
        "on the observation"
    )
    _LARGEST = 6.0  # of |G|: a level moves by a factor 400 at most
    _SLOPE = 0.5  # of s beyond t, where responses are predicted

    def __init__(
        self,
        *,
        channels: Channels = 1,
        size: Literal[1, 3, 5, 7] = 3,
        threshold: Positive = 0.005,
        steer: bool = True,
        centre: bool = False,
        views: Count = 7,
        widths: tuple[Count, Count, Count] = (32, 64, 96),
        blocks: Repeats = 1,
        seed: Seed = 0,
    ) -> None:
        if centre and steer:
            raise InputError("net.centre=true predicts responses as they are; set net.steer=false")
        if size == 1 and not centre:
            raise InputError("net.size=1 has filters of zero mean that are 0; set net.centre=true")
        if centre:
            filters = dct_filters(channels, size, constant=True)
        else:
            filters = steerable_filters(channels, size)
        super().__init__(channels=channels, width=len(filters), threshold=threshold, seed=seed)
        self.filters = nn.Parameter(filters[None])
        self.views, self.steer, self.centre = views, steer, centre
        outputs = 2 * len(filters) if steer or centre else len(filters)
        self.guide = MultiScale(views * channels, outputs, widths, blocks, 0.1, seed)

    def _units(self) -> list[Tensor]:
        return [unit_filters(filters, zero_mean=not self.centre) for filters in self.filters]

    def _gradients(self, guide: Tensor | None) -> list[Gradient]:
        if guide is None:
            raise InputError(f"{type(self).__name__} needs a guide, a first estimate of the image")
        if guide.shape[1] != self.views * self.channels:
            raise InputError(
                f"the task's guide has {guide.shape[1]} channels, but net.views={self.views} and "
                f"net.channels={self.channels} expect {self.views * self.channels}"
            )
        # The U-Net works channels last, in which what follows would take three times as long.
        maps: Tensor = self.guide(guide - 0.5).contiguous()
        width = self.filters.shape[1]
        change = maps[:, :width].clamp(-self._LARGEST, self._LARGEST)
        levels = (self.log_levels[0, :, 0, None, None] + change).exp()
        if self.centre:
            return [
                partial(_drawn_gradient, centre=maps[:, width:], levels=levels, slope=self._SLOPE)
            ]
        if not self.steer:
            return [partial(huber_gradient, levels=levels)]
        rotation = _unit(1 + maps[:, width::2], maps[:, width + 1 :: 2])
        return [partial(huber_gradient, levels=levels, rotation=rotation)]


def _drawn_gradient(
    x: Tensor, filters: Tensor, *, centre: Tensor, levels: Tensor, slope: float
) -> Tensor:
    """W^T s(W x - c)."""
    away = analyse(x, filters) - centre
    drawn = slope * away + (1 - slope) * torch.clamp(away, -levels, levels)
    return synthesise(drawn, filters)


def _unit(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(a, b) scaled to a length just below 1, so that no rounding makes a rotation expand."""
    scale = (1 - 1e-6) * (a.square() + b.square() + 1e-6).rsqrt()
    return a * scale, b * scale
