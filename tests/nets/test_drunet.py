"""DRUNet and ISTA-Net against a second implementation written with functions alone."""

import math

import pytest
import torch
import torch.nn.functional as F

from bmo_cli.errors import InputError
from bmo_cli.nets.drunet import DRUNet
from bmo_cli.nets.ista_net import ISTANet

SMALL = {"widths": (3, 4, 5, 6), "blocks": 2}


def image(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def loud(net):
    """In double precision with weights that reach every branch."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in net.double().named_parameters():
        if parameter.dim() == 4:
            scale = 0.5 / math.sqrt(parameter[0].numel())
            parameter.data.normal_(0, scale, generator=generator)
        assert parameter.dim() in (0, 4), name
    return net


def functional_drunet(tensors, x, sigma, blocks):
    """UNetRes of DPIR, read from its description, on sizes that are multiples of 8."""

    def residuals(prefix, z, first=0):
        for i in range(first, first + blocks):
            inner = F.relu(F.conv2d(z, tensors[f"{prefix}.{i}.res.0.weight"], padding=1))
            z = z + F.conv2d(inner, tensors[f"{prefix}.{i}.res.2.weight"], padding=1)
        return z

    level = torch.full_like(x[:, :1], sigma / 255)
    x1 = F.conv2d(torch.cat((x, level), 1), tensors["m_head.weight"], padding=1)
    x2 = F.conv2d(residuals("m_down1", x1), tensors[f"m_down1.{blocks}.weight"], stride=2)
    x3 = F.conv2d(residuals("m_down2", x2), tensors[f"m_down2.{blocks}.weight"], stride=2)
    x4 = F.conv2d(residuals("m_down3", x3), tensors[f"m_down3.{blocks}.weight"], stride=2)
    z = residuals("m_body", x4)
    for name, skip in (("m_up3", x4), ("m_up2", x3), ("m_up1", x2)):
        z = F.conv_transpose2d(z + skip, tensors[f"{name}.0.weight"], stride=2)
        z = residuals(name, z, first=1)
    return F.conv2d(z + x1, tensors["m_tail.weight"], padding=1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (16, 24), (17, 23), (5, 3), (1, 1)])
def test_drunet_is_the_described_network(channels, size):
    """Other sizes: the last row and column repeated up to multiples of 8, the result cropped."""
    net = loud(DRUNet(channels=channels, sigma=30.0, **SMALL))
    x = image(2, channels, *size)
    rows, columns = (torch.arange(-(-n // 8) * 8).clamp_max(n - 1) for n in size)
    padded = x[:, :, rows][:, :, :, columns]
    expected = functional_drunet(net.state_dict(), padded, 30.0, 2)[..., : size[0], : size[1]]
    torch.testing.assert_close(net(x), expected, rtol=1e-6, atol=1e-7)  # log sigma is of 32 bit
    assert expected.std() > 1e-3


def test_names_are_those_of_the_published_files():
    """Those of DPIR's drunet_gray.pth, as its source file builds them, and log_sigma."""
    inner = [f"{i}.res.{j}.weight" for i in range(5) for j in (0, 2)]
    names = {"m_head.weight", "m_tail.weight", "log_sigma"}
    names |= {f"m_down{s}.{name}" for s in (1, 2, 3) for name in [*inner[:8], "4.weight"]}
    names |= {f"m_up{s}.{name}" for s in (1, 2, 3) for name in ["0.weight", *inner[2:]]}
    names |= {f"m_body.{name}" for name in inner[:8]}
    net = DRUNet(widths=(1, 1, 1, 1))
    assert set(net.state_dict()) == names


def drunet_count(channels, widths, blocks):
    *fine, coarsest = widths
    residuals = 2 * blocks * 9 * (2 * sum(n * n for n in fine) + coarsest**2)
    between = 2 * 4 * sum(a * b for a, b in zip(fine, widths[1:], strict=True))
    ends = 9 * widths[0] * (channels + 1 + channels)
    return residuals + between + ends


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channels", "count"), [(1, 32_638_656), (3, 32_640_960)]
)  # the published gray and colour models
def test_size_of_the_published_models(channels, count):
    net = DRUNet(channels=channels)
    assert drunet_count(channels, (64, 128, 256, 512), 4) == count
    assert sum(p.numel() for p in net.parameters()) == count + 1  # log_sigma
    small = DRUNet(channels=channels, **SMALL)
    found = sum(p.numel() for p in small.parameters())
    assert found == drunet_count(channels, **SMALL) + 1


def test_the_noise_level_is_used_and_learned():
    x = image(1, 1, 16, 16)
    a, b = loud(DRUNet(sigma=5.0, **SMALL)), loud(DRUNet(sigma=50.0, **SMALL))
    assert (a(x) - b(x)).abs().max() > 1e-3
    b.log_sigma.data.fill_(math.log(5.0))
    torch.testing.assert_close(a(x), b(x), rtol=1e-6, atol=1e-7)

    def loss(log_sigma):
        return torch.func.functional_call(b, {"log_sigma": log_sigma}, x).square().sum()

    log_sigma = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (log_sigma,))
    b(x).square().sum().backward()
    assert b.log_sigma.grad.abs() > 1e-6
    assert not DRUNet(learn_sigma=False, **SMALL).log_sigma.requires_grad


@pytest.mark.slow
def test_initial_drunet_is_bounded_and_comes_from_the_seed():
    torch.manual_seed(1)
    a = DRUNet(seed=3)
    torch.manual_seed(2)
    b, c = DRUNet(seed=3), DRUNet(seed=4)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.m_head.weight, c.m_head.weight)
    with torch.no_grad():
        y = a(image(1, 1, 32, 32).float())
    assert 1e-4 < y.abs().max() < 0.5


@pytest.mark.parametrize("widths", [[4, 4, 4], [4, 4, 4, 0], 4])
def test_drunet_needs_four_widths(widths):
    with pytest.raises(InputError, match="widths"):
        DRUNet(widths=widths)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_ista_net_is_the_described_map(channels, residual):
    net = loud(ISTANet(channels=channels, width=5, theta=0.05, residual=residual))
    x = image(2, channels, 9, 12) - 0.5
    a, b, c, d = net.a, net.b, net.c, net.d
    z = F.conv2d(F.relu(F.conv2d(x, a, padding=1)), b, padding=1)
    theta = net.theta.item()
    shrunk = torch.sign(z) * torch.clamp(z.abs() - theta, min=0)
    assert 0 < (shrunk == 0).double().mean() < 1
    y = F.conv2d(F.relu(F.conv2d(shrunk, c, padding=1)), d, padding=1)
    torch.testing.assert_close(net(x), x + y if residual else y)
    assert y.std() > 1e-3


def test_ista_net_starts_near_the_identity_with_a_seeded_gain():
    x = image(1, 1, 32, 32).float()
    assert 0 < (ISTANet()(x) - x).norm() / x.norm() < 0.1
    plain = ISTANet(residual=False, last_gain=1.0)(x)
    torch.testing.assert_close(ISTANet(residual=False)(x), 0.01 * plain)
    torch.manual_seed(5)
    assert torch.equal(ISTANet(seed=3).a, ISTANet(seed=3).a)
    assert not torch.equal(ISTANet(seed=3).a, ISTANet(seed=4).a)


def test_ista_net_learns_its_threshold_and_keeps_it_non_negative():
    net = loud(ISTANet(width=5, theta=0.05))
    x = image(1, 1, 9, 12)

    def loss(theta):
        return torch.func.functional_call(net, {"theta": theta}, x).square().sum()

    theta = torch.tensor(0.03, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (theta,))
    assert torch.autograd.grad(loss(theta), theta)[0].abs() > 1e-6
    net.theta.data.fill_(-0.1)
    net.project_()
    assert net.theta.item() == 0
    with pytest.raises(InputError, match="theta must be finite and >= 0, got -1"):
        ISTANet(theta=-1)
