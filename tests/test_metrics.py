"""Linear maps and metrics against dense matrices."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from bmo_cli.errors import InputError
from bmo_cli.linear.blur import PeriodicBlur, transfer_function
from bmo_cli.linear.matrix import Matrix
from bmo_cli.solver.metric import BlockDiagonal, LinearizedBlock, PrimalDual, ScaledIdentity
from bmo_cli.solver.state import inner

SIZE = (4, 3)


def normal(rng, *shape):
    return torch.tensor(rng.normal(size=shape))


def scalar(number):
    return torch.tensor(number, dtype=torch.float64)


def wide(rng):
    return Matrix(normal(rng, 4, 7)), (7,), (4,)


def tall(rng):
    return Matrix(normal(rng, 7, 4)), (4,), (7,)


def blurred(rng):
    kernel = torch.tensor(rng.random((1, 3, 3)))
    return PeriodicBlur(transfer_function(kernel, SIZE), SIZE), (1, *SIZE), (1, *SIZE)


MAPS = pytest.mark.parametrize("make", [wide, tall, blurred])


def dense(apply, *shapes):
    """The matrix of a linear map of states with blocks of these shapes."""
    sizes = [int(np.prod(shape)) for shape in shapes]
    parts = torch.split(torch.eye(sum(sizes), dtype=torch.float64), sizes, 1)
    unit = tuple(part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True))
    return torch.cat([block.flatten(1) for block in apply(unit)], 1).T


@MAPS
def test_adjoint_and_norm(rng, make):
    a, columns, rows = make(rng)
    matrix = dense(lambda u: (a(u[0]),), columns)
    u, y = normal(rng, 3, *columns), normal(rng, 3, *rows)
    torch.testing.assert_close(inner((a(u),), (y,)), inner((u,), (a.adjoint(y),)))
    torch.testing.assert_close(a.normal(u).flatten(1), u.flatten(1) @ matrix.T @ matrix)
    top = np.linalg.svd(matrix.numpy(), compute_uv=False)[0] ** 2
    assert float(a.norm_squared) == pytest.approx(top, rel=1e-9)


@MAPS
@pytest.mark.parametrize("gamma", [-0.99, -0.5, 0.0, 0.7, 300.0])
def test_shifted_inverse(rng, make, gamma):
    """(I + gamma A^T A)^{-1}, for negative gamma down to the limit -1 / |A|^2."""
    a, columns, _ = make(rng)
    gamma = scalar(gamma / float(a.norm_squared))
    matrix = dense(lambda u: (a(u[0]),), columns)
    v = normal(rng, 3, *columns)
    shifted = torch.eye(matrix.shape[1], dtype=torch.float64) + gamma * matrix.T @ matrix
    expected = torch.linalg.solve(shifted, v.flatten(1).T).T
    found = a.shifted_inverse(gamma)(v)
    torch.testing.assert_close(found.flatten(1), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("entries", [torch.ones(3), torch.tensor([[1.0, torch.inf]])])
def test_matrix_must_be_finite_and_two_dimensional(entries):
    with pytest.raises(InputError, match="needs a finite matrix, got shape"):
        Matrix(entries)


def linearized(a, columns, rows):
    tau, beta = scalar(0.8 / 1.7 / float(a.norm_squared)), scalar(1.7)
    matrix = dense(lambda u: (a(u[0]),), columns)
    identity = torch.eye(matrix.shape[1], dtype=torch.float64)
    return LinearizedBlock(tau, beta, a), identity / tau - beta * matrix.T @ matrix, (columns,)


def blocks(a, columns, rows, last=0.4):
    first, expected, _ = linearized(a, columns, rows)
    second, third = ScaledIdentity(scalar(2.5)), ScaledIdentity(scalar(last))
    weights = [torch.full((int(np.prod(rows)),), w, dtype=torch.float64) for w in (2.5, last)]
    expected = torch.block_diag(expected, *map(torch.diag, weights))
    return BlockDiagonal((first, second, third)), expected, (columns, rows, rows)


def blocks_with_a_small_one(a, columns, rows):
    return blocks(a, columns, rows, last=1e-3)


def primal_dual(a, columns, rows, sigma=0.6):
    matrix = dense(lambda u: (a(u[0]),), columns)
    tau, sigma = scalar(0.9 / sigma / float(a.norm_squared)), scalar(sigma)
    m, n = matrix.shape
    identity = torch.eye(n, dtype=torch.float64), torch.eye(m, dtype=torch.float64)
    expected = torch.cat(
        [
            torch.cat([identity[0] / tau, -matrix.T], 1),
            torch.cat([-matrix, identity[1] / sigma], 1),
        ]
    )
    return PrimalDual(tau, sigma, a), expected, (columns, rows)


def primal_dual_with_a_long_dual_step(a, columns, rows):
    return primal_dual(a, columns, rows, sigma=20.0)


def scaled(a, columns, rows):
    size = int(np.prod(columns))
    return ScaledIdentity(scalar(4.0)), 4 * torch.eye(size, dtype=torch.float64), (columns,)


METRICS = pytest.mark.parametrize(
    "metric",
    [
        *(scaled, linearized, blocks, blocks_with_a_small_one),
        *(primal_dual, primal_dual_with_a_long_dual_step),
    ],
)


@MAPS
@METRICS
def test_metric_is_its_matrix(rng, make, metric):
    g, expected, shapes = metric(*make(rng))
    found = dense(g.apply, *shapes)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    u = tuple(normal(rng, 2, *shape) for shape in shapes)
    flat = torch.cat([block.flatten(1) for block in u], 1)
    torch.testing.assert_close(g.norm(u), ((flat @ expected) * flat).sum(1).sqrt())
    assert g.is_diagonal == bool((expected == torch.diag(expected.diagonal())).all())


@MAPS
@METRICS
def test_metric_is_inverted(rng, make, metric):
    g, _, shapes = metric(*make(rng))
    u = tuple(normal(rng, 2, *shape) for shape in shapes)
    for there_and_back in (g.solve(g.apply(u)), g.apply(g.solve(u))):
        torch.testing.assert_close(there_and_back, u, rtol=1e-9, atol=1e-9)


@MAPS
@METRICS
def test_smallest_eigenvalue_is_that_of_the_matrix(rng, make, metric):
    g, expected, _ = metric(*make(rng))
    lowest = torch.linalg.eigvalsh(expected)[0].item()
    assert lowest > 0
    assert g.smallest_eigenvalue.item() == pytest.approx(lowest, rel=1e-8)


@pytest.mark.parametrize("share", [0.0, 0.999, 1.001, 1.3])
def test_metric_is_definite_up_to_the_limit_alone(rng, share):
    a, columns, rows = wide(rng)
    limit = share / float(a.norm_squared) + 1e-9
    for g, shapes in (
        (LinearizedBlock(scalar(limit / 2), scalar(2.0), a), (columns,)),
        (PrimalDual(scalar(limit / 2), scalar(2.0), a), (columns, rows)),
    ):
        lowest = torch.linalg.eigvalsh(dense(g.apply, *shapes))[0].item()
        assert (lowest > 0) == (share < 1)
        assert (g.smallest_eigenvalue.item() > 0) == (share < 1)


def test_gradients_reach_the_steps(rng):
    """The bound s < lambda_min(G) / L_l of BMO is differentiated with respect to the steps."""
    a, _, _ = wide(rng)
    tau, beta = scalar(0.01).requires_grad_(), scalar(1.3).requires_grad_()
    for kind in (LinearizedBlock, PrimalDual):
        assert torch.autograd.gradcheck(
            lambda t, b, kind=kind: kind(t, b, a).smallest_eigenvalue, (tau, beta)
        )


# --- float32 --------------------------------------------------------------------------------------


class OfNorm:
    """A linear map of which |A|^2 alone is known."""

    def __init__(self, norm_squared):
        self.norm_squared = norm_squared


def steps(rng, count):
    """Step sizes of float32 inside tau (sigma |A|^2 + L_f / 2) < 1, some of them near the limit."""
    for _ in range(count):
        norm, sigma = 10 ** rng.uniform(-1, 1.5), torch.tensor(float(10 ** rng.uniform(-4, 4)))
        share = torch.tensor(float(1 / (1 + np.exp(-rng.uniform(0, 9)))))
        tau = share / (sigma * norm + float(rng.choice([0.0, 1.0])) / 2)
        yield tau, sigma, norm


def test_smallest_eigenvalue_of_the_primal_dual_metric_in_float32(rng):
    """The singular value |A| meets the matrix [[1/tau, -|A|], [-|A|, 1/sigma]]."""
    for tau, sigma, norm in steps(rng, 2000):
        p, q = Fraction(1) / Fraction(float(tau)), Fraction(1) / Fraction(float(sigma))
        product, total = p * q - Fraction(norm), p + q
        root = math.sqrt(total * total - 4 * product)
        expected = 2 * product / (total + Fraction(root))
        found = PrimalDual(tau, sigma, OfNorm(norm)).smallest_eigenvalue.item()
        assert found > 0
        assert found == pytest.approx(float(expected), rel=1e-5)


def test_smallest_eigenvalue_of_a_linearised_block_in_float32(rng):
    for tau, beta, norm in steps(rng, 2000):
        expected = Fraction(1) / Fraction(float(tau)) - Fraction(float(beta)) * Fraction(norm)
        found = LinearizedBlock(tau, beta, OfNorm(norm)).smallest_eigenvalue.item()
        assert found > 0
        assert found == pytest.approx(float(expected), rel=1e-5)


def test_norm_of_a_matrix_is_that_of_float64(rng):
    entries = normal(rng, 60, 80).float()
    expected = np.linalg.norm(entries.double().numpy(), 2) ** 2
    found = Matrix(entries).norm_squared
    assert float(found) == pytest.approx(expected, rel=1e-12)
    assert (entries[:1] * found).dtype is torch.float32  # a scalar promotes nothing


def test_an_indefinite_metric_has_no_norm(rng):
    """tau twice as long as the limit: <u, G u> < 0 along the first singular vector."""
    a, _, _ = wide(rng)
    _, _, right = torch.linalg.svd(a.a)
    g = LinearizedBlock(scalar(2 / float(a.norm_squared)), scalar(1.0), a)
    assert torch.isnan(g.norm((right[:1],))).all()
    assert (g.norm((right[-1:],)) > 0).all()


def test_a_norm_is_not_rounded_to_zero(rng):
    """A quarter of a rounding inside the limit, in float32, the norm is at most that large."""
    a = Matrix(normal(rng, 4, 7).float())
    _, _, right = torch.linalg.svd(a.a)
    for share in (1 - 1e-7, 1 - 3e-8, 1.0, 1 + 3e-8):
        g = LinearizedBlock(torch.tensor(share / float(a.norm_squared)), torch.tensor(1.0), a)
        norm = g.norm((right[:1],))
        assert (norm > 0).all()
        assert (norm <= 1e-2 * float(a.norm_squared) ** 0.5).all()
    assert ScaledIdentity(torch.tensor(4.0)).norm((right[:1],)).item() == pytest.approx(2)
    assert ScaledIdentity(torch.tensor(4.0)).norm((0 * right[:1],)).item() == 0
