"""Problems of a batch that stop one by one: each ends where it would have ended alone."""

import pytest
import torch

from bmo_cli.errors import DivergenceError
from bmo_cli.experiment.evaluation import Settings, solve
from bmo_cli.gkm.augmented import LADMM
from bmo_cli.gkm.operator import BoundOperator, NumericalOperator
from bmo_cli.gkm.proximal import DouglasRachford, ProximalGradient
from bmo_cli.gkm.scheme import GKM
from bmo_cli.linear.matrix import Matrix
from bmo_cli.solver.each import iterate_each
from bmo_cli.solver.fixed_point import FixedPointMap, Status, iterate
from bmo_cli.solver.functions import L1, LeastSquares, SquaredNorm
from bmo_cli.solver.metric import ScaledIdentity
from bmo_cli.solver.problem import Coupling, Problem

B, M, N = 9, 6, 8


@pytest.fixture
def posed(rng):
    """Lasso problems of very different difficulty."""
    a = torch.tensor(rng.normal(size=(M, N)))
    y = (
        torch.tensor(rng.normal(size=(B, M)))
        * torch.logspace(-2, 1, B, dtype=torch.float64)[:, None]
    )
    return a, y, (torch.zeros(B, N, dtype=torch.float64),)


def lasso(a, y):
    return Problem(LeastSquares(Matrix(a), y), L1(0.3))


def split(a, y):
    return Problem(g=L1(0.3), coupling=Coupling(Matrix(a), y, SquaredNorm()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "operator, pose",
    [(ProximalGradient(), lasso), (DouglasRachford(), lasso), (LADMM(), split)],
    ids=lambda x: getattr(x, "__name__", type(x).__name__),
)
def test_every_problem_ends_where_it_would_alone(posed, operator, pose):
    a, y, initial = posed
    scheme = GKM(operator=operator.double(), alpha=0.9)
    settings = Settings(iterations=400, tolerance=1e-6)
    problem = pose(a, y)
    ends = iterate_each(
        lambda rows: scheme.bind(problem.select(rows)), initial, iterations=400, tolerance=1e-6
    )
    alone = [
        iterate(
            scheme.bind(problem.select(torch.tensor([i]))),
            (initial[0][i : i + 1],),
            iterations=400,
            tolerance=1e-6,
        )
        for i in range(B)
    ]
    assert ends.iterations.tolist() == [one.iterations for one in alone]
    assert len(set(ends.iterations.tolist())) > 2  # they do end at different times
    for i, one in enumerate(alone):
        for whole, block in zip(ends.value, one.value, strict=True):
            torch.testing.assert_close(whole[i : i + 1], block, rtol=1e-10, atol=1e-12)
    found = solve(scheme, problem, initial, settings)
    assert found.iterations == max(one.iterations for one in alone)
    assert found.residual == pytest.approx(ends.residuals.max().item())
    for i in (0, B - 1):
        one = solve(scheme, problem.select(torch.tensor([i])), (initial[0][i : i + 1],), settings)
        torch.testing.assert_close(found.value[0][i : i + 1], one.value[0], rtol=1e-9, atol=1e-12)


def slowing(rates, sizes):
    """u -> rate u + (1 - rate): converges to 1 at a rate of its own; `sizes` notes the work."""

    def bind(rows):
        chosen = rates[rows][:, None]

        def apply(u, k):
            sizes.append(len(u[0]))
            return (chosen * u[0] + (1 - chosen),)

        return FixedPointMap(apply, ScaledIdentity(torch.ones((), dtype=torch.float64)))

    return bind


def test_what_has_ended_costs_nothing():
    rates = torch.tensor([0.0, 0.5, 0.9, 0.97], dtype=torch.float64)
    sizes, initial = [], (torch.zeros(4, 2, dtype=torch.float64),)
    ends = iterate_each(slowing(rates, sizes), initial, iterations=300, tolerance=1e-4)
    # |D(u) - u| / |u| = (1 - q) q^k / (1 - q^k) after k steps
    expected = [
        next(k for k in range(1, 300) if (1 - q) * q**k <= 1e-4 * (1 - q**k))
        for q in rates.tolist()
    ]
    assert ends.iterations.tolist() == expected
    assert ends.status is Status.CONVERGED
    assert sum(sizes) == sum(expected) + 4  # and one evaluation that finds the end
    torch.testing.assert_close(ends.value[0][:, 0], 1 - rates**ends.iterations)


def test_the_last_iteration_ends_all():
    sizes, initial = [], (torch.zeros(2, 2, dtype=torch.float64),)
    rates = torch.tensor([0.5, 0.999], dtype=torch.float64)
    ends = iterate_each(slowing(rates, sizes), initial, iterations=20, tolerance=1e-3)
    assert ends.iterations.tolist() == [9, 20]
    assert ends.status is Status.ITERATIONS
    assert ends.residuals[0] <= 1e-3 < ends.residuals[1]


def test_a_lost_iterate_ends_in_an_error():
    class Growing(NumericalOperator):
        nonexpansive = False

        def bind(self, problem):
            return BoundOperator(lambda u, k: (u[0] * 1e100,), ScaledIdentity(torch.tensor(1.0)))

    x = torch.ones(3, 2, dtype=torch.float64)
    problem = Problem(LeastSquares(Matrix(torch.eye(2, dtype=torch.float64)), x))
    with pytest.raises(DivergenceError, match="iterate 2 of 9"):
        solve(GKM(operator=Growing(), alpha=None), problem, (x,), Settings(9, tolerance=1e-3))
