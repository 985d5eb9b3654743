"""Small problems in float64, for which brute force can check everything.

| problem | property |
|---|---|
| strongly_convex | one lower solution, reached linearly |
| convex | many lower solutions: I - J is singular |
| nonsymmetric | primal-dual iteration, whose Jacobian is not symmetric; A is learned |
| deconvolution | a network between proximal steps |
| sparse_coding | soft thresholds; the dictionary is learned |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bmo_cli.gkm.augmented import PDHG
from bmo_cli.gkm.operator import NumericalOperator
from bmo_cli.gkm.proximal import ProximalGradient, Resolvent
from bmo_cli.linear.blur import PeriodicBlur, transfer_function
from bmo_cli.linear.layers import SumOfLayers
from bmo_cli.linear.matrix import Matrix
from bmo_cli.nets.dncnn import DnCNN
from bmo_cli.nets.network import Network
from bmo_cli.solver.functions import L1, AtZero, LeastSquares, Proximable, SquaredNorm
from bmo_cli.solver.problem import Coupling, Problem, Sample, SquaredError
from bmo_cli.tasks.toy import Toy

_RADII = (1e-2, 1.0, 1e2)
"""distances of the pairs of an operator, in units of |a| + 1"""


@dataclass(frozen=True)
class SmallProblem:
    """A problem with its learned parts.

    Attributes:
        unknown: module with the learned parts of the problem; it may have none.
        sample: returns the problem at the present parameters of `unknown`.
        operator: D_num for this problem.
        net: D_net, or None.
        iterations: K, enough to converge up to rounding if there is one fixed point.
    """

    unknown: nn.Module
    sample: Callable[[], Sample]
    operator: NumericalOperator
    net: Network | None
    iterations: int


def _normal(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _toy(problem: str, n: int, iterations: int) -> SmallProblem:
    toy = Toy(problem=problem, n=n).double()  # type: ignore[arg-type]
    toy.x.data = 0.3 + 0.1 * _normal(n, seed=1)
    return SmallProblem(toy, toy.sample, ProximalGradient(gamma=1.2), None, iterations)


def strongly_convex() -> SmallProblem:
    """Problem (b) of `tasks.toy`."""
    return _toy("b", 4, 150)


def convex() -> SmallProblem:
    """Problem (a) of `tasks.toy`; docs/method.md, "A problem where aggregation decides"."""
    return _toy("a", 3, 60)


class _Unknown(nn.Module):
    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)


def nonsymmetric() -> SmallProblem:
    """1/2 |A u - y|^2 + 0.1 |u|_1 + 1/2 |b - C u|^2 by PDHG, with C learned."""
    a = torch.linalg.qr(_normal(6, 4, seed=0)).Q + 0.1 * _normal(6, 4, seed=1)
    y, b, x = _normal(2, 6, seed=2), _normal(2, 3, seed=3), _normal(2, 4, seed=4)
    unknown = _Unknown(_normal(3, 4, seed=5) / 2)

    def sample() -> Sample:
        coupling = Coupling(Matrix(unknown.matrix), b, SquaredNorm())
        problem = Problem(LeastSquares(Matrix(a), y), L1(0.1), coupling)
        return Sample(problem, (torch.zeros_like(x),), SquaredError(x))

    return SmallProblem(unknown, sample, PDHG(beta=1.0, share=0.9), None, 150)


def deconvolution() -> SmallProblem:
    """A blurred 8 x 8 image, a proximal step and a small DnCNN."""
    kernel = _normal(1, 3, 3, seed=3).abs() * 0.05
    kernel[:, 1, 1] = 1
    blur = PeriodicBlur(transfer_function(kernel, (8, 8)), (8, 8))
    clean = _normal(1, 1, 8, 8, seed=4)
    y = blur(clean) + 0.1 * _normal(1, 1, 8, 8, seed=5)
    noise = torch.full((1,), 0.1, dtype=torch.float64)

    def sample() -> Sample:
        problem = Problem(LeastSquares(blur, y), noise=noise)
        return Sample(problem, (y,), SquaredError(clean), seed=6)

    net = DnCNN(depth=2, width=2, last_gain=0.3)
    return SmallProblem(nn.Module(), sample, Resolvent(gamma=1.5), net, 120)


def sparse_coding() -> SmallProblem:
    """1/2 |A u - y|^2 + 0.2 |u|_1 by proximal gradient, with A learned."""
    atoms = _normal(8, 9, seed=7)
    truth = _normal(2, 9, seed=8) * (_normal(2, 9, seed=10) > 0.5)
    unknown = _Unknown(atoms / atoms.norm(dim=0))
    y = truth @ unknown.matrix.detach().mT

    def sample() -> Sample:
        problem = Problem(LeastSquares(Matrix(unknown.matrix), y), L1(0.2))
        return Sample(problem, (torch.zeros_like(truth),), SquaredError(truth))

    operator = ProximalGradient(gamma=1.2, learn_weight=True)
    return SmallProblem(unknown, sample, operator, None, 300)


PROBLEMS: dict[str, Callable[[], SmallProblem]] = {
    build.__name__: build
    for build in (strongly_convex, convex, nonsymmetric, deconvolution, sparse_coding)
}


@dataclass(frozen=True)
class NormProblem:
    """A problem of the audit of operators, with the points near which it is measured.

    Attributes:
        problem: a batch of B problems.
        points: states, (B, ...).
        radius: distance of the pairs in units of |a| + 1, (B,).
    """

    problem: Problem
    points: Tensor
    radius: Tensor


def norm_problems(understated: float) -> dict[str, NormProblem]:
    """Problems for the audit of operators, by the kind of function or relation.

    Args:
        understated: factor by which L_f and |A|^2 are stated too small; 1: exact values.
    """

    class Declared(Matrix):
        @property
        def norm_squared(self) -> Tensor:  # type: ignore[override]
            exact: Tensor = torch.linalg.matrix_norm(self.a, 2)
            return exact.square() / understated

    a, y, c, b, u = (
        _normal(*shape, seed=seed)
        for seed, shape in enumerate(((4, 7), (3, 4), (5, 7), (3, 5), (3, 7)))
    )
    each = len(_RADII)
    y, b, u = (rows.repeat(each, 1) for rows in (y, b, u))  # the same points at every radius
    radius = torch.tensor(_RADII, dtype=torch.float64)
    f, g = LeastSquares(Declared(a), y), L1(0.1)
    relations: dict[str, Proximable] = {"l1": L1(0.3), "squares": SquaredNorm(), "exact": AtZero()}
    vectors = {
        "f": Problem(f),
        "f + g": Problem(f, g),
        **{name: Problem(f, g, Coupling(Declared(c), b, h)) for name, h in relations.items()},
    }
    layers = SumOfLayers(2)
    layers.norm_squared /= understated
    rainy, start = (
        _normal(1, n, 12, 12, seed=seed).repeat(each, 1, 1, 1) for n, seed in ((1, 5), (2, 6))
    )
    return {
        **{
            name: NormProblem(problem, u, radius.repeat_interleave(len(u) // each))
            for name, problem in vectors.items()
        },
        "two layers": NormProblem(Problem(LeastSquares(layers, rainy)), start, radius),
    }
