"""The near-null space of I - dD/du against closed forms."""

import pytest
import torch
from conftest import composed

from bmo_cli.errors import InputError
from bmo_cli.experiment import evaluation
from bmo_cli.gkm.augmented import ALM
from bmo_cli.gkm.proximal import ProximalGradient, Resolvent
from bmo_cli.gkm.scheme import GKM
from bmo_cli.linear.blur import PeriodicBlur, transfer_function
from bmo_cli.linear.matrix import Matrix
from bmo_cli.results.run import Run, RunSpec
from bmo_cli.solver import null_space
from bmo_cli.solver.fixed_point import FixedPointMap, iterate
from bmo_cli.solver.functions import L1, AtZero, LeastSquares
from bmo_cli.solver.metric import ScaledIdentity
from bmo_cli.solver.null_space import near_null_space
from bmo_cli.solver.problem import Coupling, Problem
from bmo_cli.training.run import train


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("rows", "dimension"), [(4, 3), (6, 1), (7, 0), (9, 0)])
def test_least_squares_leave_the_kernel_of_the_matrix(rows, dimension):
    """I - dD/du = gamma A^T A has the kernel of A, of dimension n - m."""
    f = LeastSquares(Matrix(normal(rows, 7)), normal(2, rows, seed=1))
    mapping = GKM(operator=ProximalGradient(gamma=1.0)).double().bind(Problem(f))
    space = near_null_space(mapping, (normal(2, 7, seed=2),))
    assert (space.dimension, space.unknowns) == (dimension, 7)


def test_a_blur_leaves_the_frequencies_that_it_removes():
    """(1, 2, 1) / 4 along the rows removes the highest frequency of each of 8 rows."""
    kernel = torch.zeros(1, 3, 3, dtype=torch.float64)
    kernel[0, 1] = torch.tensor([0.25, 0.5, 0.25])
    blur = PeriodicBlur(transfer_function(kernel, (8, 6)), (8, 6))
    y = normal(1, 1, 8, 6)
    mapping = GKM(operator=Resolvent(gamma=1.0)).double().bind(Problem(LeastSquares(blur, y)))
    assert near_null_space(mapping, (y,)).dimension == 8


def test_the_lasso_has_one_solution_where_its_support_is_independent(monkeypatch):
    a, y = normal(10, 20), normal(3, 10, seed=1)
    problem = Problem(LeastSquares(Matrix(a), y), L1(0.5))
    mapping = GKM(operator=ProximalGradient(gamma=1.0), alpha=None).double().bind(problem)
    start = torch.zeros(3, 20, dtype=torch.float64)
    end = iterate(mapping, (start,), iterations=5000).value
    assert near_null_space(mapping, end).dimension == 0
    monkeypatch.setattr(null_space, "THRESHOLD", 2.0)
    assert near_null_space(mapping, end).dimension == 20


def test_multipliers_of_dependent_constraints_are_free():
    """A u = b with a row twice: the difference of its two multipliers acts on nothing."""
    a, c = normal(6, 5), normal(2, 5, seed=1)
    c = torch.cat([c, c[:1]])
    coupling = Coupling(Matrix(c), torch.zeros(1, 3, dtype=torch.float64), AtZero())
    problem = Problem(LeastSquares(Matrix(a), normal(1, 6, seed=2)), coupling=coupling)
    mapping = GKM(operator=ALM()).double().bind(problem)
    u = mapping.lift((torch.zeros(1, 5, dtype=torch.float64),))
    space = near_null_space(mapping, u)
    assert (space.dimension, space.unknowns) == (1, 8)


@pytest.mark.parametrize(("value", "dimension"), [(0.9e-3, 1), (1.1e-3, 0), (-0.9e-3, 1)])
def test_the_threshold_has_two_sides(value, dimension):
    one = ScaledIdentity(torch.ones((), dtype=torch.float64))
    scale = torch.tensor([1 - value, 0.5, 0.0], dtype=torch.float64)
    mapping = FixedPointMap(lambda u, k: (scale * u[0],), one)
    assert near_null_space(mapping, (normal(2, 3),)).dimension == dimension


def test_a_block_that_is_constant_leaves_nothing_free():
    """z = 0 of an exact constraint, beside a block of which one entry of three is free."""
    one = ScaledIdentity(torch.ones((), dtype=torch.float64))
    keep = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    mapping = FixedPointMap(lambda u, k: (keep * u[0], torch.zeros(2, 4).double()), one)
    space = near_null_space(mapping, (normal(2, 3), torch.zeros(2, 4).double()))
    assert (space.dimension, space.unknowns) == (1, 7)


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (lambda u, k: (u[0].detach() / 2,), "cut off from the graph"),
        (lambda u, k: (u[0].abs().sqrt() / 2,), "not finite"),
    ],
)
def test_a_map_without_a_derivative_is_refused(apply, message):
    one = ScaledIdentity(torch.ones((), dtype=torch.float64))
    with pytest.raises(InputError, match=message):
        near_null_space(FixedPointMap(apply, one), (torch.zeros(2, 3, dtype=torch.float64),))


def test_a_large_state_is_refused():
    one = ScaledIdentity(torch.ones(()))
    mapping = FixedPointMap(lambda u, k: u, one)
    with pytest.raises(InputError, match=r"n = 4356 entries.*data.eval_crop"):
        near_null_space(mapping, (torch.zeros(1, 1, 66, 66),))


@pytest.mark.slow
@pytest.mark.parametrize(("kappa", "dimension"), [(0.1, 0), (1e-9, 24)])
def test_a_run_counts_at_the_fixed_point_not_where_its_test_ends(tmp_path, kappa, dimension):
    """16 measurements of 40 unknowns leave 24 directions, unless the l1 norm closes them."""
    words = ["task=sparse_coding", "debug=tiny", "task.rows=16", "task.columns=40", "device=cpu"]
    words += [f"task.kappa={kappa}", "train.steps=1", "eval.iterations=2", "eval.null_space=3"]
    metrics = train(Run(RunSpec(composed(*words), {}, tmp_path))).metrics
    assert (metrics["test/null_space"], metrics["test/unknowns"]) == (dimension, 40)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["net.last_gain=30"], "has not reached one"),
        (["gkm=fista", "net=none", "hyper=none"], "about one map"),
    ],
)
def test_a_run_without_a_fixed_point_has_no_number(tmp_path, tiny, words, reason):
    words = [*tiny, *words, "eval.null_space=1", "train.steps=1", "eval.iterations=1"]
    words = [word for word in words if "net=none" not in words or not word.startswith("net.")]
    result = train(Run(RunSpec(composed(*words), {}, tmp_path / "photos")))
    assert "test/psnr" in result.metrics and "test/null_space" not in result.metrics
    assert any(reason in flag for flag in result.flags)


@pytest.mark.slow
def test_a_large_state_costs_no_score(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(null_space, "MAX_UNKNOWNS", 100)
    monkeypatch.setattr(evaluation, "near_null_space", pytest.fail)
    words = [*tiny, "eval.null_space=1", "train.steps=1"]
    result = train(Run(RunSpec(composed(*words), {}, tmp_path / "photos")))
    assert "test/psnr" in result.metrics and "test/null_space" not in result.metrics
    assert any("data.eval_crop" in flag for flag in result.flags)
