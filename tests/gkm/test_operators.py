"""Functions and numerical operators against closed forms."""

import pytest
import torch
from scipy import optimize

from bmo_cli.errors import InputError
from bmo_cli.gkm.augmented import ALM, LADMM, PDHG
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


def test_resolvent_and_douglas_rachford_declare_their_metrics(rng):
    f, _ = dictionary(rng)
    resolvent, splitting = Resolvent(gamma=3.0).double(), DouglasRachford(gamma=3.0).double()
    lowest = resolvent.bind(Problem(f)).metric.smallest_eigenvalue.item()
    assert lowest == pytest.approx(f.lipschitz.item() / 3, rel=1e-6)
    assert splitting.bind(Problem(f)).metric.smallest_eigenvalue.item() == 1


def soft(v, t):
    return v.sign() * (v.abs() - t).clamp_min(0)


H = {"l1": L1(0.3), "squares": SquaredNorm(), "exact": AtZero()}
NUMBERS = {"beta": 0.7, "share": 0.8, "weight": 1.4}


def relation(rng, h):
    """A problem with f, g = 0.2 |u|_1 and a relation; its matrices; beta and tau of `NUMBERS`."""
    a, y, c, b = (normal(rng, *s) for s in ((5, 6), (3, 5), (4, 6), (3, 4)))
    problem = Problem(LeastSquares(Matrix(a), y), L1(0.2), Coupling(Matrix(c), b, h))
    norms = [torch.linalg.matrix_norm(m, 2).item() ** 2 for m in (a, c)]
    tau = NUMBERS["share"] / (NUMBERS["beta"] * norms[1] + norms[0] / 2)
    return problem, a, y, c, b, NUMBERS["beta"], tau


def close(found, expected):  # what is learned is kept as a logarithm in float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_alm_is_the_linearised_augmented_lagrangian(rng):
    problem, a, y, c, b, beta, tau = relation(rng, AtZero())
    u, lam = normal(rng, 3, 6), normal(rng, 3, 4)
    slope = (u @ a.T - y) @ a + (lam + beta * (u @ c.T - b)) @ c
    new = soft(u - tau * slope, tau * 1.4 * 0.2)
    found = ALM(**NUMBERS).double().bind(problem).apply((u, lam), 0)
    close(found, (new, lam + beta * (new @ c.T - b)))


def test_ladmm_with_f_is_the_textbook(rng):
    problem, a, y, c, b, beta, tau = relation(rng, L1(0.3))
    u, z, lam = normal(rng, 3, 6), normal(rng, 3, 4), normal(rng, 3, 4)
    slope = (u @ a.T - y) @ a + (lam + beta * (u @ c.T + z - b)) @ c
    new = soft(u - tau * slope, tau * 1.4 * 0.2)
    violation = soft(b - new @ c.T - lam / beta, 0.3 / beta)
    found = LADMM(**NUMBERS).double().bind(problem).apply((u, z, lam), 0)
    close(found, (new, violation, lam + beta * (new @ c.T + violation - b)))


@pytest.mark.parametrize("h", ["l1", "squares", "exact"])
def test_pdhg_is_condat_vu(rng, h):
    """The dual step in closed form: H(w) = h(b - w), H*(v) = h*(-v) + <v, b>."""
    problem, a, y, c, b, sigma, tau = relation(rng, H[h])
    u, v = normal(rng, 3, 6), normal(rng, 3, 4)
    new = soft(u - tau * ((u @ a.T - y) @ a + v @ c), tau * 1.4 * 0.2)
    shifted = v + sigma * (2 * new - u) @ c.T - sigma * b
    dual = {
        "l1": shifted.clamp(-0.3, 0.3),
        "squares": shifted / (1 + sigma),
        "exact": shifted,
    }
    close(PDHG(**NUMBERS).double().bind(problem).apply((u, v), 0), (new, dual[h]))


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
