"""Rain streak removal. A rainy image is a background plus a layer of rain, y = b + r.

    u = (b, r), stacked along the channels;      f(u) = 1/2 |b + r - y|^2

Shape legend: B images, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.fft import irfft2, rfft2

from bmo_cli.config.checks import LossName, NonNegative, checked
from bmo_cli.data.degraded import DegradedImages
from bmo_cli.data.rainy import RainyPhotographs
from bmo_cli.data.splits import Split
from bmo_cli.errors import InputError
from bmo_cli.linear.boundary import continue_periodically, interior
from bmo_cli.linear.gradient import laplacian_symbol
from bmo_cli.linear.layers import StreakGradient, SumOfLayers
from bmo_cli.solver.functions import (
    L1,
    AtZero,
    LeastSquares,
    Proximable,
    SquaredNorm,
    Zero,
    is_weight,
)
from bmo_cli.solver.problem import Coupling, Problem, Sample
from bmo_cli.solver.state import State
from bmo_cli.tasks.restoration import LOSSES, Restoration
from bmo_cli.tasks.task import Case, Picture, Posed

Form = Literal["sum", "split", "exact", "sparse", "single"]


class SparseRain(Proximable):
    """g(b, r) = weight |r|_1 where r >= 0, infinite elsewhere. Rain is sparse and only brightens.

    Args:
        weight: >= 0.
    """

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def select(self, problems: Tensor) -> SparseRain:
        return self

    def prox(self, u: State, gamma: Tensor) -> State:
        b, r = u[0].chunk(2, 1)
        return (torch.cat([b, (r - gamma * self.weight).clamp_min(0)], 1), *u[1:])

    def is_convex(self) -> bool:
        return is_weight(self.weight)


def rain_problem(
    y: Tensor,
    form: Form = "sum",
    rain_weight: float = 0.0,
    background_weight: float = 0.0,
    streak_weight: float = 0.0,
) -> Problem:
    """The problem of a rainy image, without the ground truth.

    Args:
        y: (B, C, H, W).
        form: sum: f(b, r) = 1/2 |b + r - y|^2. split: as h(z) = 1/2 |z|^2 with b + r + z = y, for
            operators of linear relations. exact: the constraint b + r = y. sparse: f, a background
            of sparse gradients and rain of sparse vertical ones, h = background_weight |grad b|_1
            + streak_weight |d r / d vertical|_1. single: f(b) = 1/2 |b - y|^2 without a layer of
            rain, for a network that removes it directly.
        rain_weight: of |r|_1 with r >= 0; 0: no such g. Not for `single`.
        background_weight: see `sparse`.
        streak_weight: see `sparse`.

    `sparse` is a convex model in the manner of Deng, Huang, Zhao & Jiang, "A directional global
    sparse model for single image rain removal", Appl. Math. Modelling 2018.
    """
    guide = partial(smoothed_views, y)
    if form == "single":
        return Problem(f=LeastSquares(SumOfLayers(1), y), guide=guide)
    total = SumOfLayers(2)
    g = SparseRain(rain_weight) if rain_weight > 0 else Zero()
    if form == "sum":
        return Problem(f=LeastSquares(total, y), g=g, guide=guide)
    if form == "sparse":
        channels = y.shape[1]
        weights = [background_weight] * 2 * channels + [streak_weight] * channels
        penalty = L1(torch.tensor(weights, dtype=y.dtype, device=y.device)[:, None, None])
        gradient = StreakGradient((y.shape[-2], y.shape[-1]))
        zero = y.new_zeros(y.shape[0], 3 * channels, *y.shape[2:])
        relation = Coupling(gradient, zero, penalty)
        return Problem(f=LeastSquares(total, y), g=g, coupling=relation, guide=guide)
    h = SquaredNorm() if form == "split" else AtZero()
    return Problem(g=g, coupling=Coupling(total, y, h), guide=guide)


def initial_layers(y: Tensor, form: Form) -> State:
    """u^0: all of the image is background."""
    return (y if form == "single" else torch.cat([y, torch.zeros_like(y)], 1),)


_SMOOTHING = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


def smoothed_views(y: Tensor) -> Tensor:
    """y beside six smoothed versions, argmin_v |v - y|^2 + c |grad v|^2.

    Args:
        y: (B, C, H, W).

    Returns:
        (B, 7 C, H, W), for networks that adapt to the observation.
    """
    roughness, spectrum = laplacian_symbol((y.shape[-2], y.shape[-1])).to(y), rfft2(y)
    smooth = [irfft2(spectrum / (1 + c * roughness), s=y.shape[-2:]) for c in _SMOOTHING]
    return torch.cat([y, *smooth], 1)


@dataclass(frozen=True)
class RainModel:
    """The problem that a rainy image poses, in training, evaluation and restoring alike.

    Attributes:
        form: how it is written, see `rain_problem`.
        rain_weight: of |r|_1, see `rain_problem`.
        background_weight: of |grad b|_1, where form is sparse.
        streak_weight: of |d r / d vertical|_1, where form is sparse.
    """

    form: Form
    rain_weight: float
    background_weight: float
    streak_weight: float

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> RainModel:
        """From the configuration's `task` section."""
        return cls(*(settings[field.name] for field in fields(cls)))

    def pose(self, y: Tensor) -> tuple[Problem, State]:
        """The problem of rainy images, (B, C, H, W), and u^0."""
        weights = (self.rain_weight, self.background_weight, self.streak_weight)
        return rain_problem(y, self.form, *weights), initial_layers(y, self.form)

    def target(self, images: DegradedImages) -> Tensor:
        """What the estimate should be: the background, and the layer of rain where there is one."""
        if self.form == "single":
            return images.clean
        return torch.cat([images.clean, images.y - images.clean], 1)


@checked
class Derain(Restoration):
    """Remove rain streaks from photographs.

    Args:
        form: how the problem is written, see `rain_problem`.
        rain_weight: of |r|_1, see `rain_problem`.
        background_weight: of |grad b|_1, where form is sparse.
        streak_weight: of |d r / d vertical|_1, where form is sparse.
        loss: what hyper-training minimises on both layers, a key of `LOSSES`.
        protocol: how scores are computed, see `metrics`.
        data_keys: arguments of `RainyPhotographs`: photographs and rain.
    """

    data: RainyPhotographs
    degraded_name = "rainy"

    def __init__(
        self,
        *,
        form: Literal["sum", "split", "exact", "sparse", "single"] = "sum",
        rain_weight: NonNegative = 0.0,
        background_weight: NonNegative = 0.03,
        streak_weight: NonNegative = 0.03,
        loss: LossName = "squared",
        protocol: str = "luminance",
        **data_keys: Any,
    ) -> None:
        super().__init__(RainyPhotographs(**data_keys), protocol)
        self.model = RainModel(form, rain_weight, background_weight, streak_weight)
        self.layers = self.layers_of({"form": form})
        self.loss = LOSSES[loss]

    def samples(self, steps: range, batch: int) -> Iterator[Sample]:
        for images, seed in self.data.batches(steps, batch):
            problem, initial = self.model.pose(images.y)
            yield Sample(problem, initial, self.loss(self.model.target(images)), seed)

    def cases(self, split: Split) -> Iterator[Case]:
        for name, reference, images in self.data.cases(split):
            problem, initial = self.model.pose(images.y)
            yield Case(name, problem, initial, reference)

    @classmethod
    def layers_of(cls, settings: Mapping[str, Any]) -> int:
        return 1 if settings["form"] == "single" else 2

    @classmethod
    def pose(
        cls, y: Tensor, settings: Mapping[str, Any], kernel: Tensor | None, margin: int
    ) -> Posed:
        if kernel is not None:
            raise InputError("kernel= is for deblurring, and this run removes rain; leave it out")
        channels = y.shape[1]
        problem, initial = RainModel.from_settings(settings).pose(continue_periodically(y, margin))
        return Posed(problem, initial, lambda u: interior(u[0][:, :channels], margin))

    def restored_image(self, estimate: State, case: Case) -> Tensor:
        return estimate[0][:, : self.data.channels]

    def pictures(
        self, estimate: State, case: Case, scores: Mapping[str, float]
    ) -> dict[str, Picture]:
        pictures = super().pictures(estimate, case, scores)
        if self.layers == 2:
            rain = estimate[0].chunk(2, 1)[1].reshape(case.reference.shape)
            pictures["rain"] = Picture(rain, "its layer of rain")
        return pictures
