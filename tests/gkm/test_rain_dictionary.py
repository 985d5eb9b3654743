"""Rain from a learned dictionary: steps against autograd, the metric, the minimiser, the state."""

import pytest
import torch
import torch.nn.functional as F
from conftest import plain_config

from bmo_cli.config.schema import Certify, check_config
from bmo_cli.errors import InputError
from bmo_cli.experiment.build import build
from bmo_cli.gkm.rain_dictionary import RainDictionary, streak_kernels
from bmo_cli.gkm.scheme import GKM
from bmo_cli.hyper.penalty import expansion
from bmo_cli.hyper.separate import Separate
from bmo_cli.nets.convex_potential import ConvexPotential
from bmo_cli.nets.filter_bank import unit_filters
from bmo_cli.nets.layers import Layers
from bmo_cli.nets.network import Identity, Network
from bmo_cli.nets.unet import MapUNet, UNet
from bmo_cli.solver.fixed_point import iterate
from bmo_cli.solver.nonexpansive import worst_pair
from bmo_cli.solver.problem import Problem, Sample, SquaredError
from bmo_cli.tasks.derain import initial_layers, rain_problem
from bmo_cli.training.optimizer import build_optimizer
from bmo_cli.verification.certificate import certify
from bmo_cli.verification.examination import Subject


class Towards(Network):
    """The proximal map of weight/2 |b - centre|^2, which makes the problem bounded in b."""

    nonexpansive = averaged = True

    def __init__(self, centre, tau, weight):
        super().__init__()
        self.channels, self.centre, self.pull = centre.shape[1], centre, tau * weight

    def forward(self, x):
        return (x + self.pull * self.centre) / (1 + self.pull)


def rainy(rng, channels=3, size=(12, 10)):
    return torch.tensor(rng.random((1, channels, *size)))


def rain_by_hand(m, kernels, channels):
    """sum_j c_j * m_j in every channel by zero-padded convolutions of a tiled image."""
    k, (height, width) = kernels.shape[-1], m.shape[-2:]
    flipped = kernels.flip(2, 3).transpose(0, 1)  # conv2d correlates
    tiled = F.conv2d(m.repeat(1, 1, 3, 3), flipped, padding=k // 2)
    gray = tiled[..., height : 2 * height, width : 2 * width]
    return gray.repeat(1, channels, 1, 1) / channels**0.5


@pytest.mark.parametrize("channels", [1, 3])
def test_step_is_that_of_the_gradient_and_of_the_threshold(rng, channels):
    y, operator = rainy(rng, channels), RainDictionary(kernels=4, size=5, share=0.3).double()
    b, m = torch.tensor(rng.random(y.shape)), torch.tensor(rng.random((1, 4, *y.shape[2:])))
    with torch.no_grad():
        operator.kernels.copy_(torch.tensor(rng.normal(size=(4, 1, 5, 5))))
        new_b, new_m = (
            GKM(operator=operator, layers=2, alpha=None).bind(rain_problem(y)).D((b, m), 0)
        )
    kernels = unit_filters(operator.kernels.detach(), zero_mean=False)
    b.requires_grad_(), m.requires_grad_()
    value = 0.5 * (b + rain_by_hand(m, kernels, channels) - y).square().sum()
    for_b, for_m = torch.autograd.grad(value, (b, m))
    first, second = 1.5 * 0.3, 1.5 * 0.7
    torch.testing.assert_close(new_b, b - first * for_b, rtol=0, atol=1e-5)
    expected = (m - second * (for_m + 1e-3)).clamp_min(0)
    torch.testing.assert_close(new_m, expected, rtol=0, atol=1e-5)
    assert (new_m == 0).any() and (new_m > 0).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_dictionary_has_norm_one(rng, channels):
    """The largest singular value of m -> C m as a dense matrix is at most 1, and close to it."""
    y, operator = rainy(rng, channels, (8, 8)), RainDictionary(kernels=3, size=3).double()
    mapping = GKM(operator=operator, layers=2).bind(rain_problem(y))
    basis = torch.eye(3 * 64, dtype=torch.float64).reshape(-1, 3, 8, 8)
    nothing = y.new_zeros(len(basis), channels, 8, 8)
    with torch.no_grad():
        rain = mapping.estimate((nothing, basis))[0][:, channels:].flatten(1)
    largest = torch.linalg.matrix_norm(rain, 2).item()
    assert 0.98 < largest <= 1 + 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_nonexpansive_up_to_the_longest_step_and_not_beyond(rng, share):
    y, net = rainy(rng), ConvexPotential(channels=3).double()
    state = (y, torch.tensor(rng.random((1, 4, *y.shape[2:]))))
    for network in (None, net):
        operator = RainDictionary(kernels=4, size=5, gamma=1.99999, share=share).double()
        mapping = GKM(operator=operator, net=network, layers=2).bind(rain_problem(y))
        assert operator.step_share(rain_problem(y)) < 1
        assert 0.5 < worst_pair(mapping, state, turns=60, seed=0).ratio <= 1 + 1e-6
    operator.gamma.high = 2.6  # a step that is 30 % too long
    mapping = GKM(operator=operator, layers=2).bind(rain_problem(y))
    assert operator.step_share(rain_problem(y)) > 1.29
    m = torch.ones_like(state[1])
    fitting = (y - mapping.estimate((y, m))[0][:, 3:], m)  # the threshold is not active here
    assert worst_pair(mapping, fitting, turns=100, seed=0, radius=1e-3).ratio > 1.5


@pytest.mark.slow
def test_fixed_point_minimises_the_energy(rng):
    """The conditions of f + weight/2 |b|^2 + lambda |m|_1, m >= 0, which is convex."""
    y, weight, threshold = rainy(rng, 1, (6, 5)), 0.5, 0.02
    operator = RainDictionary(kernels=1, size=3, threshold=threshold).double()
    operator.kernels.data = torch.tensor(0.1 * rng.normal(size=(1, 1, 3, 3)))
    operator.kernels.data[..., 1, 1] += 1  # close to the identity, so that it converges fast
    unchanged = Towards(torch.zeros_like(y), 0, 0)
    net = Layers(background=Towards(torch.zeros_like(y), 1.5 * 0.5, weight), rain=unchanged)
    mapping = GKM(operator=operator, net=net, layers=2).bind(rain_problem(y))
    with torch.no_grad():
        solution = iterate(mapping, initial_layers(y, "sum"), iterations=1000, tolerance=1e-8)
    assert solution.residuals[-1] < 1e-8
    b, m = (block.requires_grad_() for block in solution.value)
    layers = mapping.estimate((b, m))[0]
    value = 0.5 * (layers.sum(1, keepdim=True) - y).square().sum() + weight / 2 * b.square().sum()
    for_b, for_m = torch.autograd.grad(value, (b, m))
    assert for_b.abs().max() < 1e-5
    used = m > 0
    assert 0 < used.sum() < used.numel()
    assert (for_m[used] + threshold).abs().max() < 1e-5
    assert (for_m + threshold).min() > -1e-5


def test_state_and_estimate(rng):
    y, operator = rainy(rng), RainDictionary(kernels=4, size=5).double()
    mapping = GKM(operator=operator, layers=2).bind(rain_problem(y))
    initial = initial_layers(y, "sum")
    lifted = mapping.lift(initial)
    assert [tuple(block.shape) for block in lifted] == [(1, 3, 12, 10), (1, 4, 12, 10)]
    assert mapping.lift(lifted) is lifted
    torch.testing.assert_close(mapping.estimate(lifted)[0], initial[0])
    with_rain = mapping.lift((torch.cat([y, rainy(rng)], 1),))[1]
    assert not lifted[1].any() and with_rain.min() >= 0 and with_rain.any()
    loss = mapping.loss_on_state(SquaredError(torch.zeros_like(initial[0])))
    b_gradient, m_gradient = loss.grad(lifted)
    torch.testing.assert_close(b_gradient, y)
    assert m_gradient.shape == lifted[1].shape


def test_networks_of_both_layers(rng):
    y, operator = rainy(rng, size=(16, 16)).float(), RainDictionary(kernels=4, size=5)
    alone = GKM(operator=operator, net=UNet(widths=(4, 4, 4)), layers=2)
    assert [net.channels for net in alone.net.networks] == [3, 4]
    both = Layers(background=UNet(widths=(4, 4, 4)), rain=MapUNet(channels=4, widths=(4, 4, 4)))
    scheme = GKM(operator=operator, net=both, layers=2)
    mapping = scheme.bind(rain_problem(y))
    with torch.no_grad():
        b, m = mapping.D(mapping.lift(initial_layers(y, "sum")), 0)
        torch.testing.assert_close(b, both.networks[0](y))  # the gradient is 0 at (y, 0)
        torch.testing.assert_close(m, both.networks[1](torch.zeros_like(m)))


@pytest.mark.parametrize("form", ["single", "split", "exact", "sparse"])
def test_other_forms_are_refused(rng, form):
    with pytest.raises(InputError, match=r"two layers; use task=derain task.form=sum"):
        RainDictionary().bind(rain_problem(rainy(rng), form))


def test_other_input_is_refused_in_one_line(rng):
    y = rainy(rng)
    with pytest.raises(
        InputError, match=r"are 15 x 15 \(gkm.operator.size\), larger than an image of 12 x 10"
    ):
        RainDictionary(size=15).bind(rain_problem(y))
    sparse = rain_problem(y, rain_weight=0.1)
    with pytest.raises(InputError, match=r"in the place of SparseRain; use task.rain_weight=0"):
        GKM(operator=RainDictionary(size=5), layers=2).bind(sparse)
    layers = Layers(background=UNet(widths=(4, 4, 4)))
    with pytest.raises(InputError, match=r"as 32 maps .* use net=dictionary_layers"):
        GKM(operator=RainDictionary(), net=layers, layers=2)
    with pytest.raises(InputError, match="two layers"):
        RainDictionary().bind(Problem())


def test_first_kernels_are_lines_of_all_directions():
    kernels = streak_kernels(7, 9)
    assert kernels.shape == (7, 1, 9, 9) and kernels.min() >= 0
    torch.testing.assert_close(kernels.flatten(1).norm(dim=1), torch.ones(7))
    upright = streak_kernels(6, 9)[1, 0]  # the middle one of three thin lines
    torch.testing.assert_close(streak_kernels(1, 9)[0, 0], upright)
    torch.testing.assert_close(upright, upright.flip(1))
    assert upright[:, 4].min() > upright[:, 3].max()
    assert not torch.allclose(kernels[0], kernels[1])


def test_thresholds_learn_at_the_rate_of_step_sizes():
    config = plain_config("task=derain", "gkm=rain_dictionary", "device=cpu")
    experiment = build(check_config(config))
    optimizer = build_optimizer(config["optim"], [], experiment.omega, 10)
    operator = experiment.scheme.operator
    weights, numerical = ({id(p) for p in group["params"]} for group in optimizer.param_groups)
    assert id(operator.kernels) in weights and id(operator.log_threshold) in numerical
    assert {id(operator.gamma.theta), id(operator.share.theta)} <= numerical


def test_denoisers_cannot_be_fitted_to_maps():
    scheme = GKM(operator=RainDictionary(), net=UNet(widths=(4, 4, 4)), layers=2)
    with pytest.raises(InputError, match="hyper=separate fits denoisers of images"):
        Separate(sigma=5.0).check(scheme)


def test_penalty_and_certificate_see_what_the_networks_map(rng):
    """Both layers in their own networks; the bound is proved, and the search finds less."""
    y = rainy(rng).float()
    net = Layers(background=ConvexPotential(channels=3), rain=Identity(channels=4))
    scheme = GKM(operator=RainDictionary(kernels=4, size=5), net=net, layers=2)
    problem, initial = rain_problem(y), initial_layers(y, "sum")
    sample = Sample(problem, initial, SquaredError(torch.zeros_like(initial[0])))
    assert expansion(scheme, sample, 2).item() <= 1 + 1e-4
    subject = Subject(scheme, True, 3, None, [(problem, initial)], None, None)
    found = certify(subject, Certify(cases=1, turns=2, horizon=2))
    assert found.bound.value == pytest.approx(1, abs=1e-5)
    assert 0 < found.network.ratio <= 1 + 1e-5
    assert max(pair.ratio for pair in found.pairs.values()) <= 1 + 1e-5
