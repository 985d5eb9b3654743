"""Bilevel toys: the closed forms against optimisers that do not know them."""

import math

import numpy as np
import pytest
import torch
from scipy import optimize

from bmo_cli.errors import InputError
from bmo_cli.gkm.proximal import ProximalGradient
from bmo_cli.gkm.scheme import GKM
from bmo_cli.hyper.aggregation import Unrolled
from bmo_cli.solver.fixed_point import iterate
from bmo_cli.tasks.toy import Toy

TOYS = pytest.mark.parametrize(
    ("problem", "n"), [("a", None), ("a", 3), ("b", None), ("b", 8), ("c", None), ("c", 1)]
)


def made(problem, n=None, x=None, seed=0):
    """The task in float64, at the given or at another x than its initial one."""
    toy = Toy(problem=problem, n=n, seed=seed).double()
    generator = torch.Generator().manual_seed(1)
    draw = 0.2 * torch.randn(toy.x.shape, generator=generator, dtype=torch.float64)
    toy.x.data = toy.x.data + draw if x is None else torch.tensor(x, dtype=torch.float64)
    return toy


def lower(toy, x, y):
    """f(x, y), written again."""
    if toy.problem == "a":
        y = y[: toy.n]
        return 0.5 * y @ y - x @ y
    if toy.problem == "b":
        a, b = toy.a.numpy(), toy.b.numpy()
        return 0.5 * y @ a @ y - x @ b @ y
    return np.sin(x + y - 2).sum()


def upper(toy, x, y):
    """F(x, y), written again."""
    if toy.problem == "a":
        return 0.5 * ((x - y[toy.n :]) ** 2).sum() + 0.5 * ((y[: toy.n] - 1) ** 2).sum()
    if toy.problem == "b":
        a, d = toy.a.numpy(), toy.d.numpy()
        return 0.5 * y @ a @ y + 0.5 * (x - 1) @ d @ (x - 1)
    return ((x - 2) ** 2).sum() + ((y - 4) ** 2).sum()


def state_of(toy, rng):
    """Some y with the shape of the task's."""
    return torch.tensor(rng.normal(size=toy.sample().initial[0].shape))


# --- optima ---------------------------------------------------------------------------------------


def test_sizes():
    assert [Toy(problem=p).n for p in "abc"] == [1, 5, 2]
    assert [Toy(problem=p).sample().initial[0].shape[1] for p in "abc"] == [2, 5, 2]
    with pytest.raises(InputError, match="problem must be"):
        Toy(problem="d")


@pytest.mark.parametrize("n", [1, 4])
def test_optimum_of_a(n):
    """All ones: both squares are 0 there, and y_1 = x is the lower solution."""
    toy = made("a", n)
    np.testing.assert_array_equal(toy.optimum.numpy(), np.ones(n))
    assert upper(toy, np.ones(n), np.ones(2 * n)) == 0
    best = optimize.minimize(lambda v: upper(toy, v[:n], v), np.zeros(2 * n))  # y_1 = x
    np.testing.assert_allclose(best.x, 1, atol=1e-5)


@pytest.mark.parametrize(("n", "seed"), [(5, 0), (8, 0), (5, 3)])
def test_optimum_of_b_minimises_the_reduced_problem(n, seed):
    toy = made("b", n, seed=seed)

    def solution(x):
        return np.linalg.solve(toy.a.numpy(), toy.b.numpy().T @ x)

    some = np.linspace(-1, 2, n)
    found = optimize.minimize(lambda y: lower(toy, some, y), np.zeros(n)).x
    np.testing.assert_allclose(solution(some), found, atol=1e-4)
    best = optimize.minimize(lambda x: upper(toy, x, solution(x)), np.zeros(n), tol=1e-9)
    np.testing.assert_allclose(toy.optimum.detach().numpy(), best.x, atol=1e-5)
    assert np.abs(best.x - 1).max() > 0.05  # the lower problem pulls x away from z
    assert not np.allclose(toy.optimum.detach(), made("b", n, seed=seed + 1).optimum.detach())


@pytest.mark.parametrize("n", [1, 2, 5])
def test_optimum_of_c_is_a_minimum_on_the_lower_solutions(n):
    toy = made("c", n)
    x = toy.optimum.item()
    assert x == pytest.approx(((1 - n) * 2 + 3 * math.pi * n / 2) / (1 + n), rel=1e-12)

    def solution(t):
        """The stationary y of the basin that the iterations start in."""
        low, high = (2 - t + factor * math.pi for factor in (1.01, 1.99))
        y = optimize.brentq(lambda y: math.cos(t + y - 2), low, high, xtol=1e-14)
        return np.full(n, y)

    def reduced(t):
        return upper(toy, np.array([t]), solution(t))

    found = optimize.minimize(lambda y: lower(toy, 3.0, y), np.full(n, 4.0)).x
    np.testing.assert_allclose(solution(3.0), found, atol=1e-4)
    best = optimize.minimize_scalar(reduced, bounds=(1, 4), options={"xatol": 1e-9})
    assert x == pytest.approx(best.x, abs=1e-6)
    step = 1e-3  # of central differences: the reduced problem is stationary and convex there
    left, middle, right = (reduced(x + s) for s in (-step, 0, step))
    assert (right - left) / (2 * step) == pytest.approx(0, abs=1e-8)
    assert right + left > 2 * middle


def test_numbers_of_c():
    toy = made("c", x=[2.4749])
    assert toy.optimum.item() == pytest.approx(2.4749, abs=1e-4)
    y = torch.full((1, 2), 2 - toy.optimum.item() + 1.5 * math.pi, dtype=torch.float64)
    assert toy.sample().problem.f.grad((y,))[0].abs().max() < 1e-3  # y solves the lower problem
    assert toy.sample().loss.value((y,)).item() == pytest.approx(0.33833, abs=1e-4)


# --- samples --------------------------------------------------------------------------------------


@TOYS
def test_problem_and_loss_are_the_formulas(rng, problem, n):
    toy = made(problem, n)
    sample, x = toy.sample(), toy.x.detach().numpy()
    y = state_of(toy, rng)
    assert sample.loss.value((y,)).item() == pytest.approx(upper(toy, x, y[0].numpy()), rel=1e-12)
    slope = optimize.approx_fprime(y[0].numpy(), lambda v: lower(toy, x, v), 1e-7)
    found = sample.problem.f.grad((y,))[0][0]
    np.testing.assert_allclose(found.detach().numpy(), slope, atol=1e-5)


@TOYS
def test_gradient_of_the_loss_is_that_of_its_value(rng, problem, n):
    toy = made(problem, n)
    loss, y = toy.sample().loss, state_of(toy, rng).requires_grad_()
    (expected,) = torch.autograd.grad(loss.value((y,)).sum(), y)
    (found,) = loss.grad((y,))
    torch.testing.assert_close(found, expected)
    curvature = torch.autograd.functional.hessian(lambda v: loss.value((v,)).sum(), y)
    top = torch.linalg.eigvalsh(curvature.reshape(y.numel(), y.numel()))[-1].item()
    assert loss.lipschitz == pytest.approx(top, rel=1e-6)


@pytest.mark.parametrize("problem", ["a", "b", "c"])
def test_declared_curvature_of_the_lower_problem(rng, problem):
    f = made(problem).sample().problem.f
    y = state_of(made(problem), rng)
    jacobian = torch.autograd.functional.jacobian(lambda v: f.grad((v,))[0], y)
    norm = torch.linalg.matrix_norm(jacobian.reshape(y.numel(), y.numel()), 2).item()
    if problem == "c":  # |sin| <= 1, reached somewhere else
        assert norm <= f.lipschitz == 1
    else:
        assert float(f.lipschitz) == pytest.approx(norm, rel=1e-9)


@TOYS
def test_a_sample_is_differentiable_in_x(problem, n):
    """Through unrolled iterations, against central differences."""
    toy = made(problem, n)
    scheme = GKM(operator=ProximalGradient(gamma=1.0), alpha=0.5).double()

    def objective():
        return Unrolled().objective(scheme, toy.sample(), 5).objective

    objective().backward()
    assert toy.x.grad.abs().min() > 1e-6
    start = toy.x.data.clone()
    for i in range(len(start)):
        values = []
        for sign in (1, -1):
            toy.x.data = start.clone()
            toy.x.data[i] += sign * 1e-5
            values.append(objective().item())
        expected = (values[0] - values[1]) / 2e-5
        assert toy.x.grad[i].item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_iterations_stay_in_the_basin_of_the_optimum():
    toy = made("c", x=[2.4749])
    scheme = GKM(operator=ProximalGradient(gamma=1.0), alpha=0.5).double()
    sample = toy.sample()
    with torch.no_grad():
        end = iterate(scheme.bind(sample.problem), sample.initial, iterations=200).value[0]
    assert (end - (2 - 2.4749 + 1.5 * math.pi)).abs().max() < 1e-6


def test_training_sees_x_as_it_is_now():
    toy = made("b")
    samples = toy.samples(range(3), 1)
    first = next(samples)
    with torch.no_grad():
        toy.x += 1
    second = next(samples)
    y = first.initial
    assert not torch.equal(first.problem.f.grad(y)[0], second.problem.f.grad(y)[0])
    assert len([*samples]) == 1


# --- scores ---------------------------------------------------------------------------------------


@TOYS
def test_scores(rng, problem, n):
    toy = made(problem, n)
    (case,) = toy.cases("test")
    y = state_of(toy, rng)
    scores = toy.score((y,), case)
    x, best = toy.x.detach().numpy(), toy.optimum.detach().numpy()
    distance = np.linalg.norm(x - best) / np.linalg.norm(best)
    assert scores["distance"] == pytest.approx(distance, rel=1e-9)
    assert scores["value"] == pytest.approx(upper(toy, x, y[0].numpy()), rel=1e-9)
    assert set(scores) == set(toy.columns)
    toy.x.data = toy.optimum.clone()
    assert toy.score((y,), case)["distance"] == 0
