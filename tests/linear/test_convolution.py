"""Thin convolutions and the Fourier multiplier against torch's own, up to second derivatives."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bmo_cli.linear.fourier import multiply_spectrum
from bmo_cli.nets.convolution import bound_convolution
from bmo_cli.nets.dncnn import DnCNN


def derivatives(out, inputs, seed=0):
    """The output's pull-back of a fixed cotangent, and the derivative of its squares."""
    generator = torch.Generator().manual_seed(seed)
    cotangent = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    first = torch.autograd.grad(out, inputs, cotangent, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs, allow_unused=True)
    return [*first, *(g for g in second if g is not None)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("few, many, k", [(1, 16, 3), (3, 12, 5), (4, 20, 1), (2, 33, 7)])
@pytest.mark.parametrize("spreads", [True, False])
def test_thin_convolutions(spreads, few, many, k, bias):
    torch.manual_seed(0)
    channels = (few, many) if spreads else (many, few)
    layer = nn.Conv2d(*channels, k, padding=k // 2, bias=bias).double()
    x = torch.randn(2, channels[0], 9, 8, dtype=torch.float64, requires_grad=True)
    bound = bound_convolution(layer)
    assert bound is not layer  # it does take the other way
    inputs = (x, *layer.parameters())
    torch.testing.assert_close(bound(x), layer(x), rtol=1e-12, atol=1e-12)
    found, expected = derivatives(bound(x), inputs), derivatives(layer(x), inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(1, 16, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(1, 16, 3),
        nn.Conv2d(1, 16, 3, padding=1, stride=2),
        nn.Conv2d(1, 16, 3, padding=2, dilation=2),
        nn.Conv2d(1, 16, 4, padding=2),
        nn.Conv2d(1, 16, (3, 5), padding=(1, 2)),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.Conv2d(2, 16, 3, padding=1, groups=2),
    ],
)
def test_other_layers_are_left_alone(layer):
    assert bound_convolution(layer) is layer


def test_a_network_with_them_is_the_network():
    net = DnCNN(depth=4, width=16).double()
    x = torch.rand(2, 1, 7, 10, dtype=torch.float64, requires_grad=True)
    z = x
    for conv in net.layers[:-1]:
        z = F.relu(conv(z))
    plain = x - net.layers[-1](z)
    inputs = (x, *net.parameters())
    for a, b in zip(derivatives(net(x), inputs), derivatives(plain, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("few, many", [(1, 16), (16, 1)])
def test_lowered_products_keep_eight_bits(few, many):
    torch.manual_seed(0)
    layer = nn.Conv2d(few, many, 3, padding=1)
    x = torch.randn(2, few, 12, 12, requires_grad=True)
    target = torch.randn(2, many, 12, 12)
    exact = torch.autograd.grad((layer(x) * target).sum(), (x, *layer.parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        out = bound_convolution(layer)(x)
    found = torch.autograd.grad((out.float() * target).sum(), (x, *layer.parameters()))
    for a, b in zip(found[:2], exact[:2], strict=True):
        assert a.dtype is torch.float32
        assert 1e-4 < (a - b).norm() / b.norm() < 0.02
    torch.testing.assert_close(found[2], exact[2], rtol=0.02, atol=0.1)


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (8, 5), (2, 2)])
@pytest.mark.parametrize("shared", [True, False])
def test_fourier_multiplier(size, shared):
    torch.manual_seed(0)
    u = torch.randn(3, 2, *size, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(1 if shared else 3, 1, *size, dtype=torch.float64)
    power = torch.fft.rfft2(kernel).abs().square().requires_grad_()
    plain = torch.fft.irfft2(torch.fft.rfft2(u) * power, s=size)
    torch.testing.assert_close(multiply_spectrum(u, power), plain)
    found, expected = (derivatives(out, (u, power)) for out in (multiply_spectrum(u, power), plain))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert torch.autograd.gradcheck(multiply_spectrum, (u, power.detach()))
