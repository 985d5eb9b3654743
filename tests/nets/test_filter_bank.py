"""Filter banks against PyTorch's own convolutions, and the bases of filters."""

import math

import pytest
import torch
import torch.nn.functional as F

from bmo_cli.nets.filter_bank import analyse, dct_filters, steerable_filters, synthesise


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (5, 6)])
@pytest.mark.parametrize("side", [3, 5])
def test_analysis_is_a_periodic_correlation_and_synthesis_its_adjoint(size, side):
    w, x, z = draw(4, 2, side, side), draw(2, 2, *size), draw(2, 4, *size, seed=1)
    p = side // 2
    expected = F.conv2d(F.pad(x, (p, p, p, p), mode="circular"), w)
    torch.testing.assert_close(analyse(x, w), expected)
    x.requires_grad_()
    (adjoint,) = torch.autograd.grad(F.conv2d(F.pad(x, (p, p, p, p), mode="circular"), w), x, z)
    torch.testing.assert_close(synthesise(z, w), adjoint)


def test_both_have_first_and_second_derivatives():
    w, x, z = draw(3, 1, 3, 3), draw(1, 1, 6, 5), draw(1, 3, 6, 5, seed=1)
    for function, image in ((analyse, x), (synthesise, z)):
        inputs = (image.requires_grad_(), w.requires_grad_())
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


def test_both_compute_in_the_precision_of_autocast():
    w, x = draw(3, 1, 3, 3).float().requires_grad_(), draw(1, 1, 8, 8).float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        image = synthesise(analyse(x, w), w)
    assert image.dtype is torch.bfloat16
    image.sum().backward()
    assert x.grad.dtype is w.grad.dtype is torch.float32


def test_dct_filters_are_orthonormal_and_have_zero_mean():
    for channels, size in ((1, 5), (3, 3)):
        filters = dct_filters(channels, size).double()
        assert len(filters) == channels * (size**2 - 1)
        flat = filters.flatten(1)
        torch.testing.assert_close(flat @ flat.mT, torch.eye(len(flat), dtype=torch.float64))
        assert filters.sum((2, 3)).abs().max() < 1e-6
    rough = [(f[0, 1:] - f[0, :-1]).square().sum() for f in dct_filters(1, 5)]
    assert rough[0] < rough[-1]  # low frequencies first


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [3, 5, 7])
def test_steerable_filters_are_a_basis_of_the_same_space(channels, size):
    filters = steerable_filters(channels, size).double().flatten(1)
    identity = torch.eye(len(filters), dtype=torch.float64)
    torch.testing.assert_close(filters @ filters.mT, identity, rtol=0, atol=1e-6)
    known = dct_filters(channels, size).double().flatten(1)
    torch.testing.assert_close(filters.mT @ filters, known.mT @ known, rtol=0, atol=1e-6)


def test_the_first_pair_measures_the_slope_in_every_direction():
    filters = steerable_filters(1, 3)[:, 0].double()
    grid = torch.arange(-1, 2, dtype=torch.float64)
    rows, columns = torch.meshgrid(grid, grid, indexing="ij")
    for angle in (0.3, 1.1):
        plane = math.cos(angle) * rows + math.sin(angle) * columns
        across, along = ((f * plane).sum().item() for f in filters[:2])
        turned = math.cos(angle) * along + math.sin(angle) * across
        assert abs(turned) == pytest.approx(math.sqrt(6))
        assert math.cos(angle) * across == pytest.approx(math.sin(angle) * along)
