"""Every operator is nonexpansive in its metric up to its condition, and not beyond."""

import itertools

import numpy as np
import pytest
import torch

from bmo_cli.gkm.augmented import ALM, LADMM, PDHG
from bmo_cli.gkm.operator import Bounded
from bmo_cli.gkm.proximal import DouglasRachford, ProximalGradient, Resolvent
from bmo_cli.gkm.scheme import GKM
from bmo_cli.linear.blur import PeriodicBlur, transfer_function
from bmo_cli.linear.matrix import Matrix
from bmo_cli.solver.fixed_point import FixedPointMap
from bmo_cli.solver.functions import L1, AtZero, LeastSquares, Smooth, SquaredNorm, Zero
from bmo_cli.solver.metric import ScaledIdentity
from bmo_cli.solver.nonexpansive import worst_pair
from bmo_cli.solver.problem import Coupling, Problem

UNDERSTATED = 1.3
H = {"l1": L1(0.3), "squares": SquaredNorm(), "exact": AtZero()}
SIZE = (8, 6)


def normal(rng, *shape):
    return torch.tensor(rng.normal(size=shape))


class Understated(Matrix):
    """Declares a |A|^2 that is too small, so that every step is 30 % too long."""

    @property
    def norm_squared(self):
        return torch.linalg.matrix_norm(self.a, 2) ** 2 / UNDERSTATED


CASES = [
    *((operator, "squares", None) for operator in (ProximalGradient, Resolvent, DouglasRachford)),
    *((ALM, f, "exact") for f in ("squares", "zero")),
    *itertools.product((LADMM, PDHG), ("squares", "zero"), H),
]


def mapping_of(operator, f, h, kind=Matrix, seed=1):
    """The operator on a problem with f, a g that it sees and, unless h is None, a relation."""
    rng = np.random.default_rng(seed)
    a, y, c, b = (normal(rng, *s) for s in ((5, 6), (3, 5), (4, 6), (3, 4)))
    smooth = LeastSquares(kind(a), y) if f == "squares" else Zero()
    coupling = None if h is None else Coupling(kind(c), b, H[h])
    g = Zero() if isinstance(operator, Resolvent) else L1(0.1)
    return GKM(operator=operator.double()).bind(Problem(smooth, g, coupling))


def stretch(mapping, turns=40, seeds=(0,), radii=(1e-2, 1.0, 1e2)):
    points = normal(np.random.default_rng(1), 3, 6)
    return max(
        worst_pair(mapping, (points,), turns=turns, radius=radius, seed=seed).ratio
        for radius in radii
        for seed in seeds
    )


def limit_of(kind, **numbers):
    """The operator with its longest step."""
    if issubclass(kind, ProximalGradient):
        return kind(gamma=1.99999, **numbers)
    return kind(share=0.99999, **numbers) if kind in (ALM, LADMM, PDHG) else kind(**numbers)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "f", "h"), CASES)
def test_nonexpansive_inside_the_condition(kind, f, h):
    """At the longest step, and wherever an optimiser may drive the hyper-parameters, one by one.

    Beyond exp(+-15) inverses of I + gamma A^T A in float64 are no longer exact to 1e-6.
    """
    assert 0.5 < stretch(mapping_of(limit_of(kind), f, h)) <= 1 + 1e-6
    for name, part in kind().named_children():
        far = 30.0 if isinstance(part, Bounded) else 15.0
        for theta in (-far, 0.0, far):
            operator = kind()
            operator.get_submodule(name).theta.data.fill_(theta)
            ratio = stretch(mapping_of(operator, f, h), turns=20)
            assert ratio <= 1 + 1e-6, (name, theta)
            assert ratio > 0 or name == "weight", (name, theta)  # a large one maps all to 0


BROKEN = [  # where a step that is 30 % too long is felt most depends on beta
    (ProximalGradient, "squares", None, {}, 1.59),
    (ALM, "squares", "exact", {"beta": 0.03}, 1.45),
    (ALM, "zero", "exact", {"beta": 30.0}, 1.5),
    *((LADMM, "squares", h, {"beta": 0.03}, 1.45) for h in H),
    *((LADMM, "zero", h, {"beta": 30.0}, 1.5) for h in H),
    *((PDHG, "squares", h, {"beta": 0.03}, 1.45) for h in H),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "f", "h", "numbers", "least"), BROKEN)
def test_expansive_when_the_condition_is_broken(kind, f, h, numbers, least):
    operator = limit_of(kind, **numbers)
    broken = mapping_of(operator, f, h, Understated)
    assert stretch(broken, turns=100, seeds=(0, 1)) > least


def test_primal_dual_without_f_beyond_its_condition():
    """It converges for tau sigma |A|^2 <= 4/3, so that kinks alone show that 1.3 is too much."""
    broken = mapping_of(PDHG(share=0.99999, beta=3.0), "zero", "l1", Understated, seed=2)
    assert stretch(broken, turns=60, seeds=range(4), radii=(0.3, 1.0)) > 1.001


@pytest.mark.parametrize("f", ["squares", "zero"])
@pytest.mark.parametrize("kind", [ALM, LADMM, PDHG])
def test_metric_is_definite_inside_the_condition_only(kind, f):
    """G without f is indefinite once the step is too long; with f there is room to spare."""
    for share in (0.01, 0.5, 0.99999):
        for beta in (1e-3, 1.0, 1e3):
            for matrix, definite in ((Matrix, True), (Understated, False)):
                mapping = mapping_of(kind(share=share, beta=beta), f, "exact", matrix)
                lowest = torch.linalg.eigvalsh(dense(mapping.metric, kind)).min().item()
                if definite:
                    assert lowest > 0
                elif share > 0.9 and f == "zero":
                    assert lowest < 0


def dense(metric, kind):
    """G as a matrix, from unit vectors."""
    sizes = (6, 4, 4) if kind is LADMM else (6, 4)
    unit = torch.eye(sum(sizes), dtype=torch.float64)
    return torch.cat(metric.apply(torch.split(unit, sizes, 1)), 1).detach()


@pytest.mark.parametrize("kind", [ProximalGradient, Resolvent])
def test_conditions_on_a_blur(rng, kind):
    kernel = torch.tensor(rng.random((1, 3, 3))) * 2
    blur = PeriodicBlur(transfer_function(kernel, SIZE), SIZE)
    f, u = LeastSquares(blur, normal(rng, 1, 1, *SIZE)), normal(rng, 1, 1, *SIZE)

    class WrongConstant(Smooth):  # 30 % too small: the step is 30 % longer than 2 / L_f
        lipschitz = f.lipschitz / UNDERSTATED
        grad = staticmethod(f.grad)

    operator = limit_of(kind).double()
    mapping = GKM(operator=operator).bind(Problem(f))
    assert 0.9 < worst_pair(mapping, (u,), turns=60).ratio <= 1 + 1e-6
    if kind is ProximalGradient:
        wrong = GKM(operator=operator).bind(Problem(WrongConstant()))
        assert worst_pair(wrong, (u,), turns=60).ratio > 1.5


@pytest.mark.slow
def test_ratio_of_a_linear_map_is_its_norm_in_the_metric(rng):
    """Also where the metric is small against the identity."""
    matrix = normal(rng, 6, 6)
    for weight in (1e-6, 1.0, 1e6):
        metric = ScaledIdentity(torch.tensor(weight, dtype=torch.float64))
        found = stretch(FixedPointMap(lambda u, k: (u[0] @ matrix.T,), metric), turns=200)
        assert found == pytest.approx(torch.linalg.matrix_norm(matrix, 2).item(), rel=1e-6)
