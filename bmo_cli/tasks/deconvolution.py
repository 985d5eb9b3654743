"""Image deconvolution with a known kernel and periodic boundary: y = k * x + noise.

Shape legend: B images, C channels, H x W pixels, kernels of h x w.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from bmo_cli.config.checks import LossName, NonNegative, checked
from bmo_cli.data.blurred import BlurredPhotographs
from bmo_cli.data.noise import estimate_noise
from bmo_cli.data.splits import Split
from bmo_cli.errors import InputError
from bmo_cli.linear.blur import PeriodicBlur, transfer_function
from bmo_cli.linear.boundary import continue_periodically, interior
from bmo_cli.linear.fourier import multiply_spectrum
from bmo_cli.linear.gradient import PeriodicGradient, laplacian_symbol
from bmo_cli.solver.functions import L1, AtZero, LeastSquares, SquaredNorm, TotalVariation
from bmo_cli.solver.problem import LEAST_NOISE, Coupling, Problem, Sample
from bmo_cli.solver.state import State
from bmo_cli.tasks.restoration import LOSSES, Restoration
from bmo_cli.tasks.task import Case, Posed

Form = Literal["least_squares", "split", "exact", "tv", "tv_anisotropic"]


def blur_problem(
    y: Tensor,
    blur: PeriodicBlur,
    form: Form = "least_squares",
    noise: Tensor | None = None,
    tv_weight: float = 0.0,
) -> Problem:
    """The problem of a blurred image, 1/2 |k * u - y|^2 or k * u = y, without the ground truth.

    Args:
        y: (B, C, H, W).
        blur: of the batch.
        form: least_squares: as f(u). split: as h(z) = 1/2 |z|^2 with k * u + z = y, for operators
            of linear relations. exact: the constraint k * u = y. tv: f(u) with total variation,
            h(z) = tv_weight |z|_{2,1} with grad u + z = 0. tv_anisotropic: |z|_1 instead.
        noise: standard deviation, (B,), when known.
        tv_weight: weight of the total variation beside 1/2 |k * u - y|^2.
    """
    guide = partial(linear_views, y, blur, noise)
    if form == "least_squares":
        return Problem(f=LeastSquares(blur, y), noise=noise, guide=guide)
    if form in ("tv", "tv_anisotropic"):
        gradient = PeriodicGradient(blur.size)
        variation = TotalVariation(tv_weight) if form == "tv" else L1(tv_weight)
        relation = Coupling(gradient, torch.zeros_like(gradient(y)), variation)
        return Problem(f=LeastSquares(blur, y), coupling=relation, noise=noise, guide=guide)
    h = SquaredNorm() if form == "split" else AtZero()
    return Problem(coupling=Coupling(blur, y, h), noise=noise, guide=guide)


_VIEW_WEIGHTS = (10.0, 30.0, 100.0, 300.0, 1000.0)  # from little to much smoothing
_START_WEIGHT = 100.0


def linear_views(y: Tensor, blur: PeriodicBlur, noise: Tensor | None = None) -> Tensor:
    """y beside five linear restorations, from little to much smoothing, and the level of the noise.

    Args:
        y: (B, C, H, W).
        blur: of the batch.
        noise: standard deviation, (B,); None: it is estimated.

    Returns:
        (B, 7 C, H, W), for networks that adapt to the observation. The last C are constant, ten
        times the noise.
    """
    level = noise_level(y, noise)
    restored = [wiener(y, blur, c * level.square()) for c in _VIEW_WEIGHTS]
    return torch.cat([y, *restored, 10 * level.expand_as(y)], 1)


def noise_level(y: Tensor, noise: Tensor | None) -> Tensor:
    """The noise that weights are chosen for, at least half a grey level: (B, 1, 1, 1).

    Args:
        y: (B, C, H, W).
        noise: standard deviation, (B,); None: it is estimated.
    """
    level = estimate_noise(y) if noise is None else noise.to(y)
    return level.clamp_min(LEAST_NOISE)[:, None, None, None]


def wiener(y: Tensor, blur: PeriodicBlur, weight: Tensor) -> Tensor:
    """argmin_u |k * u - y|^2 + c (|grad u|^2 + 0.05 |u|^2), shape (B, C, H, W).

    Args:
        y: (B, C, H, W).
        blur: of the batch.
        weight: c > 0, (B, 1, 1, 1).
    """
    roughness = (laplacian_symbol(blur.size) + 0.05).to(y)
    return multiply_spectrum(y, blur.transfer.conj() / (blur.power + weight * roughness))


@dataclass(frozen=True)
class BlurModel:
    """The problem that a blurred image poses, in training, evaluation and restoring alike.

    Attributes:
        form: how it is written, see `blur_problem`.
        tv_weight: of the total variation, where form is tv.
        start: u^0, the observation or a Wiener filter of it.
    """

    form: Form = "least_squares"
    tv_weight: float = 0.0
    start: Literal["observation", "wiener"] = "observation"

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> BlurModel:
        """From the configuration's `task` section."""
        names = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in settings.items() if key in names})

    def pose(
        self, y: Tensor, blur: PeriodicBlur, noise: Tensor | None = None
    ) -> tuple[Problem, State]:
        """The problem of blurred images, (B, C, H, W), and u^0.

        Args:
            y: blurred.
            blur: of the batch.
            noise: standard deviation, (B,), when known.
        """
        problem = blur_problem(y, blur, self.form, noise, self.tv_weight)
        if self.start == "observation":
            return problem, (y,)
        return problem, (wiener(y, blur, _START_WEIGHT * noise_level(y, noise).square()),)


@checked
class Deconvolution(Restoration):
    """Restore photographs blurred by a known kernel.

    Args:
        form: how the problem is written, see `blur_problem`.
        tv_weight: of the total variation, where form is tv.
        start: u^0, the observation or a Wiener filter of it.
        loss: what hyper-training minimises, a key of `LOSSES`.
        protocol: how scores are computed, see `metrics`.
        data_keys: arguments of `BlurredPhotographs`: photographs, kernels and noise.
    """

    data: BlurredPhotographs

    def __init__(
        self,
        *,
        form: Literal["least_squares", "split", "exact", "tv", "tv_anisotropic"] = "least_squares",
        tv_weight: NonNegative = 9e-4,
        start: Literal["observation", "wiener"] = "observation",
        loss: LossName = "squared",
        protocol: str = "float",
        **data_keys: Any,
    ) -> None:
        super().__init__(BlurredPhotographs(**data_keys), protocol)
        self.model = BlurModel(form, tv_weight, start)
        self.loss = LOSSES[loss]

    def samples(self, steps: range, batch: int) -> Iterator[Sample]:
        for images, seed in self.data.batches(steps, batch):
            problem, initial = self.model.pose(images.y, images.blur, images.noise)
            yield Sample(problem, initial, self.loss(images.clean), seed)

    def cases(self, split: Split) -> Iterator[Case]:
        for name, reference, images in self.data.cases(split):
            problem, initial = self.model.pose(images.y, images.blur, images.noise)
            yield Case(name, problem, initial, reference)

    @classmethod
    def settings_for(cls, y: Tensor, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """The level of the noise: that of training; for a range, an estimate inside of it."""
        noise = settings.get("noise", (0.0, math.inf))
        if not isinstance(noise, list | tuple):
            return settings
        low, high = noise
        level = 255 * float(estimate_noise(y).mean())
        return {**settings, "noise": min(max(level, low), high)}

    @classmethod
    def pose(
        cls, y: Tensor, settings: Mapping[str, Any], kernel: Tensor | None, margin: int
    ) -> Posed:
        if kernel is None:
            raise InputError("a blurred photograph needs its kernel; give kernel=FILE")
        wide = continue_periodically(y, margin)
        size = (wide.shape[-2], wide.shape[-1])
        blur = PeriodicBlur(transfer_function(kernel[None], size), size)
        level = cls.settings_for(y, settings)["noise"] / 255
        noise = torch.full((len(y),), level, dtype=y.dtype, device=y.device)
        problem, initial = BlurModel.from_settings(settings).pose(wide, blur, noise)
        return Posed(problem, initial, lambda u: interior(u[0], margin))
