"""Odd linear splines: values against numpy.interp, derivatives against finite differences."""

import numpy as np
import pytest
import torch

from bmo_cli.nets.spline import odd_spline


def drawn(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("n", "spacing"), [(1, 0.3), (2, 1.0), (7, 0.25)])
def test_values_are_those_of_an_interpolation(n, spacing):
    slopes, z = drawn(n), 3 * drawn(400, seed=1).reshape(2, 5, 40)
    last = np.full(200, slopes[-1].item())  # continues far beyond the last knot
    right = np.cumsum(np.concatenate([[0.0], np.concatenate([slopes.numpy(), last]) * spacing]))
    knots = spacing * np.arange(len(right))
    every_knot = np.concatenate([-knots[:0:-1], knots])
    values = np.concatenate([-right[:0:-1], right])
    assert every_knot[-1] > z.abs().max() > n * spacing
    expected = np.interp(z.numpy(), every_knot, values)
    np.testing.assert_allclose(odd_spline(z, slopes, spacing), expected, atol=1e-12)
    at_knots = odd_spline(torch.from_numpy(every_knot), slopes, spacing)
    np.testing.assert_allclose(at_knots, values, atol=1e-12)


def test_a_last_slope_of_0_is_a_clipping():
    z = 3 * drawn(50)
    spline = odd_spline(z, torch.tensor([1.0, 0.0], dtype=torch.float64), 0.7)
    torch.testing.assert_close(spline, z.clamp(-0.7, 0.7))


def test_derivatives_of_first_and_second_order():
    z = (2 * drawn(60)).requires_grad_()
    slopes = drawn(4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, d: odd_spline(a, d, 0.4), (z, slopes))
    assert torch.autograd.gradgradcheck(lambda a, d: odd_spline(a, d, 0.4), (z, slopes))


def test_an_entry_that_is_not_finite_stays_alone():
    z = torch.tensor([0.1, torch.nan, 1e38, -torch.inf, 0.5])
    spline = odd_spline(z, torch.tensor([1.0, 0.5]), 0.2)
    torch.testing.assert_close(spline[[0, 4]], torch.tensor([0.1, 0.35]))
    assert spline[1].isnan()
    assert spline[2] == pytest.approx(0.5e38)
    assert spline[3] == -torch.inf
