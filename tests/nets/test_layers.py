"""Layers stacked along the channels: linear maps against dense matrices, networks one by one."""

import numpy as np
import pytest
import torch

from bmo_cli.errors import InputError
from bmo_cli.gkm.proximal import ProximalGradient
from bmo_cli.gkm.scheme import GKM
from bmo_cli.linear.layers import StreakGradient, SumOfLayers
from bmo_cli.nets.convex_potential import ConvexPotential
from bmo_cli.nets.dncnn import DnCNN
from bmo_cli.nets.guided import GuidedPotential
from bmo_cli.nets.layers import Layers
from bmo_cli.nets.network import Identity
from bmo_cli.nets.normalized_conv import NormalizedConv

SIZE = (4, 5)


def dense(apply, shape):
    n = int(np.prod(shape))
    basis = torch.eye(n, dtype=torch.float64).reshape(n, *shape)
    return apply(basis).reshape(n, -1).mT


@pytest.mark.parametrize(
    ("a", "channels", "out"),
    [(SumOfLayers(1), 3, 3), (SumOfLayers(2), 6, 3), (StreakGradient(SIZE), 2, 3)],
)
def test_linear_maps(a, channels, out):
    matrix = dense(a, (channels, *SIZE))
    torch.testing.assert_close(dense(a.adjoint, (out, *SIZE)), matrix.mT)
    norm = torch.linalg.matrix_norm(matrix, 2).item() ** 2
    assert float(a.norm_squared) == pytest.approx(norm, rel=1e-9)
    inverse = dense(a.shifted_inverse(torch.tensor(0.7, dtype=torch.float64)), (channels, *SIZE))
    identity = torch.eye(len(inverse), dtype=torch.float64)
    torch.testing.assert_close(inverse, torch.linalg.inv(identity + 0.7 * matrix.mT @ matrix))


def test_sum_and_streaks_by_hand():
    b, r = torch.arange(20.0).reshape(1, 1, *SIZE), torch.ones(1, 1, *SIZE)
    assert torch.equal(SumOfLayers(2)(torch.cat([b, r], 1)), b + 1)
    steps = StreakGradient(SIZE)(torch.cat([b, r], 1))
    assert steps[0, 0, 0, 0] == 5 and steps[0, 1, 0, 0] == 1
    assert steps[0, 2].abs().max() == 0  # an upright streak has no vertical difference


@pytest.mark.slow
def test_each_layer_has_its_own_network(rng):
    first, second = DnCNN(channels=3, width=4, depth=2, seed=1), ConvexPotential(channels=3)
    net = Layers(background=first, rain=second)
    b, r = (torch.tensor(rng.random((2, 3, 8, 9))).float() for _ in range(2))
    with torch.no_grad():
        torch.testing.assert_close(net(torch.cat([b, r], 1)), torch.cat([first(b), second(r)], 1))
    assert not net.nonexpansive and not net.averaged and not net.guided
    assert net.bound().value == pytest.approx(max(first.bound().value, second.bound().value))
    assert net.bound().layers[0].layer.startswith("background: ")


def test_a_copy_has_weights_of_its_own():
    net = Layers(background=DnCNN(width=4, depth=2))
    assert sum(p.numel() for p in net.parameters()) == 2 * sum(
        p.numel() for p in DnCNN(width=4, depth=2).parameters()
    )


def test_guarantees_are_those_of_all_layers(rng):
    both = Layers(background=ConvexPotential(), rain=NormalizedConv(width=4, depth=2))
    assert both.nonexpansive and both.averaged and not both.guided
    assert 0.9 < both.bound().value <= 1 + 1e-6
    u, v = (torch.tensor(rng.normal(size=(1, 2, 16, 16))).float() for _ in range(2))
    with torch.no_grad():
        assert 0.05 < float((both(u) - both(v)).norm() / (u - v).norm()) <= 1
    guided = Layers(background=GuidedPotential(widths=(4, 4, 4)), rain=ConvexPotential())
    assert guided.guided
    views = torch.tensor(rng.random((1, 7, 16, 16))).float()
    with torch.no_grad():
        found = guided.bind(views)(u)
        expected = guided.networks[0].bind(views)(u[:, :1])
        torch.testing.assert_close(found[:, :1], expected)


def test_scheme_gives_every_layer_a_network():
    scheme = GKM(operator=ProximalGradient(), net=ConvexPotential(), layers=2)
    assert isinstance(scheme.net, Layers) and scheme.nonexpansive
    own = Layers(background=ConvexPotential(), rain=DnCNN(width=4, depth=2))
    assert GKM(operator=ProximalGradient(), net=own, layers=2).net.networks[1] is not None
    assert GKM(operator=ProximalGradient(), net=Layers(background=Identity()), layers=2).net is None
    with pytest.raises(InputError, match="net=layers is for an unknown of two layers"):
        GKM(operator=ProximalGradient(), net=own)
    unequal = Layers(background=ConvexPotential(), rain=ConvexPotential(channels=3))
    with pytest.raises(InputError, match="have 1 and 3 channels; ProximalGradient needs the same"):
        GKM(operator=ProximalGradient(), net=unequal, layers=2)
    with pytest.raises(InputError, match="for layers of 1 and 3 channels, and the unknown has 2"):
        unequal(torch.zeros(1, 2, 8, 8))


class Halving(Identity):
    """A network of one's own that is no identity, whatever it derives from."""

    def forward(self, x):
        return 0.5 * x


@pytest.mark.parametrize("layers", [1, 2])
def test_only_the_identity_itself_is_left_out(layers):
    scheme = GKM(operator=ProximalGradient(), net=Halving(), layers=layers)
    assert isinstance(scheme.net, Halving if layers == 1 else Layers)
