"""The gradient of Huber functions of responses, against the functions and their definition."""

import pytest
import torch
import torch.nn.functional as F

from bmo_cli.nets.huber import huber_gradient, rotate


def draw_inputs(size, *, steered, channels=1, side=3, filters=4, batch=2):
    """x, W, t and the angles, in float64; a fifth of the responses is beyond the levels or more."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, w = randn(batch, channels, *size), randn(filters, channels, side, side)
    angle = randn(batch, filters // 2, *size)
    return x, w, 2 * randn(batch, filters, *size).abs(), (angle if steered else None)


def as_rotation(angle):
    return None if angle is None else (angle.cos(), angle.sin())


def energy(x, w, t, angle):
    """sum_i h_i((Q W x)_i), Q by complex numbers and W by PyTorch's own convolution."""
    p = w.shape[-1] // 2
    z = F.conv2d(F.pad(x, (p, p, p, p), mode="circular"), w)
    if angle is not None:
        turned = torch.complex(z[:, 0::2], z[:, 1::2]) * torch.exp(-1j * angle)
        z = torch.stack([turned.real, turned.imag], 2).flatten(1, 2)
    share = (z.abs() > t).double().mean().item()
    return torch.where(z.abs() <= t, z.square() / 2, t * (z.abs() - t / 2)).sum(), share


@pytest.mark.parametrize("steered", [True, False])
@pytest.mark.parametrize("size", [(8, 8), (5, 7), (1, 6), (10, 3)])
def test_it_is_the_gradient_of_the_huber_energy(size, steered):
    x, w, t, angle = draw_inputs(size, steered=steered)
    x.requires_grad_()
    value, clipped = energy(x, w, t, angle)
    (expected,) = torch.autograd.grad(value, x)
    assert 0.2 < clipped < 0.8
    torch.testing.assert_close(huber_gradient(x, w, t, as_rotation(angle)), expected)


@pytest.mark.parametrize("side", [5, 7])
def test_wide_filters_and_colours(side):
    x, w, t, angle = draw_inputs((9, 6), steered=True, channels=3, side=side, filters=6)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(energy(x, w, t, angle)[0], x)
    torch.testing.assert_close(huber_gradient(x, w, t, as_rotation(angle)), expected)


@pytest.mark.parametrize("steered", [True, False])
@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 5, 6)])
def test_it_has_first_and_second_derivatives(shape, steered):
    x, w, t, angle = draw_inputs((5, 6), steered=steered, batch=1)
    inputs = [x, w, t.mean((0, 2, 3)).reshape(4, 1, 1) if shape[0] == 4 else t]
    if angle is not None:
        inputs += as_rotation(angle)
    inputs = [value.requires_grad_() for value in inputs]

    def apply(x, w, t, *rotation):
        return huber_gradient(x, w, t, rotation or None)

    assert torch.autograd.gradcheck(apply, inputs)
    assert torch.autograd.gradgradcheck(apply, inputs)


def test_second_derivatives_through_iterations_that_share_their_arguments():
    """x of the second iteration depends on W, t and the angles: no path is counted twice."""
    x, w, t, angle = draw_inputs((5, 6), steered=True, batch=1)
    leaves = [value.requires_grad_() for value in (w, t, angle)]

    def iterate(gradient):
        u = x
        for _ in range(3):
            u = u - 0.1 * gradient(u)
        return u.square().sum()

    def by_autograd(u):
        value, _ = energy(u, *leaves)
        return torch.autograd.grad(value, u, create_graph=True)[0]

    x.requires_grad_()
    ours = iterate(lambda u: huber_gradient(u, w, t, as_rotation(angle)))
    for mine, true in zip(
        torch.autograd.grad(ours, leaves, create_graph=True),
        torch.autograd.grad(iterate(by_autograd), leaves),
        strict=True,
    ):
        assert true.abs().max() > 0.01
        torch.testing.assert_close(mine, true)


@pytest.mark.parametrize("needed", range(5))
def test_a_derivative_in_one_argument_is_that_in_all(needed):
    x, w, t, angle = draw_inputs((5, 6), steered=True)
    inputs = [x, w, t, *as_rotation(angle)]

    def differentiate(chosen):
        leaves = [v.clone().requires_grad_(i in chosen) for i, v in enumerate(inputs)]
        value = huber_gradient(*leaves[:3], tuple(leaves[3:])).square().sum()
        return torch.autograd.grad(value, [leaves[i] for i in chosen])

    alone, together = differentiate([needed]), differentiate(range(5))
    assert alone[0].abs().max() > 0
    torch.testing.assert_close(alone[0], together[needed], rtol=0, atol=0)


def test_arguments_are_not_changed():
    x, w, t, angle = draw_inputs((5, 6), steered=True)
    inputs = [x, w, t, *as_rotation(angle)]
    before = [value.clone() for value in inputs]
    leaves = [value.requires_grad_() for value in inputs]
    huber_gradient(x, w, t, tuple(leaves[3:])).sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(before, inputs, strict=True))


def test_a_level_of_zero_lets_nothing_through():
    x, w, t, angle = draw_inputs((5, 6), steered=True)
    x.requires_grad_()
    value = huber_gradient(x, w, 0 * t, as_rotation(angle))
    assert not value.any()
    assert not torch.autograd.grad(value.sum(), x)[0].any()


def test_it_computes_in_the_precision_of_autocast():
    """bfloat16 has 8 bits: the result agrees to 2 %, and the arguments get their own precision."""
    x, w, t, angle = draw_inputs((8, 8), steered=True)
    inputs = [value.float().requires_grad_() for value in (x, w, t, *as_rotation(angle))]
    with torch.autocast("cpu", torch.bfloat16):
        value = huber_gradient(*inputs[:3], tuple(inputs[3:]))
    assert value.dtype is torch.bfloat16
    value.sum().backward()
    assert all(v.grad.dtype is torch.float32 for v in inputs)
    with torch.autocast("cpu", torch.bfloat16):
        again = huber_gradient(*inputs[:3], tuple(inputs[3:])).square().sum()
    (first,) = torch.autograd.grad(again, inputs[0], create_graph=True)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(first.sum(), inputs))
    exact = huber_gradient(x, w, t, as_rotation(angle))
    assert 0 < (value.double() - exact).norm() < 0.02 * exact.norm()


def test_a_rotation_turns_pairs_and_differentiates():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 4, 3, 5, generator=generator, dtype=torch.float64)
    angle = torch.rand(2, 2, 3, 5, generator=generator, dtype=torch.float64)
    turned = torch.polar(torch.ones_like(angle), -angle) * torch.complex(z[:, 0::2], z[:, 1::2])
    rotated = rotate(z, angle.cos(), angle.sin())
    torch.testing.assert_close(rotated[:, 0::2], turned.real)
    torch.testing.assert_close(rotated[:, 1::2], turned.imag)
    inputs = [t.requires_grad_() for t in (z, angle.cos(), angle.sin())]
    assert torch.autograd.gradcheck(rotate, inputs)
