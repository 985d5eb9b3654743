"""Rain streak removal: a rainy image is a background and a layer of rain, y = b + r.

    u = (b, r), stacked along the channels;      f(u) = 1/2 |b + r - y|^2

Shape legend: B images, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.fft import irfft2, rfft2

from bmo_cli import metrics
from bmo_cli.config.checks import Channels, Count, Finite, NonNegative, Seed, checked
from bmo_cli.data.loaded import Photographs
from bmo_cli.data.patches import as_tensor, central
from bmo_cli.data.rain import streaks
from bmo_cli.data.splits import PhotographData, Split
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
from bmo_cli.solver.problem import Charbonnier, Coupling, Problem, Sample, SquaredError
from bmo_cli.solver.state import State
from bmo_cli.tasks.task import Case, Picture, Posed, Task

Form = Literal["sum", "split", "exact", "sparse", "single"]


class SparseRain(Proximable):
    """g(b, r) = weight |r|_1 where r >= 0, infinite elsewhere: rain is sparse and only brightens.

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
    """All that a solver may know of a rainy image.

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


_SMOOTHING = (1.0, 10.0, 100.0)


def smoothed_views(y: Tensor) -> Tensor:
    """y beside three smoothed versions, argmin_v |v - y|^2 + c |grad v|^2.

    Args:
        y: (B, C, H, W).

    Returns:
        (B, 4 C, H, W), for networks that adapt to the observation.
    """
    roughness, spectrum = laplacian_symbol((y.shape[-2], y.shape[-1])).to(y), rfft2(y)
    smooth = [irfft2(spectrum / (1 + c * roughness), s=y.shape[-2:]) for c in _SMOOTHING]
    return torch.cat([y, *smooth], 1)


@checked
class Derain(Task):
    """Remove rain streaks from photographs.

    Data of pairs (`data=paired`, `data=rain100h`, ...) are taken as they are; clean photographs get
    synthetic rain: every crop of every step its own, and every evaluation image one of its own.

    Args:
        data: the photographs.
        seed: of rain and crops in training.
        channels: of the network; a network for gray images works channel by channel.
        rain: preset of synthetic rain, see `data.rain`; the next seven arguments change it.
        angle: direction from the vertical in degrees, (low, high).
        length: of a streak in pixels, (low, high).
        width: of a streak in pixels, (low, high).
        density: streaks per 1000 pixels in a layer, (low, high).
        brightness: of a streak as a share of white, (low, high).
        layers_of_rain: number of layers.
        blend: screen or additive.
        form: how the problem is written, see `rain_problem`.
        rain_weight: of |r|_1, see `rain_problem`.
        background_weight: of |grad b|_1, where form is sparse.
        streak_weight: of |d r / d vertical|_1, where form is sparse.
        loss: what hyper-training minimises on both layers: squared, 1/2 |u - x|^2, or charbonnier,
            a smooth |u - x|_1, see `solver.problem`.
        protocol: how scores are computed, see `metrics`.
        eval_seed: of the rain of validation and test, so that runs with different seeds are judged
            on the same observations.
    """

    metric = "psnr"
    unit = "dB"
    columns: ClassVar[Mapping[str, str]] = metrics.COLUMNS

    def __init__(
        self,
        *,
        data: PhotographData,
        seed: Seed = 0,
        channels: Channels = 3,
        rain: Literal["light", "heavy"] = "light",
        angle: tuple[Finite, Finite] | None = None,
        length: tuple[Finite, Finite] | None = None,
        width: tuple[Finite, Finite] | None = None,
        density: tuple[Finite, Finite] | None = None,
        brightness: tuple[Finite, Finite] | None = None,
        layers_of_rain: Count | None = None,
        blend: Literal["screen", "additive"] | None = None,
        form: Literal["sum", "split", "exact", "sparse", "single"] = "sum",
        rain_weight: NonNegative = 0.0,
        background_weight: NonNegative = 0.03,
        streak_weight: NonNegative = 0.03,
        loss: Literal["squared", "charbonnier"] = "squared",
        protocol: str = "luminance",
        eval_seed: Seed = 0,
    ) -> None:
        super().__init__()
        if channels > data.channels:
            raise InputError("a network for colour (net.channels=3) needs data.channels=3")
        self.data, self.seed, self.channels, self.eval_seed = data, seed, channels, eval_seed
        self.streaks = streaks(
            rain,
            angle=angle,
            length=length,
            width=width,
            density=density,
            brightness=brightness,
            layers=layers_of_rain,
            blend=blend,
        )
        self.form, self.weights = form, (rain_weight, background_weight, streak_weight)
        self.layers = self.layers_of({"form": form})
        self.loss: type[SquaredError] | type[Charbonnier] = (
            SquaredError if loss == "squared" else Charbonnier
        )
        self.judge = metrics.protocol(protocol)
        self.protocol = self.judge.text
        self.place: Tensor
        self.register_buffer("place", torch.zeros(()), persistent=False)  # knows the device
        self._photographs = Photographs(data, pairs=True)

    def prepare(self, splits: Sequence[Split]) -> None:
        self._photographs.prepare(splits, (1, 1), "a pixel", self.data.crop)

    def samples(self, steps: range, batch: int) -> Iterator[Sample]:
        sets = 1 if self._photographs.degraded("train") is None else 2
        crops = self._photographs.crops(steps, batch, self.seed, self.data.crop)
        for step, drawn in zip(steps, crops, strict=True):
            rng = np.random.default_rng([self.seed, step, 0x5A1D])
            b, *observed = drawn.to(self.place.device).chunk(sets, 1)
            y = observed[0] if observed else self._let_it_rain(b, rng)
            b, y = self._fold(b), self._fold(y)
            target = b if self.layers == 1 else torch.cat([b, y - b], 1)
            seed = int(rng.integers(2**31))
            yield Sample(*self.observe(y), self.loss(target), seed)

    def cases(self, split: Split) -> Iterator[Case]:
        clean, rainy = self._photographs[split], self._photographs.degraded(split)
        for i, name in enumerate(clean.names):
            rng = np.random.default_rng([self.eval_seed, i, 0xE7A1])
            b = self._crop(clean[i])
            y = self._let_it_rain(b, rng) if rainy is None else self._crop(rainy[i])
            yield Case(name, *self.observe(self._fold(y)), b[0])

    def observe(self, y: Tensor) -> tuple[Problem, State]:
        """The problem of rainy images (B, C, H, W) in the chosen form, and u^0."""
        return rain_problem(y, self.form, *self.weights), initial_layers(y, self.form)

    @classmethod
    def layers_of(cls, settings: Mapping[str, Any]) -> int:
        return 1 if settings["form"] == "single" else 2

    @classmethod
    def pose(
        cls, y: Tensor, settings: Mapping[str, Any], kernel: Tensor | None, margin: int
    ) -> Posed:
        if kernel is not None:
            raise InputError("kernel= is for deblurring, and this run removes rain; leave it out")
        names = ("form", "rain_weight", "background_weight", "streak_weight")
        wide, channels = continue_periodically(y, margin), y.shape[1]
        problem = rain_problem(wide, *(settings[name] for name in names))
        initial = initial_layers(wide, settings["form"])
        return Posed(problem, initial, lambda u: interior(u[0][:, :channels], margin))

    def score(self, estimate: State, case: Case) -> dict[str, float]:
        images = {"": self._background(estimate), "_input": observation(case.problem)}
        return metrics.scores(self.judge, images, case.reference)

    def pictures(
        self, estimate: State, case: Case, scores: Mapping[str, float]
    ) -> dict[str, Picture]:
        shape = case.reference.shape
        rainy, restored = (f"{scores[key]:.2f} dB" for key in ("psnr_input", "psnr"))
        found = {
            "clean": Picture(case.reference, f"{case.name}: clean"),
            "rainy": Picture(observation(case.problem).reshape(shape), f"rainy {rainy}"),
            "restored": Picture(self._background(estimate).reshape(shape), f"restored {restored}"),
        }
        if self.layers == 2:
            rain = estimate[0].chunk(2, 1)[1].reshape(shape)
            found["rain"] = Picture(rain, "its layer of rain")
        return found

    def fingerprints(self) -> dict[str, Any]:
        return self._photographs.fingerprints()

    def _crop(self, pixels: Any) -> Tensor:
        """(1, C, H, W) of what an evaluation sees of an image."""
        return central(as_tensor(pixels), self.data.eval_crop).to(self.place.device)[None]

    def _let_it_rain(self, b: Tensor, rng: np.random.Generator) -> Tensor:
        """Drawn on the CPU, so that devices agree."""
        drawn = self.streaks.draw((len(b), b.shape[-2], b.shape[-1]), rng)
        return self.streaks.fall(b, drawn.to(b.device))

    def _fold(self, images: Tensor) -> Tensor:
        """Colour images for a gray network: every channel is a problem of its own."""
        return images.reshape(-1, self.channels, *images.shape[-2:])

    def _background(self, estimate: State) -> Tensor:
        return estimate[0][:, : self.channels]


def observation(problem: Problem) -> Tensor:
    """y of a problem of this task."""
    if isinstance(problem.f, LeastSquares):
        return problem.f.y
    assert problem.coupling is not None
    return problem.coupling.b
