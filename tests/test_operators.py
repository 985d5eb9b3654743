"""Numerical operators against closed forms, and their conditions at and beyond the limit."""

import pytest
import torch

from bmo_cli.errors import InputError
from bmo_cli.gkm.proximal import ProximalGradient, Resolvent
from bmo_cli.gkm.scheme import GKM
from bmo_cli.linear.blur import PeriodicBlur, transfer_function
from bmo_cli.solver.functions import LeastSquares, Smooth
from bmo_cli.solver.metric import ScaledIdentity
from bmo_cli.solver.problem import Problem

SIZE = (8, 6)


@pytest.fixture
def problem(rng):
    kernel = torch.tensor(rng.random((1, 3, 3))) * 2  # |A| is not 1
    blur = PeriodicBlur(transfer_function(kernel, SIZE), SIZE)
    return Problem(LeastSquares(blur, torch.tensor(rng.random((1, 1, *SIZE)))))


def random(rng):
    return torch.tensor(rng.normal(size=(1, 1, *SIZE)))


def value(problem, u):
    return 0.5 * (problem.f.a(u) - problem.f.y).square().sum()


def test_gradient_is_that_of_the_value(rng, problem):
    u = random(rng).requires_grad_()
    (expected,) = torch.autograd.grad(value(problem, u), u)
    torch.testing.assert_close(problem.f.grad((u,))[0], expected)


def test_resolvent_minimises_its_objective(rng, problem):
    operator = Resolvent(gamma=3.0).double()
    gamma = operator.gamma().item() / problem.f.lipschitz
    v = random(rng)
    u = operator.bind(problem).apply((v,), 0)[0].detach().requires_grad_()
    objective = value(problem, u) + (u - v).square().sum() / (2 * gamma)
    (gradient,) = torch.autograd.grad(objective, u)
    assert gradient.abs().max().item() < 1e-12


def test_proximal_gradient_is_a_gradient_step(rng, problem):
    bound = ProximalGradient(gamma=1.5).double().bind(problem)
    u = random(rng)
    gamma = 1.5 / problem.f.lipschitz
    expected = u - gamma * problem.f.grad((u,))[0]
    torch.testing.assert_close(bound.apply((u,), 0)[0], expected, atol=1e-6, rtol=0)
    assert bound.metric.smallest_eigenvalue.item() == pytest.approx(1 / gamma, rel=1e-6)


@pytest.mark.parametrize("operator", [ProximalGradient(gamma=1.999), Resolvent(gamma=50.0)])
def test_nonexpansive_inside_its_condition(rng, problem, operator):
    bound = operator.double().bind(problem)
    assert largest_ratio(rng, bound.apply, bound.metric) <= 1 + 1e-6


def test_proximal_gradient_expands_beyond_its_condition(rng, problem):
    class Understated(Smooth):  # a wrong L_f makes the step 30 % longer than 2 / L_f
        lipschitz = problem.f.lipschitz / 1.3
        grad = staticmethod(problem.f.grad)

    bound = ProximalGradient(gamma=1.9999).double().bind(Problem(Understated()))
    assert largest_ratio(rng, bound.apply, bound.metric) > 1.5


def largest_ratio(rng, apply, metric):
    """Over random pairs and along the worst direction, found by power iteration (D is affine)."""
    best = 0.0
    a, direction = random(rng), random(rng)
    with torch.no_grad():
        for _ in range(300):
            image = apply((a + direction,), 0)[0] - apply((a,), 0)[0]
            best = max(best, (metric.norm((image,)) / metric.norm((direction,))).item())
            direction = image / image.norm()
    return best


def test_learned_steps_stay_inside_whatever_the_optimiser_does():
    operator = ProximalGradient(gamma=1.0)
    for theta in (-30.0, 0.0, 8.0):
        operator.gamma.theta.data.fill_(theta)
        assert 0 < operator.gamma().item() < 2
    with pytest.raises(InputError, match=r"gamma must lie in \(0, 2\), got 2.0"):
        ProximalGradient(gamma=2.0)
    with pytest.raises(InputError, match="gamma must be finite and > 0, got 0"):
        Resolvent(gamma=0)


def test_scheme_refuses_alpha_outside():
    for alpha in (0.0, 1.0, -0.5, 1.5):
        with pytest.raises(InputError, match=r"alpha must lie in \(0, 1\) \(or null\)"):
            GKM(operator=Resolvent(), alpha=alpha)


def test_function_without_resolvent_says_what_to_use():
    class Bare(Smooth):
        lipschitz = 1.0

        def grad(self, u):
            return u

    with pytest.raises(InputError, match="use gkm=pg"):
        Resolvent().bind(Problem(Bare()))


def test_scaled_identity(rng):
    metric = ScaledIdentity(torch.tensor(4.0, dtype=torch.float64))
    u = (random(rng), random(rng))
    assert metric.norm(u).item() == pytest.approx(
        2 * (u[0].square().sum() + u[1].square().sum()).sqrt().item()
    )
    torch.testing.assert_close(metric.solve(metric.apply(u)), u)
