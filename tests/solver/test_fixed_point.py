import itertools
import math

import pytest
import torch

from bmo_cli.solver.anderson import Anderson
from bmo_cli.solver.fixed_point import FixedPointMap, Status, iterate
from bmo_cli.solver.metric import ScaledIdentity

METRIC = ScaledIdentity(torch.tensor(1.0, dtype=torch.float64))


def rotation(angle):
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s], [s, c]], dtype=torch.float64)


def linear(matrix, alpha, shift=0.0):
    return FixedPointMap(lambda u, k: (u[0] @ matrix.T + shift,), METRIC, alpha)


START = (torch.tensor([[1.0, 2.0]], dtype=torch.float64),)


def test_equals_the_matrix_power():
    matrix = 0.5 * rotation(1.0)
    averaged = 0.3 * torch.eye(2, dtype=torch.float64) + 0.7 * matrix
    found = iterate(linear(matrix, 0.7), START, iterations=9)
    expected = START[0] @ torch.linalg.matrix_power(averaged, 9).T
    torch.testing.assert_close(found.value[0], expected)
    assert found.status is Status.ITERATIONS
    assert found.iterations == 9
    assert len(found.residuals) == 9


def test_averaging_makes_a_nonexpansive_map_converge():
    quarter_turn = rotation(math.pi / 2)  # nonexpansive, not averaged: D alone goes round for ever
    found = iterate(linear(quarter_turn, 0.5, 1.0), START, iterations=500, tolerance=1e-12)
    assert found.status is Status.CONVERGED
    expected = torch.linalg.solve(
        torch.eye(2, dtype=torch.float64) - quarter_turn, torch.ones(2, dtype=torch.float64)
    )
    torch.testing.assert_close(found.value[0][0], expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("alpha", [0.9, 0.01])
def test_residual_is_measured_before_damping(alpha):
    matrix = rotation(0.3)
    found = iterate(linear(matrix, alpha), START, iterations=1)
    step = START[0] @ matrix.T - START[0]
    expected = (step.norm() / START[0].norm()).item()
    assert found.residuals[0] == pytest.approx(expected, rel=1e-12)


def test_steps_of_an_averaged_map_never_grow():
    found = iterate(linear(rotation(2.0), 0.8, 0.5), START, iterations=50)
    states = [START[0]]
    for k in range(1, 50):
        states.append(iterate(linear(rotation(2.0), 0.8, 0.5), START, iterations=k).value[0])
    steps = [(b - a).norm().item() for a, b in itertools.pairwise(states)]
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in itertools.pairwise(steps))
    assert found.status is Status.ITERATIONS


def test_stops_before_a_step_that_is_not_needed():
    calls = []

    def contraction(u, k):
        calls.append(k)
        return (u[0] * 0.5,)

    found = iterate(FixedPointMap(contraction, METRIC, 0.5), START, iterations=99, tolerance=0.6)
    assert found.status is Status.CONVERGED
    assert found.iterations == 0
    assert calls == [0]
    torch.testing.assert_close(found.value, START)


def test_non_finite_iterates_are_caught_and_the_last_good_one_is_kept():
    def explode(u, k):
        return (u[0] * (1e200 if k < 3 else math.nan),)

    found = iterate(FixedPointMap(explode, METRIC, 0.5), START, iterations=50)
    assert found.status is Status.NONFINITE
    assert torch.isfinite(found.value[0]).all()


def test_batch_converges_when_its_slowest_problem_does():
    rates = torch.tensor([[0.1], [0.9]], dtype=torch.float64)
    start = (torch.ones(2, 1, dtype=torch.float64),)
    mapping = FixedPointMap(lambda u, k: (u[0] * rates + 1,), METRIC, 0.99)
    found = iterate(mapping, start, iterations=1000, tolerance=1e-8)
    torch.testing.assert_close(found.value[0], 1 / (1 - rates), atol=1e-6, rtol=0)


def anderson(memory, iterations):
    return Anderson(METRIC, memory=memory, iterations=iterations)


def test_anderson_solves_a_linear_problem_in_as_many_steps_as_unknowns(rng):
    """On an affine map it is GMRES (Walker & Ni, 2011): n + 1 residuals determine the solution."""
    matrix = torch.tensor(rng.normal(size=(6, 6)))
    matrix = 0.99 * matrix / torch.linalg.matrix_norm(matrix, 2)
    shift = torch.tensor(rng.normal(size=6))
    mapping = FixedPointMap(lambda u, k: (u[0] @ matrix.T + shift,), METRIC, 0.9)
    start = (torch.zeros(2, 6, dtype=torch.float64),)
    fast = iterate(mapping, start, iterations=40, tolerance=1e-7, acceleration=anderson(6, 40))
    assert fast.status is Status.CONVERGED
    assert fast.iterations <= 10
    expected = torch.linalg.solve(torch.eye(6, dtype=torch.float64) - matrix, shift)
    torch.testing.assert_close(fast.value[0], expected.expand(2, 6), atol=1e-5, rtol=0)
    plain = iterate(mapping, start, iterations=2000, tolerance=1e-7)
    assert plain.iterations > 2 * fast.iterations


@pytest.mark.parametrize("iterations", [1, 2, 3, 7, 20, 60])
@pytest.mark.parametrize("memory", [1, 3, 8])
def test_anderson_never_ends_with_a_larger_residual(memory, iterations):
    """On a map with kinks, where unguarded extrapolation overshoots."""
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    matrix = matrix / torch.linalg.matrix_norm(matrix, 2)

    def kinked(u, k):
        return ((u[0] @ matrix.T).clamp(-0.3, 0.2) + 0.1,)

    mapping = FixedPointMap(kinked, METRIC, 0.7)
    start = (torch.randn(1, 8, generator=generator, dtype=torch.float64),)

    def residual(acceleration):
        u = iterate(mapping, start, iterations=iterations, acceleration=acceleration).value
        return (kinked(u, 0)[0] - u[0]).norm().item()

    assert residual(anderson(memory, iterations)) <= residual(None) * (1 + 1e-9) + 1e-14


def test_anderson_gives_up_a_point_that_is_worse():
    """Far points, whose residual is larger, are never accepted after the first step."""
    norms = []

    def recorded(u, k):
        image = torch.where(u[0].abs() > 0.5, 0.95 * u[0], 0.1 * u[0].roll(1, 1))
        norms.append((image - u[0]).norm().item())
        return (image,)

    accelerate = anderson(4, 50)
    mapping = FixedPointMap(recorded, METRIC, 0.5)
    end = iterate(mapping, START, iterations=50, acceleration=accelerate).value
    assert (recorded(end, 0)[0] - end[0]).norm().item() < 1e-9
    accepted = [n for i, n in enumerate(norms) if n <= min(norms[: i + 1])]
    assert len(accepted) > 5


def test_the_observer_sees_every_step_that_is_taken():
    mapping = FixedPointMap(lambda u, k: (0.5 * u[0],), METRIC, 0.5)
    seen = []
    end = iterate(
        mapping,
        START,
        iterations=3,
        update=lambda k, u, averaged: (averaged[0] + 1,),
        observe=lambda k, u, following: seen.append((k, u, following)),
        start=2,
    )
    assert [k for k, _, _ in seen] == [2, 3, 4]
    assert seen[0][1] is START and seen[1][1] is seen[0][2] and end.value is seen[2][2]
    torch.testing.assert_close(seen[0][2][0], 0.75 * START[0] + 1)
