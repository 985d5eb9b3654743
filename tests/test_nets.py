"""Networks: shapes, and for the nonexpansive ones the bound on random and worst-case pairs."""

import numpy as np
import pytest
import torch

from bmo_cli.errors import InputError
from bmo_cli.nets.conv_norm import norm_squared_bound
from bmo_cli.nets.dncnn import DnCNN
from bmo_cli.nets.drunet import DRUNet
from bmo_cli.nets.ista_net import ISTANet
from bmo_cli.nets.lip import ConvexPotential, _analyse, _synthesise
from bmo_cli.nets.network import Identity

NETS = [
    DnCNN(),
    DnCNN(channels=3, depth=3, width=4, padding="circular"),
    ConvexPotential(),
    ConvexPotential(channels=3, depth=2, width=5, size=3),
    DRUNet(widths=(4, 5, 6, 7), blocks=1),
    DRUNet(channels=3, widths=(3, 3, 3, 3), blocks=2),
    ISTANet(width=4),
    ISTANet(channels=3, width=4, residual=False),
    Identity(channels=3),
]


@pytest.mark.parametrize("net", NETS, ids=lambda n: type(n).__name__)
@pytest.mark.parametrize("size", [(16, 16), (17, 23)])
def test_contract(net, size):
    """Every network maps images to images, is deterministic, bound or not, and differentiable."""
    x = torch.rand(2, net.channels, *size, generator=torch.Generator().manual_seed(0))
    y = net(x)
    assert y.shape == x.shape
    torch.testing.assert_close(net.bind()(x), y)
    if y.requires_grad:
        y.sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.project_()
    torch.testing.assert_close(net(x), y)


def test_initial_weights_come_from_the_seed_alone():
    torch.manual_seed(1)
    a = DnCNN(seed=3).state_dict()
    torch.manual_seed(2)
    b, c = DnCNN(seed=3).state_dict(), DnCNN(seed=4).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["convs.0.weight"], c["convs.0.weight"])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (9, 13), (33, 20)])
def test_norm_bound_holds_for_every_size_and_is_tight(channels, size):
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(4, channels, 3, 3, generator=generator, dtype=torch.float64)
    dense = periodic_matrix(w, size)
    exact = np.linalg.norm(dense, 2) ** 2
    bound = norm_squared_bound(w).item()
    assert exact <= bound * (1 + 1e-12)
    zero_padded = np.linalg.norm(matrix(lambda x: torch.conv2d(x, w, padding=1), channels, size), 2)
    assert zero_padded**2 <= bound * (1 + 1e-12)
    fine = norm_squared_bound(w, grid=1024).item()
    assert bound == pytest.approx(fine, rel=5e-3)
    if size[0] * size[1] > 500:
        assert exact > 0.95 * bound


def periodic_matrix(w, size):
    return matrix(lambda x: _analyse(x, w), w.shape[1], size)


def matrix(function, channels, size):
    n = channels * size[0] * size[1]
    basis = torch.eye(n, dtype=torch.float64).reshape(n, channels, *size)
    return function(basis).reshape(n, -1).T.numpy()


def test_norm_is_not_that_of_the_reshaped_weight():
    w = torch.ones(1, 1, 3, 3, dtype=torch.float64)
    assert norm_squared_bound(w).item() == pytest.approx(81, rel=6e-3)  # sum of the filter, squared
    assert torch.linalg.matrix_norm(w.reshape(1, -1), 2).item() ** 2 == pytest.approx(9)
    with pytest.raises(ValueError, match="larger than 2"):
        norm_squared_bound(w, grid=4)


def test_norm_bound_is_differentiable():
    w = torch.randn(3, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradcheck(norm_squared_bound, (w.requires_grad_(),))


@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_synthesis_is_the_adjoint_of_analysis(size):
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(4, 2, 5, 5, generator=generator, dtype=torch.float64)
    x = torch.randn(1, 2, *size, generator=generator, dtype=torch.float64)
    z = torch.randn(1, 4, *size, generator=generator, dtype=torch.float64)
    left, right = (_analyse(x, w) * z).sum(), (x * _synthesise(z, w)).sum()
    assert left.item() == pytest.approx(right.item(), rel=1e-12)


def largest_ratio(net, size=(24, 20), steps=200):
    """|R(a) - R(b)| / |a - b| over random pairs and pairs found by power iteration on J^T J."""
    generator = torch.Generator().manual_seed(0)
    apply, best = net.bind(), 0.0
    for scale in (1.0, 0.05):
        a = torch.rand(1, net.channels, *size, generator=generator, dtype=torch.float64) * scale
        v = torch.randn(a.shape, generator=generator, dtype=torch.float64)
        for i in range(steps):
            _, jv = torch.autograd.functional.jvp(apply, a, v)
            _, w = torch.autograd.functional.vjp(apply, a, jv)
            v = w / w.norm().clamp_min(1e-300)
            for length in (1e-3, 0.1, 3.0) if i % 20 == 0 else ():
                b = a + length * v
                best = max(best, ((apply(a) - apply(b)).norm() / (a - b).norm()).item())
    return best


def train_briefly(net):
    """Steps large enough to push every constraint."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(0)
    for _ in range(25):
        x = torch.rand(2, net.channels, 16, 16, generator=generator, dtype=torch.float64)
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        (net(x + 0.3 * noise) - x).square().sum().backward()
        optimizer.step()
        net.project_()
    return net


@pytest.mark.parametrize("channels", [1, 3])
def test_lip_is_nonexpansive_after_training(channels):
    net = ConvexPotential(channels=channels, depth=3, width=6, size=5).double()
    before = [p.detach().clone() for p in net.parameters()]
    train_briefly(net)
    assert any((p - q).abs().max() > 0.1 for p, q in zip(net.parameters(), before, strict=True))
    assert 0.9 < largest_ratio(net) <= 1 + 1e-5


def test_the_ratio_test_can_fail():
    net = train_briefly(ConvexPotential(depth=1, width=6, size=5).double())
    apply = net.bind()
    net.bind = lambda: lambda x: 1.01 * apply(x)
    assert largest_ratio(net) > 1 + 1e-5
    assert largest_ratio(DnCNN(depth=3, width=6, last_gain=1.0).double()) > 1 + 1e-5


def test_constant_images_are_fixed_points_of_lip():
    net = ConvexPotential(depth=3, width=6, size=5)
    x = torch.full((1, 1, 12, 12), 0.37)
    torch.testing.assert_close(net(x), x)


def test_lip_needs_filters_with_a_centre():
    with pytest.raises(InputError, match="size must be one of 3, 5, 7, 9, 11, 13, 15, got 4"):
        ConvexPotential(size=4)
    with pytest.raises(InputError, match="too small for filters of 7 x 7"):
        ConvexPotential()(torch.zeros(1, 1, 2, 30))
