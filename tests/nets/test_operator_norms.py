"""Operator norms of convolutions against the singular values of dense matrices."""

import math

import pytest
import torch
import torch.nn.functional as F

from bmo_cli.nets.operator_norms import norm_squared_bound, periodic_norm, zero_padded_norm

SHAPES = [(1, 1, 3, 3), (4, 1, 3, 3), (3, 2, 5, 5), (2, 3, 3, 5)]
SIZES = [(6, 9), (8, 5), (7, 7)]


def weights(shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def dense_norm(convolve, channels, size):
    """Largest singular value of the matrix whose columns are the responses to unit images."""
    n = channels * size[0] * size[1]
    columns = convolve(torch.eye(n, dtype=torch.float64).reshape(n, channels, *size))
    return torch.linalg.matrix_norm(columns.reshape(n, -1), 2).item()


def zero_padded(w):
    return lambda x: F.conv2d(x, w, padding=[k // 2 for k in w.shape[2:]])


def periodic(w):
    """sum over taps of shifted images, for filters of any size, larger than the image too."""

    def convolve(x):
        shifted = [
            torch.einsum("oi,bihw->bohw", w[:, :, r, c], x.roll((-r, -c), (2, 3)))
            for r in range(w.shape[2])
            for c in range(w.shape[3])
        ]
        return torch.stack(shifted).sum(0)

    return convolve


@pytest.mark.parametrize("size", [*SIZES, (2, 4), (1, 1)])
@pytest.mark.parametrize("shape", SHAPES)
def test_periodic_norm_is_that_of_the_dense_matrix(shape, size):
    w = weights(shape)
    exact = dense_norm(periodic(w), shape[1], size)
    assert periodic_norm(w, size).item() == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("size", [*SIZES, (2, 4), (1, 1)])
@pytest.mark.parametrize("shape", SHAPES)
def test_zero_padded_norm_is_that_of_the_dense_matrix(shape, size):
    w = weights(shape)
    exact = dense_norm(zero_padded(w), shape[1], size)
    found = zero_padded_norm(w, size, iterations=2000).item()
    assert found == pytest.approx(exact, rel=1e-6)
    assert found <= exact * (1 + 1e-12)
    short = zero_padded_norm(w, size, iterations=1).item()
    assert short <= found * (1 + 1e-12)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[2] == shape[3]])
def test_the_bound_for_all_sizes_is_above_both(shape, size):
    w = weights(shape)
    bound = norm_squared_bound(w).sqrt().item() * (1 + 1e-12)
    assert periodic_norm(w, size).item() <= bound
    assert zero_padded_norm(w, size).item() <= bound
    assert periodic_norm(w, (64, 63)).item() > 0.98 * bound


def reshaped_norm(w):
    return torch.linalg.matrix_norm(w.flatten(1), 2).item()


def test_the_reshaped_weight_has_another_norm_smaller_and_larger():
    w = torch.ones(1, 1, 3, 3, dtype=torch.float64)
    assert reshaped_norm(w) == pytest.approx(3)
    assert periodic_norm(w, (8, 9)).item() == pytest.approx(9)
    assert norm_squared_bound(w).item() >= 81
    # A column of n pixels sees the tridiagonal matrix of ones: 1 + 2 cos(pi / (n + 1)).
    for n in (4, 20):
        exact = 1 + 2 * math.cos(math.pi / (n + 1))
        found = zero_padded_norm(w, (n, 1), iterations=2000).item()
        assert found == pytest.approx(exact, rel=1e-6)
        assert found < reshaped_norm(w)
    assert zero_padded_norm(w, (9, 9)).item() > 2 * reshaped_norm(w)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_reshaped_weight_never_exceeds_a_periodic_convolution(shape):
    """By Parseval; it is at most sqrt(k l) times too small."""
    w = weights(shape)
    norm, reshaped = periodic_norm(w, (8, 11)).item(), reshaped_norm(w)
    assert reshaped <= norm <= reshaped * (shape[2] * shape[3]) ** 0.5


@pytest.mark.slow
def test_norms_are_differentiable():
    w = weights((2, 2, 3, 3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: periodic_norm(w, (5, 6)), (w,))
    assert torch.autograd.gradcheck(lambda w: zero_padded_norm(w, (5, 6), iterations=300), (w,))


def test_zero_padded_norm_of_nothing_and_of_even_filters():
    assert zero_padded_norm(torch.zeros(1, 1, 3, 3), (4, 4)).item() == 0
    with pytest.raises(ValueError, match=r"filters must be odd, got \(2, 2\)"):
        zero_padded_norm(torch.ones(1, 1, 2, 2), (4, 4))
