"""Ridge regularisers: gradient steps on an energy, their spectra, and their fixed points."""

import numpy as np
import pytest
import scipy.optimize
import torch
import torch.nn.functional as F

from bmo_cli.gkm.proximal import ProximalGradient, Resolvent
from bmo_cli.gkm.scheme import GKM
from bmo_cli.linear.blur import PeriodicBlur, transfer_function
from bmo_cli.nets.operator_norms import norm_squared_bound
from bmo_cli.nets.ridge import ConvexRidge, WeaklyConvexRidge
from bmo_cli.solver.functions import LeastSquares
from bmo_cli.solver.problem import Problem

KINDS = [ConvexRidge, WeaklyConvexRidge]
LIMITS = {ConvexRidge: (0, 1), WeaklyConvexRidge: (-1, 1)}


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def ridge(kind, **settings):
    """A network whose filters differ in scale and whose spline has random slopes."""
    net = kind(**{"width": 10, "size": 3, "threshold": 0.05, **settings}).double()
    low, high = LIMITS[kind]
    with torch.no_grad():
        net.slopes.copy_(low + (high - low) * drawn(len(net.slopes)))
        net.log_scales.add_(drawn(10, seed=1) - 0.5)
        net.relaxation.fill_(0.3)
    return net


def energy(net, x, spacing=0.4):
    """rho R(x), with psi written as a sum of squared hinges of |z|, whose kinks are the knots."""
    centred = net.filters - net.filters.mean((2, 3), keepdim=True)
    unit = centred / norm_squared_bound(centred).sqrt()
    side = unit.shape[-1] // 2
    scales = net.log_scales.exp()[:, None, None]
    z = scales * F.conv2d(F.pad(x, (side,) * 4, mode="circular"), unit)
    zero = torch.zeros(1, dtype=torch.float64)
    kinks = torch.diff(torch.cat([zero, net.slopes, zero]))
    knots = spacing * torch.arange(len(kinks))
    psi = (kinks * (z.abs()[..., None] - knots).relu().square() / 2).sum(-1)
    rho = 2 * torch.sigmoid(net.relaxation)
    return rho * (psi / scales**2).sum()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_ridge_is_a_gradient_step_on_its_energy(kind, channels):
    net = ridge(kind, channels=channels)
    x = drawn(2, channels, 9, 8, seed=2).requires_grad_()
    (gradient,) = torch.autograd.grad(energy(net, x), x)
    assert gradient.abs().max() > 1e-2
    torch.testing.assert_close(net(x), x - gradient, rtol=0, atol=1e-5)  # rho stays off its ends


def spectrum(net, scale=1.0):
    """Eigenvalues of the Jacobian, which is symmetric."""
    x = scale * drawn(1, net.channels, 6, 7, seed=1)
    jacobian = torch.autograd.functional.jacobian(net, x).reshape(x.numel(), -1)
    torch.testing.assert_close(jacobian, jacobian.mT, rtol=0, atol=1e-12)
    return torch.linalg.eigvalsh(jacobian)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_convex_ridge_has_eigenvalues_between_minus_1_and_1(channels):
    values = spectrum(ridge(ConvexRidge, channels=channels))
    assert -1 < values.min() < 0.9 < values.max() <= 1 + 1e-12


def test_a_weakly_convex_ridge_expands_and_says_so():
    net = ridge(WeaklyConvexRidge)
    net.slopes.data[1:] = -0.9
    values = spectrum(net)
    assert 1.01 < values.max() <= net.bound().value
    assert not net.nonexpansive and not net.averaged
    scheme = GKM(operator=Resolvent(), net=net)
    assert scheme.expansive_because == "WeaklyConvexRidge need not be nonexpansive"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("amount", [8.0, 100.0])
def test_no_weights_leave_the_limits_of_the_slopes(kind, amount):
    """Raw parameters far outside bend no eigenvalue beyond the bound, and are brought back."""
    net = ridge(kind)
    with torch.no_grad():
        net.slopes.add_(amount * (drawn(10, seed=5) - 0.5))
        net.relaxation.fill_(amount)
    low, high = LIMITS[kind]
    assert net.slopes.min() < low and net.slopes.max() > high
    for scale in (0.01, 1.0, 100.0):
        values = spectrum(net, scale)
        assert 1 - 2 * high - 1e-9 <= values.min()
        assert values.max() <= 1 - 2 * low + 1e-9
    before = net(drawn(1, 1, 8, 8))
    net.project_()
    assert low <= net.slopes.min() and net.slopes.max() <= high
    torch.testing.assert_close(net(drawn(1, 1, 8, 8)), before, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_long_steps_of_an_optimiser_end_inside_and_can_return(kind):
    net = ridge(kind)
    optimizer = torch.optim.SGD(net.parameters(), lr=50.0)
    x = drawn(1, 1, 12, 12)
    for sign in (1, -1):
        for _ in range(3):
            optimizer.zero_grad()
            (sign * net(x).square().sum()).backward()
            assert net.slopes.grad.abs().max() > 0
            optimizer.step()
            net.project_()
        low, high = LIMITS[kind]
        assert low <= net.slopes.min() and net.slopes.max() <= high


def total_energy(net, problem, gamma, z):
    return gamma * (problem.f.a(z) - problem.f.y).square().sum() / 2 + energy(net, z)


def minimiser(net, problem, gamma):
    """argmin of gamma f + rho R by L-BFGS, and the largest entry of the gradient there."""
    shape = problem.f.y.shape

    def value(flat):
        x = torch.from_numpy(flat).reshape(shape).requires_grad_()
        total = total_energy(net, problem, gamma, x)
        (gradient,) = torch.autograd.grad(total, x)
        return total.item(), gradient.numpy().ravel()

    minimum = scipy.optimize.minimize(
        value, np.zeros(shape.numel()), jac=True, method="L-BFGS-B",
        options={"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-16, "gtol": 1e-9, "maxcor": 50},
    )  # fmt: skip
    return torch.from_numpy(minimum.x).reshape(shape), np.abs(value(minimum.x)[1]).max()


def blurred(size):
    kernel = torch.full((1, 3, 3), 0.05, dtype=torch.float64)
    kernel[:, 1, 1] = 0.6
    blur = PeriodicBlur(transfer_function(kernel, size), size)
    y = blur(drawn(1, 1, *size, seed=3)) + 0.05 * drawn(1, 1, *size, seed=4)
    return Problem(LeastSquares(blur, y))


def fixed_point(operator, net, problem):
    """u = D(u), and gamma."""
    scheme = GKM(operator=operator.double(), net=net, alpha=None)
    with torch.no_grad():
        mapping, u = scheme.bind(problem), (problem.f.y,)
        for k in range(3000):
            u = mapping.D(u, k)
        assert (mapping.D(u, 0)[0] - u[0]).abs().max() < 1e-12
    return u, operator.gamma().detach() / problem.f.lipschitz


@pytest.mark.slow
def test_only_the_resolvent_has_the_minimisers_of_the_energy_as_fixed_points():
    """prox_{gamma f} of a fixed point of gkm=prox minimises gamma f + rho R; with gkm=pg not."""
    net, problem = ridge(ConvexRidge), blurred((10, 11))
    u, gamma = fixed_point(Resolvent(gamma=1.5), net, problem)
    expected, slope = minimiser(net, problem, gamma)
    assert slope < 1e-6
    (z,) = problem.f.resolvent(gamma)(u)
    torch.testing.assert_close(z, expected, rtol=0, atol=2e-5)
    assert (u[0] - expected).abs().max() > 1e-2  # the iterate is another image
    u, gamma = fixed_point(ProximalGradient(gamma=1.5), net, problem)
    (forward,) = problem.f.grad(u)
    for image in (u[0], u[0] - gamma * forward):
        assert (image - expected).abs().max() > 1e-2


@pytest.mark.slow
def test_fixed_points_of_a_weakly_convex_ridge_are_critical_points():
    net, problem = ridge(WeaklyConvexRidge), blurred((10, 11))
    u, gamma = fixed_point(Resolvent(gamma=1.5), net, problem)
    z = problem.f.resolvent(gamma)(u)[0].requires_grad_()
    (gradient,) = torch.autograd.grad(total_energy(net, problem, gamma, z), z)
    assert gradient.abs().max() < 1e-5  # rho stays off its ends
    (strength,) = torch.autograd.grad(energy(net, z), z)
    assert strength.abs().max() > 1e-2


def test_undamped_resolvents_never_increase_the_energy_of_a_weakly_convex_ridge():
    net, problem, gamma = ridge(WeaklyConvexRidge), blurred((10, 11)), torch.tensor(20.0).double()
    net.slopes.data[1::2] = -1.0
    net.relaxation.data.fill_(5.0)  # rho = 1.99
    resolvent, z = problem.f.resolvent(gamma), drawn(1, 1, 10, 11)
    energies = []
    with torch.no_grad():
        for _ in range(60):
            energies.append(total_energy(net, problem, gamma, z).item())
            (z,) = resolvent((net(z),))
    falls = -np.diff(energies)
    assert falls.min() > -1e-12
    assert falls.sum() > 0.1
