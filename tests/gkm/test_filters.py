"""Classical filters against scikit-image, the falling noise level against its definition."""

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve
from skimage import restoration

from bmo_cli.errors import InputError
from bmo_cli.gkm.dpir import DPIR, gaussian_average
from bmo_cli.gkm.filters import (
    RichardsonLucy,
    UnsupervisedWiener,
    Wiener,
    WienerNLM,
    WienerTV,
)
from bmo_cli.gkm.scheme import GKM
from bmo_cli.linear.blur import PeriodicBlur, stack_kernels, transfer_function
from bmo_cli.linear.matrix import Matrix
from bmo_cli.nets.dncnn import DnCNN
from bmo_cli.nets.drunet import DRUNet
from bmo_cli.solver.fixed_point import iterate
from bmo_cli.solver.functions import LeastSquares
from bmo_cli.solver.nonexpansive import worst_pair
from bmo_cli.solver.problem import Problem
from bmo_cli.verification.audit import audit_norm

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
    stack = stack_kernels([torch.tensor(kernel) for kernel in kernels]).double()
    blur = PeriodicBlur(transfer_function(stack, SIZE), SIZE)
    y = blur(clean) + 0.01 * torch.tensor(rng.standard_normal(clean.shape))
    return Problem(LeastSquares(blur, y), noise=torch.full((2,), 0.01, dtype=torch.float64))


def output(operator, problem):
    """After one undamped iteration from anything."""
    scheme = GKM(operator=operator, alpha=None)
    start = torch.randn(problem.f.y.shape, generator=torch.Generator().manual_seed(3)).double()
    return iterate(scheme.bind(problem), (start,), iterations=1).value[0]


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


def alone(operator, y, kernel):
    """The filter of one channel (H, W) blurred by one kernel (h, w)."""
    taps = torch.tensor(kernel)[None]
    blur = PeriodicBlur(transfer_function(taps, y.shape), y.shape)
    return operator.restore(torch.tensor(y)[None, None], blur)[0, 0].numpy()


@pytest.mark.parametrize("operator", FILTERS, ids=lambda o: type(o).__name__)
def test_every_image_has_its_own_kernel(operator, problem, kernels):
    """The filter of the batch is that of each channel alone, and restores with its kernel only."""
    found = output(operator, problem).numpy()
    for image, restored, kernel, other in zip(
        problem.f.y.numpy(), found, kernels, kernels[::-1], strict=True
    ):
        for channel, result in zip(image, restored, strict=True):
            assert np.abs(alone(operator, channel, kernel) - result).max() < 1e-5
            assert np.abs(alone(operator, channel, other) - result).max() > 1e-3


def test_filters_are_those_of_scikit_image(problem, kernels):
    """With compact kernels, which scikit-image takes as they are."""
    y, kernel = problem.f.y[0, 0].numpy(), kernels[0]
    wiener = restoration.wiener(y, kernel, 0.01, clip=False)
    pairs = [
        (Wiener(balance=0.01), wiener),
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
        assert np.abs(alone(operator, y, kernel) - expected).max() < 1e-10
        assert operator is pairs[0][0] or np.abs(wiener - expected).max() > 1e-3


def brute_blur(u, kernel):
    """Periodic convolution (H, W) with a kernel centred at (h // 2, w // 2), shift by shift."""
    total, (h, w) = np.zeros_like(u), kernel.shape
    for i in range(h):
        for j in range(w):
            total += kernel[i, j] * np.roll(u, (i - h // 2, j - w // 2), (0, 1))
    return total


def brute_correlation(u, kernel):
    """The adjoint of `brute_blur`."""
    total, (h, w) = np.zeros_like(u), kernel.shape
    for i in range(h):
        for j in range(w):
            total += kernel[i, j] * np.roll(u, (h // 2 - i, w // 2 - j), (0, 1))
    return total


def halo(size):
    """A compact core with 80 % of the light, and a veil as large as the image with the rest."""
    h, w = size
    kernel = np.full(size, 0.2 / (h * w))
    core = np.outer([1, 2, 1], [2, 3, 1]) / 24
    kernel[h // 2 - 1 : h // 2 + 2, w // 2 - 1 : w // 2 + 2] += 0.8 * core
    return kernel


def test_richardson_lucy_is_the_periodic_iteration_to_the_border(kernels, rng):
    """20 updates by periodic sums in NumPy; zeros outside the image would reach into it."""
    clean = 0.2 + 0.6 * rng.random(SIZE)
    for kernel in (*kernels, halo(SIZE)):
        y = brute_blur(clean, kernel) + 0.01 * rng.standard_normal(SIZE)
        u = np.full_like(y, 0.5)
        for _ in range(20):
            u = u * brute_correlation(y / brute_blur(u, kernel), kernel)
        restored = alone(RichardsonLucy(iterations=20), y, kernel)
        assert np.abs(restored - u).max() < 1e-10
        wrong = restoration.richardson_lucy(y, kernel, num_iter=20, clip=False)
        assert np.abs(wrong - u).max() > 1e-2


def test_richardson_lucy_keeps_the_flux_of_a_sparse_image(kernels, rng):
    """Zeros stay zeros, negative noise counts as none, and no light is added."""
    stars = np.zeros(SIZE)
    stars[[3, 10, 20], [5, 0, 30]] = [1.0, 0.5, 2.0]
    for kernel in (*kernels, halo(SIZE)):
        blurred = brute_blur(stars, kernel)
        for y in (blurred, blurred + 1e-3 * rng.standard_normal(SIZE)):
            restored = alone(RichardsonLucy(iterations=200), y, kernel)
            assert restored.sum() == pytest.approx(y.clip(0).sum(), rel=1e-9)
            assert restored.min() >= 0
        assert alone(RichardsonLucy(iterations=200), blurred, kernel).max() > 1.5
    nothing = alone(RichardsonLucy(iterations=5), np.zeros(SIZE), kernels[0])
    assert np.array_equal(nothing, np.zeros(SIZE))


@pytest.mark.parametrize("operator", FILTERS, ids=lambda o: type(o).__name__)
def test_nothing_is_cut_off_a_kernel_as_large_as_the_image(operator, rng):
    """Brightness is kept, and what was blurred comes closer to what it was than without the veil.

    Cut at 1e-5 of its peak or not, a kernel that is not normalised again brightens by a quarter.
    """
    rows, columns = (np.arange(n) / n for n in SIZE)
    clean = 0.5 + 0.2 * np.sin(2 * np.pi * rows)[:, None] + 0.2 * np.cos(4 * np.pi * columns)
    kernel = halo(SIZE)
    y = brute_blur(clean, kernel) + 1e-3 * rng.standard_normal(SIZE)
    restored = alone(operator, y, kernel)
    assert restored.mean() == pytest.approx(clean.mean(), rel=2e-3)
    if not isinstance(operator, RichardsonLucy):  # 3 updates of it
        assert np.abs(restored - clean).mean() < 0.6 * np.abs(y - clean).mean()


def test_wiener_with_a_halo_is_the_closed_form(rng):
    """Against NumPy's transforms of the whole kernel, which is where nothing can be lost."""
    kernel, y = halo(SIZE), rng.random(SIZE)
    laplacian = np.zeros(SIZE)
    laplacian[0, 0], laplacian[[0, 0, 1, -1], [1, -1, 0, 0]] = 4, -1
    shifted = np.roll(kernel, (-(SIZE[0] // 2), -(SIZE[1] // 2)), (0, 1))
    h = np.fft.fft2(shifted)
    weight = np.abs(h) ** 2 + 0.006 * np.abs(np.fft.fft2(laplacian)) ** 2
    expected = np.fft.ifft2(np.fft.fft2(y) * h.conj() / weight).real
    assert np.abs(alone(Wiener(balance=0.006), y, kernel) - expected).max() < 1e-12


def test_small_images_end_in_a_result_or_one_line(rng):
    for size in ((1, 1), (1, 7), (2, 2), (6, 2), (3, 3)):
        y, kernel = rng.random(size), np.ones((1, 1))
        for operator in (Wiener(), RichardsonLucy()):
            assert np.isfinite(alone(operator, y, kernel)).all()
        if min(size) < 3:
            with pytest.raises(InputError, match=r"at least 3 x 3 pixels.*gkm=wiener"):
                alone(UnsupervisedWiener(), y, kernel)
        else:
            assert np.isfinite(alone(UnsupervisedWiener(), y, kernel)).all()


@pytest.mark.parametrize("operator", FILTERS, ids=lambda o: type(o).__name__)
def test_filters_are_constant_maps(operator, problem):
    mapping = GKM(operator=operator, alpha=None).bind(problem)
    assert worst_pair(mapping, (torch.zeros_like(problem.f.y),), turns=3).ratio == 0
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
