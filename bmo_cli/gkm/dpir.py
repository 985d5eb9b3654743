"""Plug-and-play with a decreasing noise level: half-quadratic splitting as in DPIR.

Zhang et al., "Plug-and-play image restoration with deep denoiser prior", IEEE TPAMI 2021.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bmo_cli.config.checks import Count, NonNegative, Positive, checked
from bmo_cli.errors import InputError
from bmo_cli.gkm.operator import BoundOperator, Exponential, NumericalOperator, least_squares_of
from bmo_cli.linear.blur import PeriodicBlur
from bmo_cli.solver.functions import StateMap
from bmo_cli.solver.metric import ScaledIdentity
from bmo_cli.solver.problem import Problem
from bmo_cli.solver.state import State


@checked
class DPIR(NumericalOperator):
    """R_{s_k}(prox_{gamma_k f}(u)) with gamma_k = (s_k / noise)^2 / weight and s_k decreasing.

    The denoiser R replaces prox_g. It was trained for one noise level s. To remove another level t,
    it gets an image that is rescaled about a local mean m (a Gaussian average), which keeps the
    values in the range of its training:

        R_t(v) = m + t/s (R(m + s/t (v - m)) - m)

    This is exact for m = 0 and an R without biases, because such a network commutes with scaling.
    The levels decrease in a geometric sequence and then stay at the last one. A learned weight and
    learned ends of the sequence are kept positive; there is no other condition.

    Args:
        first: noise level that the first iteration removes, grey levels of 255.
        last: noise level of iteration number `steps` and beyond.
        steps: number of iterations from first to last.
        weight: weight of the denoiser relative to the data, DPIR's lambda.
        level: noise level s that the network was trained for, grey levels of 255.
        centre: standard deviation of the Gaussian average m in pixels; 0: m = 0.
        noise: noise of the observation in grey levels, if the task does not state it.
        learn: whether first, last and weight are hyper-parameters.
    """

    uses_g = True
    stationary = False

    def __init__(
        self,
        *,
        first: Positive = 49.0,
        last: Positive = 12.0,
        steps: Count = 8,
        weight: Positive = 0.23,
        level: Positive = 25.0,
        centre: NonNegative = 1.2,
        noise: Positive | None = None,
        learn: bool = False,
    ) -> None:
        super().__init__()
        if last > first:
            raise InputError(
                f"gkm.operator.last must be at most gkm.operator.first={first:g}, got {last:g}"
            )
        self.first, self.last = Exponential(first, learn=learn), Exponential(last, learn=learn)
        self.weight = Exponential(weight, learn=learn)
        self.steps, self.level, self.centre, self.noise = steps, level, centre, noise

    def level_at(self, k: int) -> Tensor:
        """s_k in grey levels of 255, a scalar."""
        share = min(k / (self.steps - 1), 1.0) if self.steps > 1 else 1.0
        level: Tensor = self.first() ** (1 - share) * self.last() ** share
        return level

    def bind(self, problem: Problem) -> BoundOperator:
        f = least_squares_of(problem, self)
        if not isinstance(f.a, PeriodicBlur):
            raise InputError("DPIR restores blurred images; use task=deconv, or gkm=prox")
        noise = self._noise(problem, f.y)
        average = gaussian_average(self.centre, f.y)

        @functools.cache
        def iteration(k: int, with_graph: bool) -> tuple[Tensor, Tensor, StateMap]:
            level = self.level_at(k)
            gamma = (level / noise).square() / self.weight()
            return self.level / level, gamma, f.resolvent(gamma)

        def apply(u: State, k: int) -> State:
            ratio, gamma, resolvent = iteration(min(k, self.steps - 1), torch.is_grad_enabled())
            (v,) = resolvent(u)
            m = average(v)
            (denoised,) = problem.g.prox((m + ratio * (v - m),), gamma)
            return (m + (denoised - m) / ratio,)

        unit = torch.ones((), dtype=f.y.dtype, device=f.y.device)
        return BoundOperator(apply, ScaledIdentity(unit))

    def _noise(self, problem: Problem, y: Tensor) -> Tensor:
        """Noise of the observation, at least half a grey level of 255, (B, 1, 1, 1)."""
        if problem.noise is not None:
            noise = 255 * problem.noise.to(y)
        elif self.noise is not None:
            noise = torch.full((1,), self.noise, dtype=y.dtype, device=y.device)
        else:
            raise InputError(
                "DPIR takes its steps from the noise of the observation, which is not known here; "
                "give gkm.operator.noise in grey levels of 255"
            )
        return noise.clamp_min(0.5)[:, None, None, None]


def gaussian_average(width: float, like: Tensor) -> Callable[[Tensor], Tensor]:
    """Convolution with a Gaussian of standard deviation `width` pixels, periodic; 0: the map to 0.

    Args:
        width: at most about a sixth of the image.
        like: (B, C, H, W), gives shape, precision and device.
    """
    if width == 0:
        return torch.zeros_like
    reach = min(math.ceil(3 * width), *like.shape[-2:])
    offset = torch.arange(-reach, reach + 1, dtype=like.dtype, device=like.device)
    taps = torch.exp(-offset.square() / (2 * width**2))
    taps = (taps / taps.sum()).expand(like.shape[1], 1, 1, -1)

    def average(v: Tensor) -> Tensor:
        padded = F.pad(v, (reach,) * 4, mode="circular")
        rows = F.conv2d(padded, taps, groups=len(taps))
        return F.conv2d(rows, taps.mT, groups=len(taps))

    return average
