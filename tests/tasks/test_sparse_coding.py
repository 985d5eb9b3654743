"""Synthetic sparse coding: its draws, its three forms, its score."""

import itertools

import numpy as np
import pytest
import torch

from bmo_cli.errors import InputError
from bmo_cli.gkm.accelerated import FISTA
from bmo_cli.gkm.augmented import LADMM
from bmo_cli.gkm.proximal import ProximalGradient
from bmo_cli.gkm.scheme import GKM
from bmo_cli.solver.fixed_point import iterate
from bmo_cli.solver.functions import L1, AtZero, LeastSquares, SquaredNorm, Zero
from bmo_cli.tasks.sparse_coding import SparseCoding

SMALL = {"rows": 20, "columns": 30, "val_count": 6, "test_count": 9}


def batch(task, step=0, count=8):
    (sample,) = task.samples(range(step, step + 1), count)
    return sample


def codes(sample):
    return sample.loss.target


def observations(problem):
    return problem.f.y if problem.coupling is None else problem.coupling.b


# --- draws ----------------------------------------------------------------------------------------


def test_dictionary_has_unit_columns():
    task = SparseCoding(rows=50, columns=80)
    assert task.dictionary.shape == (50, 80)
    torch.testing.assert_close(task.dictionary.norm(dim=0), torch.ones(80))
    signs = (task.dictionary > 0).float().mean().item()
    assert abs(signs - 0.5) < 5 * 0.5 / 4000**0.5
    top = torch.linalg.matrix_norm(task.dictionary, 2).item()  # of Gaussian entries, about
    assert top == pytest.approx(1 + (80 / 50) ** 0.5, rel=0.15)


@pytest.mark.parametrize("density", [0.05, 0.3])
def test_codes_are_bernoulli_gaussian(density):
    x = codes(batch(SparseCoding(density=density, rows=10, columns=400), count=100)).double()
    count = x.numel()
    share = (x != 0).double().mean().item()
    assert abs(share - density) < 5 * (density * (1 - density) / count) ** 0.5
    values = x[x != 0]
    assert abs(values.mean().item()) < 5 / len(values) ** 0.5
    assert abs(values.var().item() - 1) < 5 * (2 / len(values)) ** 0.5
    assert abs((values**4).mean().item() - 3) < 5 * (96 / len(values)) ** 0.5


@pytest.mark.parametrize("snr", [3.0, 30.0])
def test_noise_has_the_ratio(snr):
    task = SparseCoding(snr=snr, rows=500, columns=100)
    sample = batch(task, count=40)
    signal = codes(sample) @ task.dictionary.T
    noise = observations(sample.problem) - signal
    powers = (signal.square().mean(1), noise.square().mean(1))
    found = 10 * (powers[0] / powers[1]).log10()
    assert (found - snr).abs().max().item() < 5 * 10 / np.log(10) * (2 / 500) ** 0.5
    assert abs(found.mean().item() - snr) < 5 * 10 / np.log(10) * (2 / 20000) ** 0.5


def test_without_noise_the_relation_is_exact():
    task = SparseCoding(**SMALL)
    sample = batch(task)
    expected = codes(sample).numpy() @ task.dictionary.numpy().T
    np.testing.assert_allclose(observations(sample.problem), expected, rtol=1e-5, atol=1e-6)


def test_start_is_zero_and_the_truth_is_hidden():
    sample = batch(SparseCoding(**SMALL))
    assert (sample.initial[0] == 0).all()
    assert sample.initial[0].shape == codes(sample).shape == (8, 30)
    assert sample.loss.size == 30


# --- seeds ----------------------------------------------------------------------------------------


def test_training_batches_depend_on_seed_and_step_alone():
    words = {**SMALL, "snr": 20.0}
    whole = [codes(s) for s in SparseCoding(**words, seed=4).samples(range(5), 8)]
    resumed = [codes(s) for s in SparseCoding(**words, seed=4).samples(range(3, 5), 8)]
    torch.testing.assert_close(resumed, whole[3:], rtol=0, atol=0)
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(whole, 2))
    others = [codes(batch(SparseCoding(**words, seed=s), 3)) for s in (5, 6)]
    assert not any(torch.equal(whole[3], other) for other in others)
    noisy = [observations(batch(SparseCoding(**words, seed=4), 3).problem) for _ in range(2)]
    assert torch.equal(*noisy)


def test_evaluation_depends_on_its_own_seed():
    words = {**SMALL, "snr": 20.0}

    def drawn(split="test", **seeds):
        task = SparseCoding(**words, **seeds)
        (case,) = task.cases(split)
        return case.reference, observations(case.problem), task.dictionary

    for a, b in zip(drawn(seed=1), drawn(seed=2), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(drawn(eval_seed=1), drawn(eval_seed=2), strict=True):
        assert not torch.equal(a, b)
    assert [len(drawn(split)[0]) for split in ("val", "test")] == [6, 9]
    assert not torch.equal(drawn("val")[0], drawn("test")[0][:6])
    train = codes(batch(SparseCoding(**words), count=6))
    assert not any(torch.equal(train, drawn(split)[0][:6]) for split in ("val", "test"))
    with pytest.raises(InputError, match=r"density must lie in \(0, 1\)"):
        SparseCoding(density=1.0)


# --- score ----------------------------------------------------------------------------------------


def test_nmse_is_the_formula(rng):
    task = SparseCoding(**SMALL)
    (case,) = task.cases("test")
    truth = case.reference.numpy().astype(np.float64)
    estimate = rng.normal(size=truth.shape)
    expected = 10 * np.log10(
        (np.linalg.norm(estimate - truth, axis=1) ** 2).mean()
        / (np.linalg.norm(truth, axis=1) ** 2).mean()
    )
    found = task.score((torch.tensor(estimate),), case)
    assert set(found) == set(task.columns) == {"nmse"}
    assert found["nmse"] == pytest.approx(expected, rel=1e-12)


def test_nmse_of_known_estimates():
    task = SparseCoding(**SMALL)
    (case,) = task.cases("val")
    factors = {0.0: 0.0, 0.9: -20.0, 2.0: 0.0, 11.0: 20.0, 1.0: -np.inf}
    for factor, expected in factors.items():
        found = task.score((factor * case.reference, torch.zeros(6, 20)), case)["nmse"]
        assert found == pytest.approx(expected, abs=1e-5)


# --- forms ----------------------------------------------------------------------------------------


def test_forms_are_what_they_say():
    made = {}
    for form in ("lasso", "split", "exact"):
        task = SparseCoding(**SMALL, kappa=0.3, form=form)
        made[form] = problem = batch(task).problem
        assert isinstance(problem.g, L1)
        assert problem.g.weight == 0.3
        part = problem.f if form == "lasso" else problem.coupling
        assert torch.equal(part.a.a, task.dictionary)
    assert isinstance(made["lasso"].f, LeastSquares)
    assert made["lasso"].coupling is None
    for form, kind in (("split", SquaredNorm), ("exact", AtZero)):
        assert isinstance(made[form].f, Zero)
        assert isinstance(made[form].coupling.h, kind)
    y = [observations(problem) for problem in made.values()]
    assert torch.equal(y[0], y[1])
    assert torch.equal(y[0], y[2])


def solved(form, operator, iterations, kappa=0.1, alpha=0.9):
    task = SparseCoding(rows=8, columns=14, density=0.2, snr=20.0, kappa=kappa, form=form).double()
    sample = batch(task, count=3)
    mapping = GKM(operator=operator, alpha=alpha).double().bind(sample.problem)
    with torch.no_grad():
        end = iterate(mapping, sample.initial, iterations=iterations, tolerance=1e-13)
    return task.dictionary, observations(sample.problem), end.value[0]


@pytest.mark.slow
def test_lasso_and_split_have_one_optimum():
    a, y, x = solved("lasso", ProximalGradient(gamma=1.8), 8000)
    _, _, z = solved("split", LADMM(), 8000)
    torch.testing.assert_close(x, z, rtol=0, atol=1e-8)
    slope = (y - x @ a.T) @ a / 0.1  # a subgradient of |x|_1
    assert slope.abs().max() <= 1 + 1e-8
    assert 0 < (x != 0).sum() < x.numel()
    torch.testing.assert_close(slope[x != 0], x[x != 0].sign())


@pytest.mark.slow
def test_basis_pursuit_is_their_limit_for_a_small_weight():
    _, y, x = solved("exact", LADMM(beta=0.3), 8000)
    a, _, z = solved("lasso", FISTA(), 6000, kappa=1e-3, alpha=None)
    torch.testing.assert_close(x @ a.T, y, rtol=0, atol=1e-5)
    torch.testing.assert_close(x, z, rtol=0, atol=0.05)  # the lasso shrinks by O(kappa)
    least_squares = torch.linalg.lstsq(a, y.T).solution
    assert x.abs().sum() < 0.95 * least_squares.abs().sum()


def test_forms_follow_the_task_to_another_precision():
    task = SparseCoding(**SMALL)
    assert batch(task).problem.f.a.a.dtype == torch.float32
    assert batch(task.double()).problem.f.a.a.dtype == torch.float64


def test_a_fixed_training_set_comes_round_again():
    task = SparseCoding(rows=6, columns=9, density=0.5, train_count=4, seed=1)
    one, two, three = (s.loss.target for s in task.samples(range(3), 2))
    assert torch.equal(one, three) and not torch.equal(one, two)
    whole = [s.loss.target for s in task.samples(range(2), 4)]
    assert torch.equal(*whole)
    with pytest.raises(InputError, match="must be a multiple of train"):
        next(task.samples(range(1), 3))
