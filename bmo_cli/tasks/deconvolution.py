"""Image deconvolution with a known kernel and periodic boundary: y = k * x + noise.

Shape legend: B images, C channels, H x W pixels, n kernels of h x w.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.fft import irfft2, rfft2

from bmo_cli import metrics
from bmo_cli.config.checks import Channels, Count, Index, NonNegative, Positive, Seed, checked
from bmo_cli.data.kernel_files import choose_kernel
from bmo_cli.data.kernels import kernels_digest, kernels_file, make_kernels
from bmo_cli.data.loaded import Photographs
from bmo_cli.data.patches import as_tensor, central
from bmo_cli.data.splits import PhotographData, Split
from bmo_cli.errors import InputError
from bmo_cli.linear.blur import PeriodicBlur, stack_kernels, transfer_function
from bmo_cli.linear.boundary import continue_periodically, interior
from bmo_cli.linear.gradient import PeriodicGradient, laplacian_symbol
from bmo_cli.solver.functions import L1, AtZero, LeastSquares, SquaredNorm, TotalVariation
from bmo_cli.solver.problem import Coupling, Problem, Sample, SquaredError
from bmo_cli.solver.state import State
from bmo_cli.tasks.task import Case, Picture, Posed, Task

Form = Literal["least_squares", "split", "exact", "tv", "tv_anisotropic"]


def blur_problem(
    y: Tensor,
    blur: PeriodicBlur,
    form: Form = "least_squares",
    noise: Tensor | None = None,
    tv_weight: float = 0.0,
) -> Problem:
    """All that a solver may know of a blurred image: 1/2 |k * u - y|^2, or k * u = y.

    Args:
        y: (B, C, H, W).
        blur: of the batch.
        form: least_squares: as f(u). split: as h(z) = 1/2 |z|^2 with k * u + z = y, for operators
            of linear relations. exact: the constraint k * u = y. tv: f(u) with total variation,
            h(z) = tv_weight |z|_{2,1} with grad u + z = 0. tv_anisotropic: |z|_1 instead.
        noise: standard deviation, (B,), when known.
        tv_weight: weight of the total variation beside 1/2 |k * u - y|^2.
    """
    guide = partial(linear_views, y, blur)
    if form == "least_squares":
        return Problem(f=LeastSquares(blur, y), noise=noise, guide=guide)
    if form in ("tv", "tv_anisotropic"):
        gradient = PeriodicGradient(blur.size)
        variation = TotalVariation(tv_weight) if form == "tv" else L1(tv_weight)
        relation = Coupling(gradient, torch.zeros_like(gradient(y)), variation)
        return Problem(f=LeastSquares(blur, y), coupling=relation, noise=noise, guide=guide)
    h = SquaredNorm() if form == "split" else AtZero()
    return Problem(coupling=Coupling(blur, y, h), noise=noise, guide=guide)


_VIEW_WEIGHTS = (0.003, 0.015, 0.06)  # from little to much smoothing at noise of some 1 % and more


def linear_views(y: Tensor, blur: PeriodicBlur) -> Tensor:
    """y beside three linear restorations: argmin_u |k * u - y|^2 + c (|grad u|^2 + 0.05 |u|^2).

    Args:
        y: (B, C, H, W).
        blur: of the batch.

    Returns:
        (B, 4 C, H, W), for networks that adapt to the observation.
    """
    roughness = (laplacian_symbol(blur.size) + 0.05).to(y)
    spectrum = rfft2(y) * blur.transfer.conj()
    restored = [irfft2(spectrum / (blur.power + c * roughness), s=blur.size) for c in _VIEW_WEIGHTS]
    return torch.cat([y, *restored], 1)


@checked
class Deconvolution(Task):
    """Restore photographs blurred by a known kernel.

    Args:
        data: the photographs.
        seed: of kernels, noise and crops in training.
        channels: of the network; a network for gray images restores colour channel by channel.
        kernels: motion, gaussian, disk, levin (published, under the root of the data sets with
            names), or a file (.npz, .npy, .mat, image).
        kernel: index or name of the one kernel to use; None: one for every image at random.
        kernel_clip: whether a negative part of a kernel of a file, of at most 5 % of its sum, is
            set to zero; else it is refused.
        kernel_count: how many motion kernels are generated.
        kernel_size: window of generated kernels in pixels.
        kernel_width: standard deviation (gaussian) or radius (disk) in pixels.
        kernel_seed: of the motion kernels.
        noise: standard deviation in grey levels of 255, or a range (low, high) drawn from
            uniformly for every image.
        form: how the problem is written, see `blur_problem`.
        tv_weight: of the total variation, where form is tv.
        protocol: how scores are computed, see `metrics`.
        eval_seed: of noise and kernels of validation and test, so that runs with different seeds
            are judged on the same observations.
        eval_kernels: random: every image of the test split meets one kernel. each: it meets all of
            them, as in published tables; validation keeps to one, which is enough to choose a
            checkpoint.
    """

    metric = "psnr"
    unit = "dB"
    columns = metrics.COLUMNS

    def __init__(
        self,
        *,
        data: PhotographData,
        seed: Seed = 0,
        channels: Channels = 1,
        kernels: str = "motion",
        kernel: Index | str | None = None,
        kernel_clip: bool = False,
        kernel_count: Count = 8,
        kernel_size: Count = 19,
        kernel_width: Positive = 2.0,
        kernel_seed: Seed = 0,
        noise: NonNegative | tuple[NonNegative, NonNegative] = 2.55,
        form: Literal["least_squares", "split", "exact", "tv", "tv_anisotropic"] = "least_squares",
        tv_weight: NonNegative = 9e-4,
        protocol: str = "float",
        eval_seed: Seed = 0,
        eval_kernels: Literal["random", "each"] = "random",
    ) -> None:
        super().__init__()
        self.judge = metrics.protocol(protocol)
        self.protocol = self.judge.text
        if channels > data.channels:
            raise InputError("a network for colour (net.channels=3) needs data.channels=3")
        self.data, self.seed, self.channels, self.eval_seed = data, seed, channels, eval_seed
        self.form, self.tv_weight, self.eval_kernels = form, tv_weight, eval_kernels
        self._problems_an_image = data.channels // channels  # of a gray network in colour: three
        low, high = noise if isinstance(noise, list | tuple) else (noise, noise)
        if low > high:
            raise InputError(f"task.noise must be (low, high) with low <= high, got {noise}")
        self.noise_range = (low / 255, high / 255)
        found = make_kernels(
            kernels,
            count=kernel_count,
            size=kernel_size,
            width=kernel_width,
            seed=kernel_seed,
            root=data.root,
            which=kernel,
            clip=kernel_clip,
        )
        chosen = found if kernel is None else choose_kernel(found, kernel, "task.kernel")
        self.kernel_names = list(chosen)
        of_file = kernels_file(kernels, data.root) is not None
        self.kernel_content = kernels_digest(chosen) if of_file else None  # else the keys say it
        self._kernel_numbers = [list(found).index(name) for name in chosen]
        stack = stack_kernels([torch.tensor(k, dtype=torch.float32) for k in chosen.values()])
        self.kernels: Tensor
        self.register_buffer("kernels", stack, persistent=False)
        self._photographs = Photographs(data)

    def prepare(self, splits: Sequence[Split]) -> None:
        h, w = self.kernels.shape[1:]
        sides = {"eval_crop": self.data.eval_crop}
        if "train" in splits:
            sides["crop"] = self.data.crop
        for key, side in sides.items():
            if side is not None and side < max(h, w):
                raise InputError(f"data.{key}={side} is smaller than the kernel ({h} x {w})")
        self._photographs.prepare(splits, (h, w), "the blur kernel", self.data.crop)

    def samples(self, steps: range, batch: int) -> Iterator[Sample]:
        crop = self.data.crop
        transfers = transfer_function(self.kernels, (crop, crop))
        crops = self._photographs.crops(steps, batch, self.seed, crop)
        for step, clean in zip(steps, crops, strict=True):
            rng = np.random.default_rng([self.seed, step, 0xDEC0])
            yield self._sample(clean, transfers, rng)

    def _sample(self, clean: Tensor, transfers: Tensor, rng: np.random.Generator) -> Sample:
        chosen = torch.from_numpy(rng.integers(len(self.kernels), size=len(clean)))
        clean = clean.to(self.kernels.device)
        chosen = chosen.repeat_interleave(self._problems_an_image)
        transfer = transfers[chosen.to(transfers.device)]
        clean = self._fold(clean)
        problem = self._observe(clean, PeriodicBlur(transfer, _size(clean)), rng)
        seed = int(rng.integers(2**31))
        return Sample(problem, (_observation(problem),), SquaredError(clean), seed)

    def cases(self, split: Split) -> Iterator[Case]:
        images = self._photographs[split]
        each = self.eval_kernels == "each" and split == "test"
        for i, name in enumerate(images.names):
            reference = central(as_tensor(images[i]), self.data.eval_crop)
            if not each:
                rng = np.random.default_rng([self.eval_seed, i, 0xE7A1])
                yield self._case(name, reference, int(rng.integers(len(self.kernels))), rng)
                continue
            for j, number in enumerate(self._kernel_numbers):
                rng = np.random.default_rng([self.eval_seed, i, number, 0xE7A1])
                yield self._case(f"{name} {self.kernel_names[j]}", reference, j, rng)

    def _case(self, name: str, reference: Tensor, j: int, rng: np.random.Generator) -> Case:
        """The image (C, H, W) under kernel number j."""
        reference = reference.to(self.kernels.device)
        clean = self._fold(reference[None])
        transfer = transfer_function(self.kernels[j][None], _size(clean))
        problem = self._observe(clean, PeriodicBlur(transfer, _size(clean)), rng)
        return Case(name, problem, (_observation(problem),), reference)

    @classmethod
    def pose(
        cls, y: Tensor, settings: Mapping[str, Any], kernel: Tensor | None, margin: int
    ) -> Posed:
        if kernel is None:
            raise InputError("a blurred photograph needs its kernel; give kernel=FILE")
        wide = continue_periodically(y, margin)
        blur = PeriodicBlur(transfer_function(kernel[None], _size(wide)), _size(wide))
        form, weight = settings.get("form", "least_squares"), settings.get("tv_weight", 0.0)
        problem = blur_problem(wide, blur, form, tv_weight=weight)
        return Posed(problem, (wide,), lambda u: interior(u[0], margin))

    def score(self, estimate: State, case: Case) -> dict[str, float]:
        images = {"": estimate[0], "_input": _observation(case.problem)}
        return metrics.scores(self.judge, images, case.reference)

    def pictures(
        self, estimate: State, case: Case, scores: Mapping[str, float]
    ) -> dict[str, Picture]:
        shape = case.reference.shape
        degraded, restored = (f"{scores[key]:.2f} dB" for key in ("psnr_input", "psnr"))
        observation = _observation(case.problem).reshape(shape)
        return {
            "clean": Picture(case.reference, f"{case.name}: clean"),
            "degraded": Picture(observation, f"degraded {degraded}"),
            "restored": Picture(estimate[0].reshape(shape), f"restored {restored}"),
        }

    def fingerprints(self) -> dict[str, Any]:
        return self._photographs.fingerprints() | {
            "kernels": self.kernel_names,
            "kernel_content": self.kernel_content,
        }

    def _fold(self, images: Tensor) -> Tensor:
        """Colour images for a gray network: every channel is a problem of its own."""
        return images.reshape(-1, self.channels, *images.shape[-2:])

    def _observe(self, clean: Tensor, blur: PeriodicBlur, rng: np.random.Generator) -> Problem:
        """Blur and add noise. Drawn on the CPU, so that devices agree."""
        images = len(clean) // self._problems_an_image
        level = rng.uniform(*self.noise_range, size=images).repeat(self._problems_an_image)
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        noise = torch.tensor(level, dtype=clean.dtype)
        draw = torch.randn(clean.shape, generator=generator, dtype=clean.dtype)
        y = blur(clean) + (noise[:, None, None, None] * draw).to(clean.device)
        return blur_problem(y, blur, self.form, noise.to(clean.device), self.tv_weight)


def _observation(problem: Problem) -> Tensor:
    """y of a deconvolution problem."""
    if isinstance(problem.f, LeastSquares):
        return problem.f.y
    assert problem.coupling is not None
    return problem.coupling.b


def _size(image: Tensor) -> tuple[int, int]:
    return (image.shape[-2], image.shape[-1])
