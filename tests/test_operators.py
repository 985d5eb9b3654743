"""Functions and numerical operators against closed forms; conditions at and beyond their limit."""

import itertools

import numpy as np
import pytest
import torch
from scipy import optimize

from bmo_cli.errors import InputError
from bmo_cli.gkm.augmented import ALM, LADMM, PDHG
from bmo_cli.gkm.operator import Bounded
from bmo_cli.gkm.proximal import DouglasRachford, ProximalGradient, Resolvent
from bmo_cli.gkm.scheme import GKM
from bmo_cli.linear.blur import PeriodicBlur, transfer_function
from bmo_cli.linear.matrix import Matrix
from bmo_cli.solver.functions import (
    L1,
    AtZero,
    LeastSquares,
    Quadratic,
    Smooth,
    SquaredNorm,
    Zero,
)
from bmo_cli.solver.nonexpansive import largest_ratio
from bmo_cli.solver.problem import Coupling, Problem

SIZE = (8, 6)


def normal(rng, *shape):
    return torch.tensor(rng.normal(size=shape))


def scalar(number):
    return torch.tensor(number, dtype=torch.float64)


def blurred(rng):
    kernel = torch.tensor(rng.random((1, 3, 3))) * 2  # |A| is not 1
    blur = PeriodicBlur(transfer_function(kernel, SIZE), SIZE)
    u = torch.tensor(rng.normal(size=(1, 1, *SIZE)))
    return LeastSquares(blur, torch.tensor(rng.random((1, 1, *SIZE)))), u


def dictionary(rng):
    return LeastSquares(Matrix(normal(rng, 4, 6)), normal(rng, 2, 4)), normal(rng, 2, 6)


def quadratic(rng):
    root = normal(rng, 6, 4)
    return Quadratic(root @ root.T, normal(rng, 2, 6)), normal(rng, 2, 6)


def value(f, u):
    if isinstance(f, Quadratic):
        return (0.5 * (u @ f.h) * u - f.c * u).sum()
    return 0.5 * (f.a(u) - f.y).square().sum()


SMOOTH = pytest.mark.parametrize("make", [blurred, dictionary, quadratic])


# --- functions ------------------------------------------------------------------------------------


@SMOOTH
def test_gradient_is_that_of_the_value(rng, make):
    f, u = make(rng)
    (expected,) = torch.autograd.grad(value(f, u.requires_grad_()), u)
    torch.testing.assert_close(f.grad((u,))[0], expected)


@SMOOTH
def test_lipschitz_constant_is_the_largest_curvature(rng, make):
    f, u = make(rng)
    hessian = torch.autograd.functional.hessian(lambda v: value(f, v), u)
    top = torch.linalg.eigvalsh(hessian.reshape(u.numel(), u.numel()))[-1]
    assert float(f.lipschitz) == pytest.approx(top.item(), rel=1e-9)


@SMOOTH
def test_resolvent_minimises_its_objective(rng, make):
    f, v = make(rng)
    operator = Resolvent(gamma=3.0).double()
    gamma = operator.gamma().item() / float(f.lipschitz)
    u = operator.bind(Problem(f)).apply((v,), 0)[0].detach().requires_grad_()
    objective = value(f, u) + (u - v).square().sum() / (2 * gamma)
    (gradient,) = torch.autograd.grad(objective, u)
    assert gradient.abs().max().item() < 1e-12


def test_soft_threshold_minimises_its_objective(rng):
    """argmin_v kappa |v| + (v - u)^2 / (2 gamma), entry by entry by bracketing."""
    u, kappa, gamma = normal(rng, 3, 5), 0.7, 0.9
    (found,) = L1(kappa).prox((u,), scalar(gamma))
    for x, v in zip(u.flatten().tolist(), found.flatten().tolist(), strict=True):
        best = optimize.minimize_scalar(
            lambda t, x=x: kappa * abs(t) + (t - x) ** 2 / (2 * gamma),
            bounds=(-5, 5),
            method="bounded",
            options={"xatol": 1e-10},
        )
        assert v == pytest.approx(best.x, abs=1e-6)
    assert 0 < (found == 0).sum() < found.numel()


def test_soft_threshold_satisfies_its_optimality_condition(rng):
    u, kappa, gamma = normal(rng, 40, 5), 0.7, 0.9
    (v,) = L1(kappa).prox((u,), scalar(gamma))
    slope = (u - v) / (gamma * kappa)  # a subgradient of |v|_1
    assert slope.abs().max() <= 1 + 1e-12
    torch.testing.assert_close(slope[v != 0], v[v != 0].sign())


def test_other_proximal_maps(rng):
    u, gamma = (normal(rng, 2, 5), normal(rng, 2, 3)), scalar(0.4)
    for a, v in zip(u, SquaredNorm().prox(u, gamma), strict=True):
        torch.testing.assert_close(v + (v - a) / gamma, torch.zeros_like(v))  # 0 = grad
    assert all((v == 0).all() for v in AtZero().prox(u, gamma))
    assert Zero().prox(u, gamma) == Zero().resolvent(gamma)(u) == u
    assert all((v == 0).all() for v in Zero().grad(u))


def test_function_without_resolvent_says_what_to_use():
    class Bare(Smooth):
        lipschitz = 1.0

        def grad(self, u):
            return u

    with pytest.raises(InputError, match="use gkm=pg"):
        Resolvent().bind(Problem(Bare()))


# --- operators ------------------------------------------------------------------------------------


def test_proximal_gradient_is_a_gradient_step(rng):
    f, u = blurred(rng)
    bound = ProximalGradient(gamma=1.5).double().bind(Problem(f))
    gamma = 1.5 / f.lipschitz
    expected = u - gamma * f.grad((u,))[0]
    torch.testing.assert_close(bound.apply((u,), 0)[0], expected, atol=1e-6, rtol=0)
    assert bound.metric.smallest_eigenvalue.item() == pytest.approx(1 / gamma, rel=1e-6)


def test_a_fixed_point_of_douglas_rachford_reads_out_a_minimiser(rng):
    f, s = dictionary(rng)
    mapping = GKM(operator=DouglasRachford(), alpha=None).double().bind(Problem(f, L1(0.3)))
    with torch.no_grad():
        for _ in range(2000):
            s = mapping.D((s,), 0)[0]
        (u,) = mapping.estimate((s,))
    slope = -f.grad((u,))[0] / 0.3  # a subgradient of |u|_1
    assert slope.abs().max() <= 1 + 1e-8
    kept = u.abs() > 1e-8
    assert 0 < kept.sum() < u.numel()
    torch.testing.assert_close(slope[kept], u[kept].sign())


def test_learned_steps_stay_inside_whatever_the_optimiser_does():
    operator = ProximalGradient(gamma=1.0)
    for theta in (-1e4, -30.0, 0.0, 8.0, 30.0, 1e4):
        operator.gamma.theta.data.fill_(theta)
        assert 0 < operator.gamma().item() < 2
    with pytest.raises(InputError, match=r"gamma must lie in \(0, 2\), got 2.0"):
        ProximalGradient(gamma=2.0)
    with pytest.raises(InputError, match="gamma must be finite and > 0, got 0"):
        Resolvent(gamma=0)
    with pytest.raises(InputError, match=r"share must lie in \(0, 1\), got 1.0"):
        LADMM(share=1.0)


# --- conditions -----------------------------------------------------------------------------------

UNDERSTATED = 1.3


class Understated(Matrix):
    """Declares a |A|^2 that is too small, so that every step is 30 % too long."""

    @property
    def norm_squared(self):
        return torch.linalg.matrix_norm(self.a, 2) ** 2 / UNDERSTATED


H = {"l1": L1(0.3), "squares": SquaredNorm(), "exact": AtZero()}
CASES = [
    *((operator, "squares", None) for operator in (ProximalGradient, Resolvent, DouglasRachford)),
    *((ALM, f, "exact") for f in ("squares", "zero")),
    *itertools.product((LADMM, PDHG), ("squares", "zero"), H),
]


def mapping_of(operator, f, h, kind=Matrix, seed=1):
    """The operator on a problem with f and, unless h is None, a relation."""
    rng = np.random.default_rng(seed)
    a, y, c, b = (normal(rng, *s) for s in ((5, 6), (3, 5), (4, 6), (3, 4)))
    smooth = LeastSquares(kind(a), y) if f == "squares" else Zero()
    coupling = None if h is None else Coupling(kind(c), b, H[h])
    return GKM(operator=operator.double()).bind(Problem(smooth, L1(0.1), coupling))


def stretch(mapping, turns=40, seeds=(0,), radii=(1e-2, 1.0, 1e2)):
    points = normal(np.random.default_rng(1), 3, 6)
    return max(
        largest_ratio(mapping, (points,), turns=turns, radius=radius, seed=seed)
        for radius in radii
        for seed in seeds
    )


def limit_of(kind, **numbers):
    """The operator with its longest step."""
    if issubclass(kind, ProximalGradient):
        return kind(gamma=1.99999, **numbers)
    return kind(share=0.99999, **numbers) if kind in (ALM, LADMM, PDHG) else kind(**numbers)


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
    f, u = blurred(rng)

    class WrongConstant(Smooth):  # 30 % too small: the step is 30 % longer than 2 / L_f
        lipschitz = f.lipschitz / UNDERSTATED
        grad = staticmethod(f.grad)

    operator = limit_of(kind).double()
    mapping = GKM(operator=operator).bind(Problem(f))
    assert 0.9 < largest_ratio(mapping, (u,), turns=60) <= 1 + 1e-6
    if kind is ProximalGradient:
        wrong = GKM(operator=operator).bind(Problem(WrongConstant()))
        assert largest_ratio(wrong, (u,), turns=60) > 1.5


def test_ratio_of_a_linear_map_is_its_norm_in_the_metric(rng):
    """Also where the metric is small against the identity."""
    matrix = normal(rng, 6, 6)
    for weight in (1e-6, 1.0, 1e6):
        mapping = mapping_of(ProximalGradient(), "squares", None)
        mapping = type(mapping)(
            lambda u, k: (u[0] @ matrix.T,), type(mapping.metric)(scalar(weight))
        )
        found = stretch(mapping, turns=200)
        assert found == pytest.approx(torch.linalg.matrix_norm(matrix, 2).item(), rel=1e-6)
