import numpy as np
import pytest
import scipy.ndimage
import torch

from bmo_cli.linear.blur import PeriodicBlur, centred, transfer_function


def kernels(rng, *sizes):
    return [torch.tensor(rng.random(size)) for size in sizes]


def blur(image, kernels):
    size = image.shape[-2:]
    return PeriodicBlur(transfer_function(kernels, size), size)(image)


def make(rng, size, shape=(5, 7), batch=2):
    k = torch.tensor(rng.random((batch, *shape)))
    return k, PeriodicBlur(transfer_function(k, size), size)


@pytest.mark.parametrize("size", [(16, 12), (15, 13), (16, 13)])
def test_equals_scipy_convolution(rng, size):
    image = torch.tensor(rng.random((2, 3, *size)))
    k, a = make(rng, size)
    for b in range(2):
        for c in range(3):
            expected = scipy.ndimage.convolve(image[b, c].numpy(), k[b].numpy(), mode="wrap")
            np.testing.assert_allclose(a(image)[b, c].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("size", [(16, 12), (15, 13)])
def test_adjoint(rng, size):
    _, a = make(rng, size)
    u, v = (torch.tensor(rng.random((2, 1, *size))) for _ in range(2))
    assert (a(u) * v).sum().item() == pytest.approx((u * a.adjoint(v)).sum().item(), rel=1e-12)
    torch.testing.assert_close(a.normal(u), a.adjoint(a(u)))


def test_shifted_inverse_solves_the_dense_system(rng):
    size = (6, 5)
    _, a = make(rng, size, shape=(3, 3), batch=1)
    identity = torch.eye(30, dtype=torch.float64).reshape(30, 1, *size)
    dense = a(identity).reshape(30, 30).T
    v = torch.tensor(rng.random((1, 1, *size)))
    gamma = torch.tensor(2.5, dtype=torch.float64)
    system = torch.eye(30, dtype=torch.float64) + gamma * dense.T @ dense
    expected = torch.linalg.solve(system, v.flatten())
    torch.testing.assert_close(a.shifted_inverse(gamma)(v).flatten(), expected)
    largest = torch.linalg.eigvalsh(dense.T @ dense)[-1].item()
    assert a.norm_squared == pytest.approx(largest, rel=1e-10)


def test_kernels_of_several_sizes_keep_their_centres(rng):
    several = [k.float() for k in kernels(rng, (3, 3), (5, 7), (4, 6), (1, 1))]
    image = torch.tensor(rng.random((1, 1, 16, 16)), dtype=torch.float32)
    together = blur(image.expand(4, -1, -1, -1), centred(several))
    for row, kernel in zip(together, several, strict=True):
        torch.testing.assert_close(row[None], blur(image, kernel[None]))
