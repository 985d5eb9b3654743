"""Total variation: the gradient map against dense matrices, the solver against its dual."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from bmo_cli.gkm.augmented import PDHG
from bmo_cli.gkm.scheme import GKM
from bmo_cli.linear.blur import PeriodicBlur, transfer_function
from bmo_cli.linear.gradient import PeriodicGradient, laplacian_symbol
from bmo_cli.solver.fixed_point import iterate
from bmo_cli.solver.functions import TotalVariation
from bmo_cli.tasks.deconvolution import blur_problem, linear_views


def dense(function, shape, out):
    n = int(np.prod(shape))
    basis = torch.eye(n, dtype=torch.float64).reshape(n, *shape)
    return function(basis).reshape(n, out).mT


@pytest.mark.parametrize("size", [(4, 6), (5, 3)])
def test_gradient_map(size):
    a, n = PeriodicGradient(size), 2 * size[0] * size[1]
    matrix = dense(a, (2, *size), 2 * n)
    adjoint = dense(a.adjoint, (4, *size), n)
    torch.testing.assert_close(adjoint, matrix.mT)
    assert a.norm_squared == pytest.approx(torch.linalg.matrix_norm(matrix, 2).item() ** 2)
    inverse = dense(a.shifted_inverse(torch.tensor(0.7)), (2, *size), n)
    identity = torch.eye(n, dtype=torch.float64)
    torch.testing.assert_close(inverse, torch.linalg.inv(identity + 0.7 * matrix.mT @ matrix))
    u = torch.arange(size[0] * size[1], dtype=torch.float64).reshape(1, 1, *size)
    assert a(u)[0, 0, 0, 0] == size[1] and a(u)[0, 1, 0, 0] == 1


def test_prox_of_total_variation_against_brute_force():
    rng = np.random.default_rng(0)
    z, gamma, weight = rng.normal(size=2), 0.8, 0.6

    def objective(v):
        return weight * np.linalg.norm(v) + np.sum((v - z) ** 2) / (2 * gamma)

    expected = minimize(objective, z, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 0})
    state = (torch.tensor(z).reshape(1, 2, 1, 1),)
    (found,) = TotalVariation(weight).prox(state, torch.tensor(gamma))
    np.testing.assert_allclose(found.flatten().numpy(), expected.x, atol=1e-6)
    (none,) = TotalVariation(10.0).prox(state, torch.tensor(gamma))
    assert none.abs().max() == 0


@pytest.mark.slow
@pytest.mark.parametrize("form", ["tv", "tv_anisotropic"])
def test_pdhg_minimises_the_objective(form):
    """The duality gap of min 1/2 |k * u - y|^2 + w TV(u) closes."""
    rng = np.random.default_rng(0)
    size, weight = (6, 7), 0.05
    y = torch.tensor(rng.random((1, 1, *size)))
    kernel = torch.tensor(rng.random((1, 3, 3)))
    kernel = kernel / kernel.sum() * 0.5
    kernel[0, 1, 1] += 0.5
    blur, a = PeriodicBlur(transfer_function(kernel, size), size), PeriodicGradient(size)
    problem = blur_problem(y, blur, form, tv_weight=weight)
    mapping = GKM(operator=PDHG(beta=0.3).double(), alpha=None).bind(problem)
    with torch.no_grad():
        u, v = iterate(mapping, (y,), iterations=6000).value
    field = a(u)
    length = field.square().sum(1).sqrt() if form == "tv" else field.abs()
    primal = 0.5 * (blur(u) - y).square().sum() + weight * length.sum()
    # Dual: -1/2 |q|^2 + <q, y> with A_blur^T q = div v and |v| <= w pointwise.
    dual_length = v.square().sum(1).sqrt() if form == "tv" else v.abs()
    assert dual_length.max() <= weight + 1e-9
    q = y - blur(u)
    torch.testing.assert_close(blur.adjoint(q), a.adjoint(v), rtol=0, atol=1e-7)
    dual = -0.5 * q.square().sum() + (q * y).sum()
    assert primal.item() == pytest.approx(dual.item(), abs=1e-7)
    assert primal.item() < 0.5 * (blur(y) - y).square().sum() + weight * a(y).abs().sum()


def test_linear_views_solve_their_normal_equations():
    rng = np.random.default_rng(0)
    size = (6, 5)
    y = torch.tensor(rng.random((2, 1, *size)))
    blur = PeriodicBlur(transfer_function(torch.tensor(rng.random((1, 3, 3))), size), size)
    noise = torch.tensor([0.02, 0.0001], dtype=y.dtype)
    views, a = linear_views(y, blur, noise), PeriodicGradient(size)
    assert views.shape == (2, 7, *size)
    torch.testing.assert_close(views[:, :1], y)
    level = torch.tensor([0.02, 0.5 / 255], dtype=y.dtype)[:, None, None, None]
    torch.testing.assert_close(views[:, 6:], 10 * level.expand_as(y))
    for i, weight in enumerate((10, 30, 100, 300, 1000), 1):
        c = weight * level**2
        u = views[:, i : i + 1]
        left = blur.normal(u) + c * (a.normal(u) + 0.05 * u)
        torch.testing.assert_close(left, blur.adjoint(y), rtol=1e-5, atol=1e-7)


def test_symbol_is_real_and_has_the_constant_in_its_kernel():
    assert laplacian_symbol((8, 8))[0, 0] == 0
    assert laplacian_symbol((8, 8)).max() == pytest.approx(8)
