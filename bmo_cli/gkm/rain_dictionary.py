"""Rain synthesised from a learned convolutional dictionary.

Shape legend: B images, n channels, H x W pixels, J kernels of k x k. C is the dictionary.
"""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
from torch import Tensor, nn

from bmo_cli.config.checks import Count, OpenUnit, OpenZeroTwo, Positive, checked
from bmo_cli.errors import InputError
from bmo_cli.gkm.operator import (
    Bounded,
    BoundOperator,
    NumericalOperator,
    share_of_positive,
)
from bmo_cli.linear.layers import SumOfLayers
from bmo_cli.nets.filter_bank import analyse, synthesise, unit_filters
from bmo_cli.nets.operator_norms import norm_bound
from bmo_cli.solver.functions import LeastSquares
from bmo_cli.solver.metric import BlockDiagonal, ScaledIdentity
from bmo_cli.solver.problem import Problem
from bmo_cli.solver.state import State


@checked
class RainDictionary(NumericalOperator):
    """Proximal gradient for y = b + C m, where kernels and maps make the layer of rain.

        f(b, m) = 1/2 |b + C m - y|^2,     C m = sum_j c_j * m_j / sqrt(n) in each of n channels

        b+ = R_b( b - tau_b (b + C m - y) )
        m+ = R_m( max(m - tau_m (C^T (b + C m - y) + lambda), 0) )

    The state is (b, m), and the estimate is (b, C m), which the task's loss sees. A start (b, r)
    has m = max(C^T r, 0), which is 0 for the task's own. The kernels c_j are learned, one set for
    all images, and divided by a bound of their operator norm, so that |C| <= 1. The maps are
    sparse: m+ is the proximal map of sum_j lambda_j |m_j|_1 with m >= 0. R_b and R_m are the
    networks of the layers; without one on the maps, the threshold alone acts there.

    Metric: G = diag(I/tau_b, I/tau_m) with tau_b = gamma phi and tau_m = gamma (1 - phi). By
    |b + C m|^2 <= |b|^2 / phi + |C|^2 |m|^2 / (1 - phi), the gradient step is averaged in G for
    0 < gamma < 2. Thresholds and networks act on b and on m alone, where G is a multiple of the
    identity. (Convolutional dictionary of rain: Wang, Xie, Zhao & Meng, "A model-driven deep neural
    network for single image rain removal", CVPR 2020. Forward-backward steps in a metric:
    Bauschke & Combettes, Convex Analysis and Monotone Operator Theory, 2017.)

    Args:
        kernels: J.
        size: k, odd. Images have at least k pixels a side.
        gamma: initial step, in (0, 2).
        share: phi, initial share of the background in the step, in (0, 1).
        threshold: initial lambda_j, > 0; in units of the image range.
        learn: whether gamma, phi and lambda are hyper-parameters. The kernels always are.
    """

    condition = "0 < gamma < 2"
    nonexpansive = True
    averaged = True
    uses_g = True
    own_g = True
    keeps_nonexpansive = True
    numerical = ("log_threshold",)

    def __init__(
        self,
        *,
        kernels: Count = 32,
        size: Literal[3, 5, 7, 9, 11, 13, 15] = 9,
        gamma: OpenZeroTwo = 1.5,
        share: OpenUnit = 0.5,
        threshold: Positive = 1e-3,
        learn: bool = True,
    ) -> None:
        super().__init__()
        self.maps: int = kernels
        self.kernels = nn.Parameter(streak_kernels(kernels, size))
        self.gamma = Bounded(gamma, high=2.0, learn=learn)
        self.share = Bounded(share, learn=learn)
        level = torch.full((kernels, 1, 1), math.log(threshold))
        self.log_threshold = nn.Parameter(level, requires_grad=learn)

    def bind(self, problem: Problem) -> BoundOperator:
        y = self._rainy_image(problem)
        channels, (first, second) = y.shape[1], self._steps()
        unit, level = unit_filters(self.kernels, zero_mean=False), self.log_threshold.exp()
        gray = channels**-0.5  # of a map in every channel, so that |C| <= 1 in colour, too

        def rain(m: Tensor) -> Tensor:
            layer: Tensor = gray * synthesise(m, unit)
            return layer.expand(-1, channels, -1, -1)

        def adjoint(r: Tensor) -> Tensor:
            return analyse(gray * r.sum(1, keepdim=True), unit)

        def apply(u: State, k: int) -> State:
            b, m = u
            error = b + rain(m) - y
            b = b - first * error
            m = (m - second * (adjoint(error) + level)).clamp_min(0)
            (layers,) = problem.g.prox((torch.cat([b, m], 1),), first)
            return (layers[:, :channels], layers[:, channels:])

        def lift(u: State) -> State:
            if len(u) == 2:
                return u
            b, r = torch.split(u[0], channels, 1)
            return (b, adjoint(r).clamp_min(0))

        def readout(u: State) -> State:
            return (torch.cat([u[0], rain(u[1])], 1),)

        metric = BlockDiagonal((ScaledIdentity(1 / first), ScaledIdentity(1 / second)))
        return BoundOperator(apply, metric, lift, readout)

    def network_argument(self, u: State, estimate: State) -> Tensor:
        return torch.cat(u, 1)

    def step_share(self, problem: Problem) -> float:
        unit = unit_filters(self.kernels, zero_mean=False)
        first, second = self._steps()
        curvature = max(1.0, norm_bound(unit) ** 2)
        positive = share_of_positive(torch.stack([first, second]))
        return float(self.gamma().item()) * curvature / 2 + positive

    def _steps(self) -> tuple[Tensor, Tensor]:
        """tau_b and tau_m."""
        gamma, share = self.gamma(), self.share()
        return gamma * share, gamma * (1 - share)

    def _rainy_image(self, problem: Problem) -> Tensor:
        """y of a problem y = b + r.

        Raises:
            InputError: the problem has another form, or its images are smaller than a kernel.
        """
        f, name = problem.f, type(self).__name__
        layered = isinstance(f, LeastSquares) and isinstance(f.a, SumOfLayers) and f.a.layers == 2
        if not layered or problem.coupling is not None:
            raise InputError(
                f"{name} is for 1/2 |b + r - y|^2 with two layers; use task=derain task.form=sum"
            )
        y, size = cast(LeastSquares, f).y, self.kernels.shape[-1]
        if min(y.shape[2:]) < size:
            raise InputError(
                f"the kernels of {name} are {size} x {size} (gkm.operator.size), larger than an "
                f"image of {y.shape[2]} x {y.shape[3]} (data.crop, or a tile of bmo restore)"
            )
        return y


def streak_kernels(count: int, size: int) -> Tensor:
    """Lines of rain to start from, (J, 1, k, k): half of them thin, the others twice as wide.

    Their directions are the middles of equal parts of the range of 45 degrees on both sides of the
    vertical.

    Args:
        count: J.
        size: k.
    """
    reach = torch.arange(size, dtype=torch.float64) - size // 2
    down, right = reach[:, None], reach[None, :]
    thin = -(-count // 2)
    kernels = []
    for width, number in ((0.5, thin), (1.0, count - thin)):
        steps = (torch.arange(number, dtype=torch.float64) + 0.5) / max(number, 1) - 0.5
        for angle in math.pi / 2 * steps:
            across = right * angle.cos() - down * angle.sin()
            along = right * angle.sin() + down * angle.cos()
            kernels.append(torch.exp(-((across / width) ** 2 + (2 * along / size) ** 2) / 2))
    lines = torch.stack(kernels)
    unit: Tensor = lines / lines.flatten(1).norm(dim=1)[:, None, None]
    return unit[:, None].float()
