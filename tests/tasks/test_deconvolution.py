"""Deconvolution: what it makes of the noise, its start and its losses."""

import numpy as np
import pytest
import torch
from conftest import composed

from bmo_cli.data.noise import estimate_noise
from bmo_cli.errors import InputError
from bmo_cli.experiment.build import build
from bmo_cli.gkm.proximal import Resolvent
from bmo_cli.linear.blur import PeriodicBlur, transfer_function
from bmo_cli.linear.gradient import PeriodicGradient
from bmo_cli.solver.functions import LeastSquares
from bmo_cli.solver.problem import LogSquaredError, Loss, Problem, SquaredError
from bmo_cli.tasks.deconvolution import BlurModel, Deconvolution

SIZE = (64, 48)


def blurred(levels, size=SIZE, seed=0):
    """Smooth images under a blur, with noise of the given standard deviations."""
    rng = np.random.default_rng(seed)
    kernel = torch.tensor(rng.random((1, 5, 5)))
    blur = PeriodicBlur(transfer_function(kernel / kernel.sum(), size), size)
    clean = blur(torch.tensor(rng.random((len(levels), 1, *size))))
    sigma = torch.tensor(levels, dtype=torch.float64)
    noise = torch.tensor(rng.normal(size=clean.shape))
    return blur(clean) + sigma[:, None, None, None] * noise, blur, sigma


def test_the_noise_of_smooth_images_is_estimated():
    sigma = torch.tensor([0.01, 0.03, 0.06], dtype=torch.float64)
    rng, smooth = np.random.default_rng(0), torch.linspace(0, 3, 128, dtype=torch.float64)
    image = 0.5 + 0.4 * torch.outer(smooth.sin(), smooth.cos())
    y = image + sigma[:, None, None, None] * torch.tensor(rng.normal(size=(3, 1, 128, 128)))
    estimates = estimate_noise(y)
    torch.testing.assert_close(estimates, sigma, rtol=0.05, atol=0)
    assert estimate_noise(torch.zeros(1, 1, 8, 8)).item() == 0


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_the_step_follows_the_noise_of_every_problem(power):
    """prox of gamma (sigma_1 / sigma)^p f by its normal equations, one problem at a time."""
    y, blur, sigma = blurred([0.02, 0.0001])
    operator = Resolvent(gamma=3.0, noise_power=power).double()
    problem = Problem(f=LeastSquares(blur, y), noise=sigma)
    bound = operator.bind(problem)
    (u,) = bound.apply((torch.zeros_like(y),), 0)
    steps = 3.0 * (0.01 / np.maximum([0.02, 0.0001], 0.5 / 255)) ** power / blur.norm_squared
    for i, gamma in enumerate(steps):
        one = u[i : i + 1]
        left = one + gamma * blur.normal(one)
        torch.testing.assert_close(left, gamma * blur.adjoint(y[i : i + 1]), rtol=1e-6, atol=1e-6)
    assert operator.step_share(problem) == 0
    assert bound.metric.smallest_eigenvalue.item() == pytest.approx(1 / steps.max(), rel=1e-6)
    norms = bound.metric.norm((y,))
    expected = y.flatten(1).norm(dim=1) / torch.tensor(steps).sqrt()
    torch.testing.assert_close(norms, expected, rtol=1e-6, atol=0)
    with pytest.raises(InputError, match="noise_power chooses the step by the noise"):
        operator.bind(Problem(f=LeastSquares(blur, y)))


def test_a_wiener_start_solves_its_normal_equations():
    y, blur, sigma = blurred([0.02, 0.05])
    _, (plain,) = BlurModel().pose(y, blur, sigma)
    assert torch.equal(plain, y)
    _, (start,) = BlurModel(start="wiener").pose(y, blur, sigma)
    gradient = PeriodicGradient(SIZE)
    weight = 100 * sigma[:, None, None, None] ** 2
    left = blur.normal(start) + weight * (gradient.normal(start) + 0.05 * start)
    torch.testing.assert_close(left, blur.adjoint(y), rtol=1e-5, atol=1e-6)


def test_a_photograph_is_posed_with_the_noise_of_training_or_an_estimate():
    """The noise of the test split says nothing of a photograph."""
    y, _, _ = blurred([0.03])
    kernel = torch.ones(3, 3, dtype=torch.float64) / 9

    def level(noise):
        settings = Deconvolution.settings_for(y, {"noise": noise, "test_noise": 50.0})
        posed = Deconvolution.pose(y, settings, kernel, 0)
        return posed.problem.noise.item()

    assert level(5.1) == pytest.approx(0.02)
    assert level([0, 15]) == pytest.approx(0.03, rel=0.1)
    assert level([0, 5.1]) == pytest.approx(0.02)
    assert level([12.75, 15]) == pytest.approx(0.05)


def test_log_squared_error_against_its_formula_and_autograd():
    rng = np.random.default_rng(0)
    target, u = (torch.tensor(rng.normal(size=(2, 3, 4, 5))) for _ in range(2))
    loss = LogSquaredError(target, level=0.3)
    squares = np.square(u.numpy() - target.numpy()).reshape(2, -1).sum(1)
    expected = 60 * 0.3 / 2 * np.log(1 + squares / (60 * 0.3))
    np.testing.assert_allclose(loss.value((u,)).numpy(), expected, rtol=1e-12)
    torch.testing.assert_close(loss.grad((u,)), Loss.grad(loss, (u,)))
    near = target + 1e-6 * u
    ours, plain = LogSquaredError(target), SquaredError(target)  # 1/2 |e|^2 for small errors
    torch.testing.assert_close(ours.value((near,)), plain.value((near,)), rtol=1e-6, atol=0)
    torch.testing.assert_close(ours.grad((near,)), plain.grad((near,)), rtol=1e-6, atol=0)
    # Far above the level, a factor in the error is a difference in decibels.
    small = LogSquaredError(target, level=1e-12)
    gap = small.value((target + 10 * (u - target),)) - small.value((u,))
    torch.testing.assert_close(gap / (60 * 1e-12 / 2), torch.full_like(gap, np.log(100)))
    hessian = torch.autograd.functional.hessian(
        lambda v: LogSquaredError(target[:1], 0.3).value((v,)).sum(), u[:1]
    ).reshape(60, 60)
    assert torch.linalg.eigvalsh(hessian).abs().max() <= loss.lipschitz == 1.0
    torch.testing.assert_close(loss.select(torch.tensor([1])).value((u[1:],)), loss.value((u,))[1:])


def test_the_keys_reach_the_task():
    config = composed("task=deconv", "task.loss=log", "task.start=wiener", "net=none", "device=cpu")
    task = build(config).task
    assert task.loss is LogSquaredError and task.model.start == "wiener"
