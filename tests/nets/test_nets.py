"""Networks: shapes, and for the nonexpansive ones the bound on random and worst-case pairs."""

import copy

import numpy as np
import pytest
import torch

from bmo_cli.errors import InputError
from bmo_cli.nets.convex_potential import ConvexPotential
from bmo_cli.nets.dncnn import DnCNN
from bmo_cli.nets.drunet import DRUNet
from bmo_cli.nets.filter_bank import analyse
from bmo_cli.nets.gradient_step import GradientStep
from bmo_cli.nets.guided import GuidedPotential
from bmo_cli.nets.ista_net import ISTANet
from bmo_cli.nets.network import Identity
from bmo_cli.nets.normalized_conv import NormalizedConv
from bmo_cli.nets.operator_norms import norm_squared_bound
from bmo_cli.nets.ridge import ConvexRidge, WeaklyConvexRidge
from bmo_cli.solver.fixed_point import FixedPointMap
from bmo_cli.solver.metric import ScaledIdentity
from bmo_cli.solver.nonexpansive import worst_pair

NETS = [
    DnCNN(),
    DnCNN(channels=3, depth=3, width=4, padding="circular"),
    ConvexPotential(width=6),
    ConvexPotential(channels=3, depth=2, width=5, size=3, clips=2),
    ConvexPotential(depth=2, width=30, size=5, initial="random"),
    GuidedPotential(widths=(4, 5, 6)),
    GuidedPotential(channels=3, size=5, widths=(3, 3, 3), blocks=2, views=2),
    GuidedPotential(steer=False, widths=(4, 4, 4)),
    GuidedPotential(channels=3, steer=False, centre=True, threshold=0.1, widths=(4, 4, 4)),
    GuidedPotential(size=1, steer=False, centre=True, threshold=0.1, widths=(4, 4, 4)),
    ConvexRidge(width=6, size=3),
    ConvexRidge(channels=3, width=30, size=5, knots=3),
    WeaklyConvexRidge(width=6, size=3),
    WeaklyConvexRidge(channels=3, width=5, size=5, reach=2.0),
    NormalizedConv(width=4),
    NormalizedConv(channels=3, depth=2, width=5, theta=0.9),
    GradientStep(width=4),
    GradientStep(channels=3, depth=2, width=4),
    DRUNet(widths=(4, 5, 6, 7), blocks=1),
    DRUNet(channels=3, widths=(3, 3, 3, 3), blocks=2),
    ISTANet(width=4),
    ISTANet(channels=3, width=4, residual=False),
    Identity(channels=3),
]


def guide_for(net, size, batch=2, dtype=torch.float32):
    """A guide where the network looks at one."""
    if not net.guided:
        return None
    generator = torch.Generator().manual_seed(7)
    return torch.rand(batch, net.views * net.channels, *size, generator=generator, dtype=dtype)


@pytest.mark.parametrize("net", NETS, ids=lambda n: type(n).__name__)
@pytest.mark.parametrize("size", [(16, 16), (17, 23)])
def test_contract(net, size):
    """Every network maps images to images, is deterministic, and differentiable."""
    x = torch.rand(2, net.channels, *size, generator=torch.Generator().manual_seed(0))
    guide = guide_for(net, size)
    y = net.bind(guide)(x)
    assert y.shape == x.shape
    torch.testing.assert_close(net.bind(guide)(x), y)
    with torch.no_grad():
        torch.testing.assert_close(net.bind(guide)(x), y)
    net.zero_grad()
    if y.requires_grad:
        y.sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.project_()
    torch.testing.assert_close(net.bind(guide)(x), y)
    assert net.guarantee and all(hasattr(net, name) for name in net.numerical)


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS, ids=lambda n: type(n).__name__)
@pytest.mark.parametrize("trained", [False, True], ids=["initial", "trained"])
def test_what_a_network_guarantees_holds(net, trained):
    """A bound is above every measured ratio, and at most 1 where the network says nonexpansive."""
    net = copy.deepcopy(net).double()
    net = train_briefly(net) if trained and any(True for _ in net.parameters()) else net
    bound = net.bound()
    ratio = largest_ratio(net, steps=60)
    if net.nonexpansive:
        assert bound is not None and bound.value <= 1 + 1e-6
        assert ratio <= 1 + 1e-6
    if bound is not None:
        assert ratio <= bound.value * (1 + 1e-6)
        assert all(layer.value > 0 and layer.how for layer in bound.layers)
    if net.averaged:
        assert averaging(net) < 1


def averaging(net, size=(12, 13)):
    """The least theta for which random and adversarial pairs allow a theta-averaged map."""
    identity = ScaledIdentity(torch.ones((), dtype=torch.float64))
    guide = guide_for(net, size, 1, torch.float64)
    apply = net.bind(guide)
    mapping = FixedPointMap(lambda u, k: (apply(u[0]),), identity)
    generator = torch.Generator().manual_seed(3)
    a = torch.rand(1, net.channels, *size, generator=generator, dtype=torch.float64)
    return worst_pair(mapping, (a,), turns=10, radius=0.1).averaging


def test_initial_weights_come_from_the_seed_alone():
    torch.manual_seed(1)
    a = DnCNN(seed=3).state_dict()
    torch.manual_seed(2)
    b, c = DnCNN(seed=3).state_dict(), DnCNN(seed=4).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["convs.0.weight"], c["convs.0.weight"])


@pytest.mark.slow
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
    return matrix(lambda x: analyse(x, w), w.shape[1], size)


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


def largest_ratio(net, size=(24, 20), steps=200):
    """|R(a) - R(b)| / |a - b| over random pairs and pairs found by power iteration on J^T J."""
    generator = torch.Generator().manual_seed(0)
    apply, best = net.bind(guide_for(net, size, 1, torch.float64)), 0.0
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
        guide = guide_for(net, (16, 16), 2, torch.float64)
        (net.bind(guide)(x + 0.3 * noise) - x).square().sum().backward()
        optimizer.step()
        net.project_()
    return net


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_lip_is_nonexpansive_after_training(channels):
    net = ConvexPotential(channels=channels, depth=3, width=6, size=5).double()
    before = [p.detach().clone() for p in net.parameters()]
    train_briefly(net)
    assert any((p - q).abs().max() > 0.1 for p, q in zip(net.parameters(), before, strict=True))
    assert 0.9 < largest_ratio(net) <= 1 + 1e-5


@pytest.mark.slow
def test_the_ratio_test_can_fail():
    net = train_briefly(ConvexPotential(depth=1, width=6, size=5).double())
    apply = net.bind()
    net.bind = lambda guide=None: lambda x: 1.01 * apply(x)
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
        ConvexPotential(size=7)(torch.zeros(1, 1, 2, 30))


def test_a_convex_potential_is_a_gradient_step_on_a_mixture_of_huber_norms():
    """x - rho grad h(Wx) with h'(z) = sum_j a_j clip(z, t_j), by autograd on h itself."""
    net = ConvexPotential(width=5, size=3, clips=2, threshold=0.05).double()
    net.mixture.data.normal_(generator=torch.Generator().manual_seed(0))
    unit, levels, shares = net._units()[0], net.log_levels.exp()[0], net.mixture.softmax(-1)[0]

    def potential(x):
        z = analyse(x, unit)[:, :, None]
        t, a = levels[:, :, None, None], shares[:, :, None, None]
        huber = torch.where(z.abs() <= t, z.square() / 2, t * (z.abs() - t / 2))
        return (a * huber).sum()

    x = torch.rand(1, 1, 9, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(potential(x), x)
    torch.testing.assert_close(net(x), x - gradient)  # rho starts at 1


def loud(net):
    """The network with a guide that changes levels and angles."""
    generator = torch.Generator().manual_seed(2)
    torch.nn.init.normal_(net.guide.tail.weight, generator=generator)
    return net


@pytest.mark.parametrize("steer", [True, False])
def test_a_guide_changes_the_step_and_one_that_is_silent_does_not(steer):
    net = GuidedPotential(steer=steer, widths=(4, 4, 4)).double()
    torch.nn.init.zeros_(net.guide.tail.weight)
    plain = ConvexPotential(width=8, size=3).double()
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if k in plain.state_dict()})
    x = torch.rand(2, 1, 11, 13, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    guide = guide_for(net, (11, 13), 2, torch.float64)
    torch.testing.assert_close(net.bind(guide)(x), plain(x), rtol=0, atol=1e-7)
    assert (loud(net).bind(guide)(x) - plain(x)).abs().max() > 1e-4
    with pytest.raises(InputError, match=r"has 3 channels, but net\.views=7"):
        net.bind(guide[:, :3])
    with pytest.raises(InputError, match="needs a guide"):
        net.bind()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_guided_network_is_a_gradient_step_on_a_convex_function(channels):
    """Its Jacobian is symmetric with eigenvalues in (-1, 1], whatever the guide says."""
    net = loud(GuidedPotential(channels=channels, threshold=0.05, widths=(4, 4, 4)).double())
    size = (6, 7)
    apply = net.bind(guide_for(net, size, 1, torch.float64))
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(1, channels, *size, generator=generator, dtype=torch.float64)
    n = x.numel()
    jacobian = torch.autograd.functional.jacobian(apply, x).reshape(n, n)
    torch.testing.assert_close(jacobian, jacobian.mT, rtol=0, atol=1e-12)
    values = torch.linalg.eigvalsh(jacobian)
    assert -1 < values.min() < 0.9 < values.max() <= 1 + 1e-12


@pytest.mark.parametrize(("channels", "size"), [(1, 1), (3, 3)])
def test_a_predicted_centre_draws_images_to_it_as_far_as_the_level_allows(channels, size):
    def step(threshold, x, guide):
        net = GuidedPotential(
            **{"channels": channels, "size": size, "threshold": threshold, "seed": 1},
            **{"steer": False, "centre": True, "widths": (4, 4, 4)},
        ).double()
        return net.bind(guide)(x)

    shape, double = (2, channels, 10, 12), torch.float64
    generator = torch.Generator().manual_seed(1)
    x, other = (torch.rand(shape, generator=generator, dtype=double) for _ in range(2))
    guide = torch.rand(2, 7 * channels, 10, 12, generator=generator, dtype=double)
    prediction = step(1e6, x, guide)  # rho starts at 1, and all responses of a DCT determine x
    torch.testing.assert_close(prediction, step(1e6, other, guide), rtol=0, atol=5e-3)
    assert (prediction - x).abs().mean() > 0.1
    far = step(1e-9, x, guide)  # beyond its level, a response goes half of its distance
    torch.testing.assert_close(far, x + (prediction - x) / 2, rtol=0, atol=5e-3)
    moved = step(0.05, x, guide)
    assert (moved - prediction).norm() < (x - prediction).norm()
    assert (moved - x).mean((2, 3)).abs().max() > 1e-3  # filters of zero mean would keep the mean


def test_a_guided_network_refuses_what_it_cannot_do():
    with pytest.raises(InputError, match=r"net\.centre=true .* set net\.steer=false"):
        GuidedPotential(centre=True)
    with pytest.raises(InputError, match=r"net\.size=1 .* set net\.centre=true"):
        GuidedPotential(size=1, steer=False)


def test_gradient_step_has_a_symmetric_jacobian_and_dncnn_has_not():
    net = GradientStep(depth=3, width=4, last_gain=1.0).double()
    x = torch.rand(1, 1, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for network, symmetric in ((net, True), (DnCNN(depth=3, width=4, last_gain=1.0), False)):
        jacobian = torch.autograd.functional.jacobian(network.double(), x).reshape(30, 30)
        gap = (jacobian - jacobian.mT).abs().max()
        assert gap < 1e-12 if symmetric else gap > 1e-3


def test_normalized_conv_mixes_the_identity_with_a_chain():
    net = NormalizedConv(depth=3, width=4, theta=0.3).double()
    x = torch.rand(1, 1, 7, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z = x
    for i, (unit, bias) in enumerate(zip(net._units(), net.biases, strict=True)):
        z = torch.conv2d(z, unit, bias, padding=1)
        z = z.relu() if i < 2 else z
    torch.testing.assert_close(net(x), 0.7 * x + 0.3 * z, rtol=1e-6, atol=1e-6)
