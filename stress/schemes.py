"""Random schemes whose truth is known: half of them converge, half of them must not be certified.

A scheme is a D_num, a D_net, an averaging and a few small problems, in float32. Every good one is
nonexpansive by its construction, on a convex problem that has a solution. Every bad one has one
fault, of a kind that `FAULTS` names; what makes it bad holds by construction as well: a step
beyond its limit, a constraint that no u satisfies, a constant that is stated wrong, a weight that
is not a number.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bmo_cli.gkm.accelerated import FISTA
from bmo_cli.gkm.augmented import ALM, LADMM, PDHG
from bmo_cli.gkm.filters import Wiener
from bmo_cli.gkm.learned import ALISTA, LISTA, LISTACP, LearnedLADMM
from bmo_cli.gkm.operator import BoundOperator, NumericalOperator
from bmo_cli.gkm.proximal import DouglasRachford, ProximalGradient, Resolvent
from bmo_cli.gkm.rain_dictionary import RainDictionary
from bmo_cli.gkm.scheme import GKM
from bmo_cli.linear.blur import PeriodicBlur, transfer_function
from bmo_cli.linear.gradient import PeriodicGradient
from bmo_cli.linear.layers import StreakGradient, SumOfLayers
from bmo_cli.linear.map import LinearMap
from bmo_cli.linear.matrix import Matrix
from bmo_cli.nets.convex_potential import ConvexPotential
from bmo_cli.nets.dncnn import DnCNN
from bmo_cli.nets.gradient_step import GradientStep
from bmo_cli.nets.guided import GuidedPotential
from bmo_cli.nets.ista_net import ISTANet
from bmo_cli.nets.layers import Layers
from bmo_cli.nets.network import Network, NormBound
from bmo_cli.nets.normalized_conv import NormalizedConv
from bmo_cli.nets.ridge import ConvexRidge, WeaklyConvexRidge
from bmo_cli.nets.unet import UNet
from bmo_cli.solver.functions import (
    L1,
    AtZero,
    LeastSquares,
    Proximable,
    Quadratic,
    Smooth,
    SquaredNorm,
    TotalVariation,
    Zero,
)
from bmo_cli.solver.metric import Metric, ScaledIdentity
from bmo_cli.solver.problem import Coupling, Problem
from bmo_cli.solver.state import State
from bmo_cli.tasks.deconvolution import linear_views
from bmo_cli.tasks.derain import SparseRain, smoothed_views

Posed = tuple[Problem, State]


@dataclass(frozen=True)
class Scheme:
    """A scheme with its problems.

    Attributes:
        scheme: as a task would build it.
        problems: with their starts.
        families: names of the operator, the metric and the network, for the count.
        fault: what is wrong with it; empty: nothing is.
        convex: what its task declares.
    """

    scheme: GKM
    problems: tuple[Posed, ...]
    families: tuple[str, str, str]
    fault: str = ""
    convex: bool = True


class Draw:
    """Random numbers of one scheme, from NumPy's generator.

    Args:
        seed: of it.
    """

    def __init__(self, *seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def among(self, *values: Any) -> Any:
        """One of these."""
        return values[int(self.rng.integers(len(values)))]

    def between(self, low: float, high: float, *, log: bool = False) -> float:
        """A number, uniform or uniform in its logarithm."""
        if log:
            return float(np.exp(self.rng.uniform(np.log(low), np.log(high))))
        return float(self.rng.uniform(low, high))

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers in float32."""
        return torch.from_numpy(self.rng.normal(size=shape)).float()

    def uniform(self, *shape: int) -> Tensor:
        """Numbers in [0, 1) in float32."""
        return torch.from_numpy(self.rng.random(shape)).float()

    def seed(self) -> int:
        """For a constructor."""
        return int(self.rng.integers(2**31))

    def size(self) -> tuple[int, int]:
        """(H, W) of small images."""
        return int(self.rng.integers(7, 15)), int(self.rng.integers(7, 15))


# --- problems ------------------------------------------------------------------------------------


def blur(draw: Draw, size: tuple[int, int]) -> PeriodicBlur:
    """A blur of which every frequency survives, so that its least squares have one solution."""
    side = draw.among(3, 5)
    kernel = draw.uniform(1, side, side)
    kernel = kernel / kernel.sum() * draw.between(0.2, 0.45)
    kernel[:, side // 2, side // 2] += 1 - kernel.sum()
    return PeriodicBlur(transfer_function(kernel, size), size)


def deconvolution(draw: Draw, g: Proximable | None = None) -> Posed:
    """1/2 |k * u - y|^2 + g(u)."""
    size = draw.size()
    a, clean = blur(draw, size), draw.uniform(1, 1, *size)
    y = a(clean) + 0.02 * draw.normal(1, 1, *size)
    problem = Problem(LeastSquares(a, y), g or Zero(), guide=lambda: linear_views(y, a))
    return problem, (y.clone(),)


def layers(draw: Draw) -> Posed:
    """1/2 |b + r - y|^2, whose solutions are many."""
    size = draw.size()
    y = draw.uniform(1, 1, *size)
    problem = Problem(LeastSquares(SumOfLayers(2), y), guide=lambda: smoothed_views(y))
    return problem, (torch.cat([y, torch.zeros_like(y)], 1),)


def lasso(draw: Draw) -> Posed:
    """1/2 |A u - y|^2 + kappa |u|_1 for a tall A."""
    n = int(draw.rng.integers(4, 9))
    a = Matrix(draw.normal(2 * n, n))
    y = a(draw.normal(2, n)) + 0.1 * draw.normal(2, 2 * n)
    return Problem(LeastSquares(a, y), L1(draw.between(0.01, 1))), (torch.zeros(2, n),)


def total_variation(draw: Draw) -> Posed:
    """1/2 |k * u - y|^2 + w |grad u|."""
    posed, initial = deconvolution(draw)
    size = initial[0].shape[-2:]
    weight = draw.between(1e-3, 0.05, log=True)
    h = draw.among(TotalVariation(weight), L1(weight))
    gradient = PeriodicGradient((size[0], size[1]))
    zero = torch.zeros(1, 2, *size)
    return replace(posed, coupling=Coupling(gradient, zero, h)), initial


def streaks(draw: Draw) -> Posed:
    """1/2 |b + r - y|^2 + w_b |grad b|_1 + w_s |d r|_1 + w |r|_1, r >= 0."""
    size = draw.size()
    y = draw.uniform(1, 1, *size)
    weights = torch.tensor([draw.between(0.01, 0.1)] * 2 + [draw.between(0.01, 0.1)])
    relation = Coupling(StreakGradient(size), torch.zeros(1, 3, *size), L1(weights[:, None, None]))
    f, g = LeastSquares(SumOfLayers(2), y), SparseRain(draw.between(0.01, 0.1))
    return Problem(f, g, relation), (torch.cat([y, torch.zeros_like(y)], 1),)


def split(draw: Draw) -> Posed:
    """kappa |u|_1 + h(z) with A u + z = b, h a square or |z|_1, and a strongly convex f."""
    n = int(draw.rng.integers(4, 9))
    f = Quadratic(torch.eye(n) * draw.between(0.3, 1), draw.normal(2, n))
    a = Matrix(draw.normal(n + 2, n) / math.sqrt(n))
    h = draw.among(SquaredNorm(), L1(draw.between(0.05, 0.5)))
    coupling = Coupling(a, draw.normal(2, n + 2), h)
    return Problem(f, L1(draw.between(0.01, 0.3)), coupling), (torch.zeros(2, n),)


def exact(draw: Draw) -> Posed:
    """A strongly convex f subject to A u = b that some u satisfies, for a wide A."""
    n = int(draw.rng.integers(5, 9))
    f = Quadratic(torch.eye(n) * draw.between(0.3, 1), draw.normal(2, n))
    a = Matrix(torch.linalg.qr(draw.normal(n, n - 3)).Q.mT * draw.between(0.7, 1.5))
    coupling = Coupling(a, a(draw.normal(2, n)), AtZero())
    return Problem(f, L1(draw.between(0.01, 0.2)), coupling), (torch.zeros(2, n),)


COUPLED: Mapping[type[NumericalOperator], tuple[Callable[[Draw], Posed], ...]] = {
    ALM: (exact,),
    LADMM: (total_variation, streaks, split, exact),
    PDHG: (total_variation, streaks, split, exact),
}


# --- networks ------------------------------------------------------------------------------------


def shaken(draw: Draw, net: Network, amount: float = 0.3) -> Network:
    """As training may have changed the weights."""
    with torch.no_grad():
        for p in net.parameters():
            p += amount * p.abs().mean().clamp_min(0.05) * draw.normal(*p.shape)
    return net


def lip(draw: Draw) -> Network:
    """Gradient steps on a learned convex regulariser."""
    return ConvexPotential(
        depth=draw.among(1, 1, 2),
        width=draw.among(2, 5, 8),
        size=draw.among(3, 5),
        clips=draw.among(1, 2),
        threshold=draw.between(0.002, 0.05, log=True),
        initial=draw.among("dct", "random"),
        seed=draw.seed(),
    )


def convex_ridge(draw: Draw, kind: type[Network] = ConvexRidge) -> Network:
    """A gradient step on a ridge regulariser with a learned spline."""
    return kind(
        width=draw.among(2, 5, 8),
        size=draw.among(3, 5),
        threshold=draw.between(0.002, 0.05, log=True),
        knots=draw.among(1, 4, 10),
        reach=draw.between(1, 6),
        seed=draw.seed(),
    )


def guided(draw: Draw) -> Network:
    """The same with levels and directions chosen from the observation."""
    return GuidedPotential(
        size=draw.among(3, 5), steer=draw.among(False, True), widths=(4, 4, 4), seed=draw.seed()
    )


def norm_conv(draw: Draw) -> Network:
    """Convolutions divided by their norm."""
    return NormalizedConv(
        depth=draw.among(2, 3), width=draw.among(2, 4), theta=draw.between(0.1, 0.8),
        seed=draw.seed(),
    )  # fmt: skip


def two_layers(draw: Draw) -> Network:
    """A regulariser for each layer: one step each, so that solutions exist."""
    return Layers(background=one_step(draw), rain=one_step(draw))


def one_step(draw: Draw) -> Network:
    """A gradient step on a learned convex regulariser."""
    return ConvexPotential(width=8, size=3, threshold=draw.between(0.01, 0.05), seed=draw.seed())


NONEXPANSIVE = (lip, convex_ridge, guided, norm_conv, two_layers)


# --- good ----------------------------------------------------------------------------------------


def numerical(draw: Draw, kind: type[NumericalOperator]) -> NumericalOperator:
    """An operator with step sizes anywhere inside of its condition."""
    if kind is ProximalGradient:
        return kind(gamma=draw.among(1.0, 1.9, 1.99, draw.between(0.3, 1.99)))
    if kind in COUPLED:
        share = draw.among(0.95, 0.99, 0.999, draw.between(0.4, 0.99))
        return kind(beta=draw.between(0.2, 5, log=True), share=share)
    return kind(gamma=draw.between(0.5, 50, log=True))


def dictionary(draw: Draw) -> RainDictionary:
    """One kernel of which every frequency survives, so that it converges in finite time."""
    operator = RainDictionary(
        kernels=1,
        size=draw.among(3, 5, 7),
        gamma=draw.among(1.0, 1.9, 1.99, draw.between(0.3, 1.99)),
        share=draw.between(0.2, 0.8),
        threshold=draw.between(0.02, 0.1, log=True),
    )
    with torch.no_grad():
        kernel = operator.kernels
        kernel *= draw.between(0.2, 0.45) / kernel.sum()
        kernel[..., kernel.shape[-1] // 2, kernel.shape[-1] // 2] += 1 - kernel.sum()
    return operator


def good(draw: Draw) -> Scheme:
    """A scheme that converges from every start."""
    kind = draw.among(ProximalGradient, Resolvent, DouglasRachford, ALM, LADMM, PDHG, Resolvent)
    operator, alpha = numerical(draw, kind), draw.among(0.9, 0.5, draw.between(0.3, 0.95), None)
    net: Network | None = None
    if kind in COUPLED:
        pose = draw.among(*COUPLED[kind])
    elif kind is DouglasRachford or draw.rng.random() < 0.25:
        pose = draw.among(lasso, deconvolution)
        if pose is deconvolution and kind is not Resolvent:
            weight = draw.between(0.001, 0.1)
            pose = lambda d: deconvolution(d, L1(weight))  # noqa: E731
        elif kind is Resolvent:
            pose = deconvolution
    else:
        make = draw.among(*NONEXPANSIVE)
        net = shaken(draw, make(draw), draw.between(0, 0.5))
        pose = layers if make is two_layers else deconvolution
    if draw.rng.random() < 0.05:
        operator, net, alpha, pose = (
            Wiener(balance=draw.between(0.01, 1)),
            None,
            None,
            deconvolution,
        )
    elif draw.rng.random() < 0.05:
        operator, pose = dictionary(draw), layers
        net = shaken(draw, one_step(draw), draw.between(0, 0.5))
    stacked = 2 if pose in (layers, streaks) else 1
    scheme = GKM(operator=operator, net=net, alpha=alpha, layers=stacked if net else 1)
    return made(draw, scheme, pose)


def made(
    draw: Draw, scheme: GKM, pose: Callable[[Draw], Posed], fault: str = "", *, convex: bool = True
) -> Scheme:
    """The scheme with two problems of a kind."""
    problems = (pose(draw), pose(draw))
    with torch.no_grad():
        try:
            metric = type(scheme.bind(problems[0][0]).metric).__name__
        except Exception:
            metric = "-"
    net = "-" if scheme.net is None else type(scheme.net).__name__
    families = (type(scheme.operator).__name__, metric, net)
    return Scheme(scheme, problems, families, fault, convex)


# --- bad -----------------------------------------------------------------------------------------


class LongStep(NumericalOperator):
    """A gradient step of `length` / L_f, declared nonexpansive whatever it is."""

    nonexpansive = averaged = keeps_nonexpansive = True

    def __init__(self, length: float, steps: int = 1) -> None:
        super().__init__()
        self.length, self.count = length, steps

    def bind(self, problem: Problem) -> BoundOperator:
        gamma = self.length / float(problem.f.lipschitz)

        def apply(u: State, k: int) -> State:
            for _ in range(self.count):
                u = tuple(a - gamma * b for a, b in zip(u, problem.f.grad(u), strict=True))
            return u

        return BoundOperator(apply, ScaledIdentity(torch.tensor(1 / gamma)))


class Undeclared(LongStep):
    """The same, which declares nothing."""

    nonexpansive = averaged = keeps_nonexpansive = False


class BeyondRange(NumericalOperator):
    """Shrinks near 0 and stretches beyond a radius, declared nonexpansive."""

    nonexpansive = averaged = keeps_nonexpansive = True

    def __init__(self, radius: float, stretch: float) -> None:
        super().__init__()
        self.radius, self.stretch = radius, stretch

    def bind(self, problem: Problem) -> BoundOperator:
        def apply(u: State, k: int) -> State:
            r = self.radius
            return tuple(a / 2 + (self.stretch - 0.5) * (a - a.clamp(-r, r)) for a in u)

        return BoundOperator(apply, ScaledIdentity(torch.ones(())))


class WrongMetric(Metric):
    """A multiple of the identity that states a smallest eigenvalue of its own."""

    is_diagonal = True

    def __init__(self, weight: float, stated: float) -> None:
        self.weight, self.stated = weight, stated

    def apply(self, u: State) -> State:
        return tuple(self.weight * a for a in u)

    def solve(self, u: State) -> State:
        return tuple(a / self.weight for a in u)

    @property
    def smallest_eigenvalue(self) -> Tensor:
        return torch.tensor(self.stated)


class InWrongMetric(ProximalGradient):
    """A proximal gradient step in a metric that is not what it states."""

    def __init__(self, stated: float) -> None:
        super().__init__()
        self.stated = stated

    def bind(self, problem: Problem) -> BoundOperator:
        bound = super().bind(problem)
        weight = float(bound.metric.smallest_eigenvalue.detach())
        return BoundOperator(bound.apply, WrongMetric(weight, self.stated * weight))


class Scaled(ConvexPotential):
    """A nonexpansive network times a factor, which its bound leaves out."""

    def __init__(self, factor: float, **settings: Any) -> None:
        super().__init__(**settings)
        self.factor = factor

    def bind(self, guide: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        apply = super().bind(guide)
        return lambda x: self.factor * apply(x)


class Claiming(Network):
    """Any convolution, with a bound that it only claims."""

    nonexpansive = averaged = True

    def __init__(self, weight: Tensor, value: float) -> None:
        super().__init__()
        self.channels, self.value = 1, value
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        padded = nn.functional.pad(x, (1, 1, 1, 1), mode="circular")
        return nn.functional.conv2d(padded, self.weight)

    def bound(self) -> NormBound:
        return NormBound(self.value, ())


class WrongMap(LinearMap):
    """A blur with faults in what it states: |A|^2, the adjoint, the inverse."""

    def __init__(self, a: PeriodicBlur, norm: float, adjoint: float, inverse: float) -> None:
        self._a, self._adjoint, self._inverse = a, adjoint, inverse
        self.norm_squared = norm * a.computed_norm_squared()

    def __call__(self, u: Tensor) -> Tensor:
        return self._a(u)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._a.adjoint(y) + self._adjoint * (y.roll(1, -1) - y)

    def shifted_inverse(self, gamma: Tensor) -> Callable[[Tensor], Tensor]:
        solve = self._a.shifted_inverse(gamma)
        return lambda v: (1 + self._inverse) * solve(v)


class Wave(Smooth):
    """sum of 1 - cos(c u) over c^2, which is not convex; its gradient has constant 1."""

    lipschitz = 1.0

    def __init__(self, frequency: float) -> None:
        self.frequency = frequency

    def grad(self, u: State) -> State:
        return tuple(torch.sin(self.frequency * a) / self.frequency for a in u)


class NoProx(Proximable):
    """A map that is no proximal map: it stretches, or turns."""

    def __init__(self, factor: float, shift: int) -> None:
        self.factor, self.shift = factor, shift

    def prox(self, u: State, gamma: Tensor) -> State:
        return tuple(self.factor * a.roll(self.shift, -1) for a in u)


def expansive_by_nature(draw: Draw) -> Scheme:
    """Learned operators and unconstrained networks."""
    if draw.rng.random() < 0.4:
        problem, initial = lasso(draw)
        assert isinstance(problem.f, LeastSquares) and isinstance(problem.f.a, Matrix)
        m, n = problem.f.a.a.shape
        operator = draw.among(
            lambda: LISTA(rows=m, columns=n), lambda: LISTACP(rows=m, columns=n), lambda: FISTA()
        )()
        for p in operator.parameters():
            if p.dim() == 2:
                p.data += 0.3 * draw.normal(*p.shape)
        scheme = GKM(operator=operator, alpha=draw.among(None, 0.9))
        found = made(draw, scheme, lasso, "expansive")
        return replace(found, problems=((problem, initial),))
    make = draw.among(
        lambda: DnCNN(depth=3, width=4, last_gain=draw.between(0.3, 2), seed=draw.seed()),
        lambda: ISTANet(width=4, last_gain=draw.between(0.3, 1), seed=draw.seed()),
        lambda: GradientStep(depth=2, width=4, last_gain=draw.between(0.5, 2), seed=draw.seed()),
        lambda: UNet(channels=1, widths=(4, 4, 4), last_gain=1.0, seed=draw.seed()),
        lambda: shaken(draw, convex_ridge(draw, WeaklyConvexRidge), draw.between(0, 0.5)),
    )
    operator = draw.among(Resolvent(gamma=2.0), ProximalGradient(gamma=0.5))
    return made(draw, GKM(operator=operator, net=make()), deconvolution, "expansive")


def other_family(draw: Draw) -> Scheme:
    """Learned matrices of relations, several sets of weights, networks where they expand."""
    choice = draw.among("dladmm", "alista", "stages", "network in ladmm", "network in dr")
    if choice == "dladmm":
        problem, _ = exact(draw)
        assert problem.coupling is not None and isinstance(problem.coupling.a, Matrix)
        m, n = problem.coupling.a.a.shape
        operator: NumericalOperator = LearnedLADMM(rows=m, columns=n)
        operator.get_parameter("correction").data += 0.5 * draw.normal(m, n)

        def pose(d: Draw) -> Posed:
            return replace(problem, f=Zero()), (torch.zeros(2, n),)

        return made(draw, GKM(operator=operator, alpha=0.9), pose, "expansive")
    if choice == "alista":
        a = Matrix(draw.normal(4, 9))

        def wide(d: Draw) -> Posed:
            return Problem(LeastSquares(a, d.normal(1, 4)), L1(0.1)), (torch.zeros(1, 9),)

        return made(draw, GKM(operator=ALISTA(gamma=draw.between(2, 5))), wide, "expansive")
    if choice == "stages":
        scheme = GKM(operator=Resolvent(gamma=2.0), net=lip(draw), stages=3)
        for stage in scheme.stages:
            shaken(draw, stage.net, 0.5)
        return made(draw, scheme, deconvolution, "expansive")
    if choice == "network in ladmm":
        scheme = GKM(operator=LADMM(beta=0.5), net=lip(draw))
        return made(draw, scheme, total_variation, "expansive")
    scheme = GKM(operator=DouglasRachford(gamma=2.0), net=lip(draw))
    return made(draw, scheme, deconvolution, "expansive")


def undeclared(draw: Draw) -> Scheme:
    """An operator from outside that declares nothing, expansive or not."""
    net = draw.among(None, lip(draw))
    operator = Undeclared(draw.between(0.5, 2.5), steps=draw.among(1, 2))
    return made(draw, GKM(operator=operator, net=net), deconvolution, "undeclared")


def declared_and_expansive(draw: Draw) -> Scheme:
    """An operator or a network from outside that declares what it does not keep."""
    choice = draw.among("step", "range", "scaled", "claiming")
    if choice == "step":
        length = draw.among(2.005, 2.01, 2.1, draw.between(2.002, 3))
        net = draw.among(None, lip(draw))
        scheme = GKM(operator=LongStep(length), net=net)
    elif choice == "range":
        scheme = GKM(operator=BeyondRange(draw.between(2, 50, log=True), draw.between(1.1, 3)))
    elif choice == "scaled":
        factor = draw.among(1.001, 1.01, draw.between(1.001, 1.5))
        net = Scaled(factor, width=4, size=3, seed=draw.seed())
        scheme = GKM(operator=draw.among(Resolvent(gamma=2.0), ProximalGradient()), net=net)
    else:
        weight = draw.normal(1, 1, 3, 3)
        weight *= draw.between(1.05, 3) / torch.fft.fft2(weight, s=(64, 64)).abs().max()
        net = Claiming(weight, draw.between(0.5, 1))
        scheme = GKM(operator=Resolvent(gamma=1.0), net=net)
    return made(draw, scheme, deconvolution, "declared, expansive")


def infeasible(draw: Draw) -> Scheme:
    """No u satisfies the constraint, or the objective falls for ever."""
    if draw.rng.random() < 0.35:
        n = int(draw.rng.integers(3, 8))
        basis = torch.linalg.qr(draw.normal(n, n)).Q
        spectrum = torch.from_numpy(draw.rng.uniform(0.2, 1, n)).float()
        spectrum[0] = 0
        h = basis @ torch.diag(spectrum) @ basis.mT
        h = (h + h.mT) / 2
        slope = draw.between(1e-4, 1, log=True)

        def pose(d: Draw) -> Posed:
            c = d.normal(1, n) @ h + slope * basis[:, 0]
            return Problem(Quadratic(h, c)), (draw.among(0.0, 1.0, 10.0) * d.normal(1, n),)

        kind = draw.among(ProximalGradient, Resolvent)
        scheme = GKM(operator=numerical(draw, kind), alpha=draw.between(0.4, 0.95))
        return made(draw, scheme, pose, "infeasible")
    rows, n = int(draw.rng.integers(7, 12)), int(draw.rng.integers(3, 6))
    a = Matrix(draw.normal(rows, n) / math.sqrt(n))
    away = torch.linalg.qr(a.a, mode="complete").Q[:, n:]
    gap = draw.between(1e-4, 1, log=True)

    def inconsistent(d: Draw) -> Posed:
        b = a(d.normal(1, n)) + gap * (d.normal(1, rows - n) @ away.mT)
        return Problem(g=L1(0.1), coupling=Coupling(a, b, AtZero())), (torch.zeros(1, n),)

    kind = draw.among(ALM, LADMM, PDHG)
    scheme = GKM(operator=numerical(draw, kind), alpha=draw.between(0.4, 0.95))
    return made(draw, scheme, inconsistent, "infeasible")


def misdeclared(draw: Draw) -> Scheme:
    """Constants, adjoints, proximal maps and metrics that are not what is stated of them."""
    choice = draw.among(
        "map", "stated norm", "stated L_f", "wave", "concave", "weight", "prox", "metric"
    )
    convex_operator = draw.among(ProximalGradient(gamma=1.5), ProximalGradient(gamma=1.9))
    if choice == "map":
        fault = draw.among(
            (draw.between(0.2, 0.95), 0.0, 0.0), (1.0, draw.between(0.05, 1), 0.0),
            (1.0, 0.0, draw.between(0.02, 0.5)),
        )  # fmt: skip

        def pose(d: Draw) -> Posed:
            problem, initial = deconvolution(d)
            assert isinstance(problem.f, LeastSquares) and isinstance(problem.f.a, PeriodicBlur)
            return Problem(LeastSquares(WrongMap(problem.f.a, *fault), problem.f.y)), initial

        operator: NumericalOperator = Resolvent(gamma=2.0) if fault[2] else convex_operator
        return made(draw, GKM(operator=operator), pose, "mis-declared")
    if choice in ("stated norm", "stated L_f"):
        share = draw.between(0.2, 0.75)

        def stated(d: Draw) -> Posed:
            problem, initial = deconvolution(d)
            assert isinstance(problem.f, LeastSquares) and isinstance(problem.f.a, PeriodicBlur)
            if choice == "stated norm":
                problem.f.a.norm_squared = share * problem.f.a.norm_squared
                return Problem(LeastSquares(problem.f.a, problem.f.y)), initial
            problem.f.lipschitz = share * float(problem.f.lipschitz)
            return problem, initial

        net = draw.among(None, lip(draw))
        return made(draw, GKM(operator=convex_operator, net=net), stated, "mis-declared")
    if choice == "wave":
        frequency = draw.between(0.5, 3)

        def wave(d: Draw) -> Posed:
            return Problem(Wave(frequency)), (d.normal(1, 6),)

        return made(draw, GKM(operator=ProximalGradient(gamma=1.0)), wave, "mis-declared")
    if choice == "concave":
        n, least = int(draw.rng.integers(2, 7)), draw.between(1e-3, 1, log=True)
        basis = torch.linalg.qr(draw.normal(n, n)).Q
        spectrum = torch.from_numpy(draw.rng.uniform(0.2, 1, n)).float()
        spectrum[0] = -least
        h = basis @ torch.diag(spectrum) @ basis.mT
        h = (h + h.mT) / 2

        def concave(d: Draw) -> Posed:
            return Problem(Quadratic(h, d.normal(1, n))), (d.normal(1, n),)

        return made(draw, GKM(operator=ProximalGradient()), concave, "mis-declared")
    if choice == "weight":
        weight = -draw.between(0.01, 1)
        return made(
            draw, GKM(operator=ProximalGradient()),
            lambda d: deconvolution(d, L1(weight)), "mis-declared",
        )  # fmt: skip
    if choice == "prox":
        g = NoProx(draw.among(1.0, draw.between(1.02, 1.5)), draw.among(1, 2))
        return made(
            draw, GKM(operator=ProximalGradient()), lambda d: deconvolution(d, g), "mis-declared"
        )
    scheme = GKM(operator=InWrongMetric(draw.between(1.05, 3)))
    return made(draw, scheme, deconvolution, "mis-declared")


def broken_weights(draw: Draw) -> Scheme:
    """A good scheme of which one weight is no number."""
    while True:
        found = good(draw)
        parameters = list(found.scheme.named_parameters())
        if parameters:
            break
    scheme = copy.deepcopy(found.scheme)
    name, _ = parameters[int(draw.rng.integers(len(parameters)))]
    entries = scheme.get_parameter(name).data
    number = int(draw.rng.integers(entries.numel()))
    where = np.unravel_index(number, tuple(entries.shape))  # some weights are not contiguous
    entries[where] = draw.among(math.nan, math.inf, -math.inf)
    return replace(found, scheme=scheme, fault="broken weights")


FAULTS = (
    *(expansive_by_nature, other_family, undeclared, declared_and_expansive),
    *(infeasible, misdeclared, broken_weights),
)


def scheme(seed: int, number: int) -> Scheme:
    """Scheme `number`: even ones are good, odd ones are bad, the faults in turn."""
    draw = Draw(seed, number)
    if number % 2 == 0:
        return good(draw)
    return FAULTS[number // 2 % len(FAULTS)](draw)
