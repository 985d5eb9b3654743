"""Classical filters against scikit-image, the falling noise level against its definition."""

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve
from skimage import restoration

from bmo_cli.audit.measure import audit_norm
from bmo_cli.errors import InputError
from bmo_cli.gkm.dpir import DPIR, gaussian_average
from bmo_cli.gkm.filters import (
    RichardsonLucy,
    UnsupervisedWiener,
    Wiener,
    WienerNLM,
    WienerTV,
    impulse_responses,
)
from bmo_cli.gkm.scheme import GKM
from bmo_cli.linear.blur import PeriodicBlur, centred, transfer_function
from bmo_cli.linear.matrix import Matrix
from bmo_cli.nets.dncnn import DnCNN
from bmo_cli.nets.drunet import DRUNet
from bmo_cli.solver.fixed_point import iterate
from bmo_cli.solver.functions import LeastSquares
from bmo_cli.solver.nonexpansive import largest_ratio
from bmo_cli.solver.problem import Problem

FILTERS = [Wiener(), UnsupervisedWiener(), RichardsonLucy(iterations=3), WienerTV(), WienerNLM()]
SIZE = (24, 31)


@pytest.fixture
def kernels(rng):
    """Two kernels of different size, not symmetric, sum 1."""
    found = [rng.random((5, 7)) ** 3, rng.random((3, 3)) + np.eye(3)]
    return [kernel / kernel.sum() for kernel in found]


@pytest.fixture
def problem(rng, kernels):
    """Two smooth images of three channels, blurred by one kernel each, with noise of 1 %."""
    rough = torch.tensor(rng.random((2, 3, *SIZE)))
    clean = gaussian_average(2.0, rough)(rough) * 2 - 0.5
    stack = centred([torch.tensor(kernel) for kernel in kernels]).double()
    blur = PeriodicBlur(transfer_function(stack, SIZE), SIZE)
    y = blur(clean) + 0.01 * torch.tensor(rng.standard_normal(clean.shape))
    return Problem(LeastSquares(blur, y), noise=torch.full((2,), 0.01, dtype=torch.float64))


def output(operator, problem):
    """After one undamped iteration from anything."""
    scheme = GKM(operator=operator, alpha=None)
    start = torch.randn(problem.f.y.shape, generator=torch.Generator().manual_seed(3)).double()
    return iterate(scheme.bind(problem), (start,), iterations=1).value[0]


def test_kernels_are_read_back_from_the_transfer_function(problem, kernels):
    for found, kernel in zip(impulse_responses(problem.f.a), kernels, strict=True):
        assert found.shape == kernel.shape
        assert np.abs(found - kernel).max() < 1e-6  # centred() keeps single precision


def test_wiener_is_the_closed_form(problem):
    delta = torch.zeros(1, *SIZE, dtype=torch.float64)
    delta[0, 0, 0] = 4
    for row, column in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        delta[0, row, column] = -1
    laplacian = torch.fft.rfft2(delta).abs().square()
    spectrum = torch.fft.rfft2(problem.f.y) * problem.f.a.transfer.conj()
    expected = torch.fft.irfft2(spectrum / (problem.f.a.power + 0.03 * laplacian), s=SIZE)
    found = output(Wiener(balance=0.03), problem)
    assert (found - expected).abs().max() < 1e-6
    assert (found - output(Wiener(balance=0.04), problem)).abs().max() > 1e-3


@pytest.mark.parametrize("operator", FILTERS, ids=lambda o: type(o).__name__)
def test_every_image_has_its_own_kernel(operator, problem, kernels):
    """The filter of the batch is that of each channel alone, and restores with its kernel only."""
    found = output(operator, problem).numpy()
    for image, restored, kernel, other in zip(
        problem.f.y.numpy(), found, kernels, kernels[::-1], strict=True
    ):
        for channel, result in zip(image, restored, strict=True):
            assert np.abs(operator.filtered(channel, kernel) - result).max() < 1e-5
            assert np.abs(operator.filtered(channel, other) - result).max() > 1e-3


def test_filters_are_those_of_scikit_image(problem, kernels):
    y, kernel = problem.f.y[0, 0].numpy(), kernels[0]
    wiener = restoration.wiener(y, kernel, 0.01, clip=False)
    pairs = [
        (
            UnsupervisedWiener(seed=4),
            restoration.unsupervised_wiener(y, kernel, clip=False, rng=4)[0],
        ),
        (
            WienerTV(balance=0.01, weight=0.05),
            restoration.denoise_tv_chambolle(wiener, weight=0.05),
        ),
        (
            WienerNLM(balance=0.01, strength=0.05, reach=4),
            restoration.denoise_nl_means(wiener, patch_size=5, patch_distance=4, h=0.05),
        ),
    ]
    for operator, expected in pairs:
        assert np.abs(operator.filtered(y, kernel) - expected).max() < 1e-10
        assert np.abs(wiener - expected).max() > 1e-3


def test_richardson_lucy_is_the_periodic_iteration(problem, kernels):
    """Written out with SciPy's periodic convolution; the filter's continuation is not felt."""
    y, kernel = problem.f.y[0, 0].numpy().clip(1e-4, None), kernels[0]
    u = np.full_like(y, 0.5)
    for _ in range(2):
        ratio = y / convolve(u, kernel, mode="wrap")
        u = u * convolve(ratio, kernel[::-1, ::-1], mode="wrap")
    found = RichardsonLucy(iterations=2).filtered(y, kernel)
    assert np.abs(found - u).max() < 1e-6
    assert np.abs(found - y).max() > 1e-2


@pytest.mark.parametrize("operator", FILTERS, ids=lambda o: type(o).__name__)
def test_filters_are_constant_maps(operator, problem):
    mapping = GKM(operator=operator, alpha=None).bind(problem)
    assert largest_ratio(mapping, (torch.zeros_like(problem.f.y),), turns=3) == 0
    fixed = mapping.D((problem.f.y,), 0)
    assert (mapping.residual(fixed, mapping.D(fixed, 1)) == 0).all()
    assert audit_norm("filter", operator) == []  # there is no blur in the problems of the audit


@pytest.mark.parametrize("operator", [Wiener(), DPIR()], ids=lambda o: type(o).__name__)
def test_what_is_not_blurred_is_refused(operator):
    problem = Problem(LeastSquares(Matrix(torch.eye(3)), torch.zeros(1, 3)))
    with pytest.raises(InputError, match="task=deconv"):
        operator.bind(problem)


def test_dpir_without_rescaling_is_half_quadratic_splitting(problem):
    """level = first = last: R(prox_{gamma f}), gamma = (level / noise)^2 / weight, written out."""
    net = DnCNN(channels=3, depth=2, width=3, last_gain=1.0).double()
    operator = DPIR(first=25.0, last=25.0, steps=2, weight=0.5)
    scheme = GKM(operator=operator, net=net, alpha=None).double()
    for part, exact in ((operator.first, 25.0), (operator.last, 25.0), (operator.weight, 0.5)):
        part.theta.data = torch.tensor(exact, dtype=torch.float64).log()  # unrounded by float32
    start = (problem.f.y,)
    found = iterate(scheme.bind(problem), start, iterations=2).value[0]
    gamma, u = (25 / 2.55) ** 2 / 0.5, problem.f.y
    for _ in range(2):
        spectrum = torch.fft.rfft2(u + gamma * problem.f.a.adjoint(problem.f.y))
        u = net(torch.fft.irfft2(spectrum / (1 + gamma * problem.f.a.power), s=SIZE))
    assert (found - u).abs().max() < 1e-9
    other = GKM(operator=DPIR(first=25.0, last=20.0, steps=2, weight=0.5), net=net, alpha=None)
    assert (iterate(other.bind(problem), start, iterations=2).value[0] - u).abs().max() > 1e-4


def test_levels_fall_geometrically_and_stay():
    operator = DPIR(first=40.0, last=5.0, steps=4)
    assert [operator.level_at(k).item() for k in range(6)] == pytest.approx([40, 20, 10, 5, 5, 5])
    assert DPIR(first=40.0, last=5.0, steps=1).level_at(0).item() == pytest.approx(5)
    assert not operator.stationary
    assert GKM(operator=operator).expansive_because == "DPIR promises nothing"
    with pytest.raises(InputError, match=r"gkm\.operator\.last must be at most"):
        DPIR(first=5.0, last=6.0)


def test_learned_levels_have_the_gradient_of_finite_differences(problem):
    net = DnCNN(channels=3, depth=2, width=3, last_gain=1.0).double()
    operator = DPIR(first=20.0, last=5.0, steps=3, learn=True)
    scheme = GKM(operator=operator, net=net, alpha=None).double()
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(problem.f.y.shape, generator=generator, dtype=torch.float64)

    def value():
        u = iterate(scheme.bind(problem), (problem.f.y,), iterations=4).value[0]
        return (weights * u).sum()

    learned = [operator.first.theta, operator.last.theta, operator.weight.theta]
    exact = torch.autograd.grad(value(), learned)
    for theta, gradient in zip(learned, exact, strict=True):
        with torch.no_grad():
            theta += 1e-5
            above = value()
            theta -= 2e-5
            below = value()
            theta += 1e-5
        assert abs(gradient) > 1e-3
        assert ((above - below) / 2e-5).item() == pytest.approx(gradient.item(), rel=1e-5)
    assert not any(p.requires_grad for p in DPIR().parameters())


def test_levels_have_a_gradient_after_iterations_without_a_graph(problem):
    scheme = GKM(operator=DPIR(first=20.0, last=5.0, steps=3, learn=True), alpha=None).double()
    learned = list(scheme.parameters())
    used, fresh = scheme.bind(problem), scheme.bind(problem)
    with torch.no_grad():
        start = iterate(used, (problem.f.y,), iterations=2).value
    found, expected = (
        torch.autograd.grad(
            iterate(mapping, start, iterations=2, start=2).value[0].square().sum(),
            learned,
            allow_unused=True,
        )
        for mapping in (used, fresh)
    )
    assert sum(g is not None and bool(g.abs() > 0) for g in expected) >= 2
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b)


def test_rescaling_a_network_without_biases_is_exact(problem):
    """DRUNet told 10 and rescaled about 0 removes level 20 as DRUNet told 20 does."""
    small = {"channels": 3, "widths": (2, 2, 2, 2), "blocks": 1, "learn_sigma": False}
    images = []
    for level in (10.0, 20.0):
        net = DRUNet(sigma=level, **small)
        for parameter in net.parameters():
            parameter.data *= 3 if parameter.dim() > 1 else 1  # small initial weights see no noise
        operator = DPIR(first=20.0, last=20.0, steps=1, level=level, centre=0.0)
        scheme = GKM(operator=operator, net=net, alpha=None).double()
        images.append(iterate(scheme.bind(problem), (problem.f.y,), iterations=1).value[0])
    assert images[0].abs().max() > 1e-3
    assert (images[0] - images[1]).abs().max() < 1e-6 * images[0].abs().max()


def test_dpir_needs_the_noise(problem):
    unknown = Problem(problem.f)
    with pytest.raises(InputError, match=r"gkm\.operator\.noise"):
        DPIR().bind(unknown)
    given = DPIR(noise=2.55).bind(unknown).apply((problem.f.y,), 0)[0]
    assert (given - DPIR().bind(problem).apply((problem.f.y,), 0)[0]).abs().max() < 1e-6


def test_gaussian_average(rng):
    image = torch.tensor(rng.random((1, 2, 20, 26)))
    average = gaussian_average(1.5, image)(image)
    offset = np.arange(-5, 6)
    taps = np.exp(-(offset**2) / (2 * 1.5**2))
    window = np.outer(taps, taps) / taps.sum() ** 2
    for found, channel in zip(average[0].numpy(), image[0].numpy(), strict=True):
        assert np.abs(found - convolve(channel, window, mode="wrap")).max() < 1e-12
    assert (gaussian_average(0, image)(image) == 0).all()
