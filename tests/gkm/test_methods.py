"""Every overlay of configs/method/ against the method in its own literature, step by step.

The textbook side is written here in NumPy (the deep equilibrium in torch, for its derivatives) and
shares no formula with the package: it only reads values of parameters.
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from bmo_cli.config.locate import choices, config_dir
from bmo_cli.config.schema import check_config
from bmo_cli.experiment.build import build
from bmo_cli.gkm.learned import analytic_weight
from bmo_cli.linear.blur import PeriodicBlur, transfer_function
from bmo_cli.solver.fixed_point import Status, iterate
from bmo_cli.solver.problem import Sample, SquaredError
from bmo_cli.tasks.deconvolution import blur_problem

M, N, KAPPA = 8, 14, 0.15
CODES = (
    f"task.rows={M}",
    f"task.columns={N}",
    f"task.kappa={KAPPA}",
    "task.snr=15",
    "task.density=0.3",
)
SIZE = (9, 8)
TESTED = {
    *("ista", "fista", "lista", "lista_cp", "alista", "ladmm", "dladmm"),
    *("pnp_fbs", "pnp_hqs", "ista_net", "deq"),
}


def test_every_method_is_tested():
    elsewhere = {
        "tv",  # tests/solver/test_total_variation.py
        *("wiener", "unsupervised_wiener", "richardson_lucy", "wiener_tv", "wiener_nlm", "dpir"),
        "pnp",  # with weights from a file: tests/nets/test_weights.py, tests/gkm/test_filters.py
    }
    assert set(choices()["method"]) == TESTED | elsewhere


def built(*words, scale=0.03):
    """An experiment in float64, every learned parameter moved by another random number."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("train", ["device=cpu", *words])
    experiment = build(check_config(OmegaConf.to_container(config, resolve=True)))
    experiment.omega.double()
    generator = torch.Generator().manual_seed(7)
    for p in experiment.omega.parameters():
        if p.requires_grad:
            p.data += scale * torch.randn(p.shape, generator=generator, dtype=torch.float64)
    return experiment


def stage(scheme, k):
    """Operator and network of iteration k; their weights differ from those of other stages."""
    found = scheme.stages[min(k, len(scheme.stages) - 1)]
    for other in scheme.stages:
        if other is not found:
            pairs = zip(found.parameters(), other.parameters(), strict=True)
            assert not any(torch.equal(a, b) for a, b in pairs if a.requires_grad)
    return found


def value(tensor):
    return tensor.detach().numpy()


def equals(scheme, problem, initial, textbook, iterations, tolerance=1e-9):
    """Iterates of the scheme and of the textbook, a function (k, *blocks) -> blocks."""
    mapping = scheme.bind(problem)
    assert mapping.alpha == 1
    state = tuple(torch.tensor(block) for block in initial)
    ours = tuple(initial)
    with torch.no_grad():
        for k in range(iterations):
            state, ours = mapping.D(state, k), textbook(k, *ours)
            for found, expected in zip(state, ours, strict=True):
                assert found.dtype == torch.float64
                np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
        start = tuple(torch.tensor(block) for block in initial)
        solution = iterate(mapping, start, iterations=iterations)
    torch.testing.assert_close(solution.value, state, rtol=tolerance, atol=tolerance)
    moved = np.abs(ours[0] - initial[0]).max()
    assert moved > 1e-2, "nothing happened"
    return ours


# --- sparse coding --------------------------------------------------------------------------------


class Codes:
    """Dictionary and observations of a batch, as NumPy arrays; rows are problems."""

    def __init__(self, experiment, rng, blocks=1):
        (sample,) = experiment.task.samples(range(3, 4), 3)
        self.scheme, self.problem = experiment.scheme, sample.problem
        self.a = value(experiment.task.dictionary)
        relation = sample.problem.coupling
        self.y = value(sample.problem.f.y if relation is None else relation.b)
        self.lipschitz = np.linalg.svd(self.a, compute_uv=False)[0] ** 2
        shapes = [(3, N), (3, M), (3, M)][:blocks]
        self.start = tuple(rng.normal(size=shape) for shape in shapes)

    def equal(self, textbook, iterations, tolerance=1e-9):
        first = equals(self.scheme, self.problem, self.start, textbook, iterations, tolerance)[0]
        assert 0 < (first == 0).sum() < first.size, "the threshold does nothing, or all"


def soft(v, t):
    return np.sign(v) * np.maximum(np.abs(v) - t, 0)


def test_ista(rng):
    """Beck & Teboulle (2009), with the constant step 1/L."""
    codes = Codes(built("method=ista", *CODES), rng)
    a, y, step = codes.a, codes.y, 1 / codes.lipschitz

    def textbook(k, x):
        return (soft(x - step * (x @ a.T - y) @ a, step * KAPPA),)

    codes.equal(textbook, 25)


def test_ista_with_another_step_and_weight(rng):
    numbers = ("gkm.operator.gamma=1.6", "gkm.operator.weight=0.4")
    codes = Codes(built("method=ista", *CODES, *numbers), rng)
    step = codes.scheme.operator.gamma().item() / codes.lipschitz
    assert step == pytest.approx(1.6 / codes.lipschitz, rel=1e-5)

    def textbook(k, x):
        return (soft(x - step * (x @ codes.a.T - codes.y) @ codes.a, step * 0.4 * KAPPA),)

    codes.equal(textbook, 25, tolerance=1e-6)  # the weight is kept as a logarithm in float32


def test_fista(rng):
    """Beck & Teboulle (2009), section 4: y_1 = x_0, t_1 = 1."""
    codes = Codes(built("method=fista", *CODES), rng)
    a, y, step = codes.a, codes.y, 1 / codes.lipschitz
    (x,) = codes.start
    extrapolated, t, expected = x, 1.0, []
    for _ in range(25):
        before = x
        gradient = (extrapolated @ a.T - y) @ a
        x = soft(extrapolated - step * gradient, step * KAPPA)
        t_next = (1 + math.sqrt(1 + 4 * t**2)) / 2
        extrapolated = x + (t - 1) / t_next * (x - before)
        t = t_next
        expected.append(x)
    mapping = codes.scheme.bind(codes.problem)
    assert mapping.alpha == 1
    for k in range(25):
        found = iterate(mapping, (torch.tensor(codes.start[0]),), iterations=k + 1).value
        np.testing.assert_allclose(found[0], expected[k], rtol=1e-9, atol=1e-9)
    assert 0 < (expected[-1] == 0).sum() < x.size


def test_lista(rng):
    """Gregor & LeCun (2010): x <- soft(W_1 y + W_2 x, theta), with weights per layer."""
    codes = Codes(built("method=lista", *CODES), rng)
    a, y, lip = codes.a, codes.y, codes.lipschitz

    def textbook(k, x):
        operator = stage(codes.scheme, k).operator
        w_1 = a.T / lip + value(operator.encoder)
        w_2 = np.eye(N) - a.T @ a / lip + value(operator.inhibition)
        theta = operator.threshold().item() * KAPPA / lip
        return (soft(y @ w_1.T + x @ w_2.T, theta),)

    assert len(codes.scheme.stages) == 16
    codes.equal(textbook, 18)


def test_lista_cp(rng):
    """Chen, Liu, Wang & Yin (2018): x <- soft(x + W^T (y - A x), theta)."""
    codes = Codes(built("method=lista_cp", *CODES), rng)
    a, y, lip = codes.a, codes.y, codes.lipschitz

    def textbook(k, x):
        operator = stage(codes.scheme, k).operator
        w = a / lip + value(operator.correction)
        return (soft(x + (y - x @ a.T) @ w, operator.threshold().item() * KAPPA / lip),)

    assert len(codes.scheme.stages) == 16
    codes.equal(textbook, 18)


def constrained_weight(a):
    """Columns w_i = argmin |A^T w|^2 subject to a_i^T w = 1, each from its KKT system."""
    m, n = a.shape
    columns = []
    for i in range(n):
        system = np.block([[2 * a @ a.T, a[:, i : i + 1]], [a[:, i : i + 1].T, np.zeros((1, 1))]])
        columns.append(np.linalg.solve(system, np.r_[np.zeros(m), 1.0])[:m])
    return np.stack(columns, 1)


def test_alista(rng):
    """Liu, Chen, Wang & Yin (2019): x <- soft(x - gamma W^T (A x - y), theta)."""
    codes = Codes(built("method=alista", *CODES, "gkm.operator.gamma=0.4", scale=0.1), rng)
    a, y = codes.a, codes.y
    w = constrained_weight(a)

    def textbook(k, x):
        operator = stage(codes.scheme, k).operator
        gamma, theta = operator.gamma().item(), operator.threshold().item() * KAPPA
        return (soft(x - gamma * (x @ a.T - y) @ w, theta / codes.lipschitz),)

    assert len(codes.scheme.stages) == 16
    codes.equal(textbook, 18)


def test_alista_weight_is_the_minimiser(rng):
    a = rng.normal(size=(6, 11))
    a /= np.linalg.norm(a, axis=0)
    w = value(analytic_weight(torch.tensor(a)))
    np.testing.assert_allclose(w, constrained_weight(a), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose((w * a).sum(0), 1, rtol=1e-12)
    least = np.linalg.norm(w.T @ a)
    assert least < np.linalg.norm(a.T @ a)
    for size in (1e-3, 1e-1, 10):
        move = rng.normal(size=a.shape)
        move -= a * (move * a).sum(0)  # the constraint stays
        assert np.linalg.norm((w + size * move).T @ a) > least


@pytest.mark.parametrize("numbers", [(), ("gkm.operator.beta=0.3", "gkm.operator.share=0.6")])
def test_ladmm(rng, numbers):
    """Lin, Liu & Su (2011) for min kappa |x|_1 + 1/2 |z|^2, A x + z = y, with eta_B = |I|^2 = 1."""
    codes = Codes(built("method=ladmm", *CODES, *numbers), rng, blocks=3)
    a, y, operator = codes.a, codes.y, codes.scheme.operator
    beta, eta = operator.beta().item(), codes.lipschitz / operator.share().item()

    def textbook(k, x, z, lam):
        x = soft(x - a_t(lam + beta * (x @ a.T + z - y)) / (beta * eta), KAPPA / (beta * eta))
        # argmin_z 1/2 |z|^2 + <lam, z> + beta/2 |A x + z - y|^2
        z = -(lam + beta * (x @ a.T - y)) / (1 + beta)
        return x, z, lam + beta * (x @ a.T + z - y)

    def a_t(v):
        return v @ a

    codes.equal(textbook, 25)


@pytest.mark.parametrize("form", ["split", "exact"])
def test_dladmm(rng, form):
    """Xie, Wu, Liu, Zhong & Lin (2019); h is a square, or the constraint z = 0."""
    codes = Codes(built("method=dladmm", *CODES, f"task.form={form}"), rng, blocks=3)
    a, y, lip = codes.a, codes.y, codes.lipschitz

    def textbook(k, x, z, lam):
        operator = stage(codes.scheme, k).operator
        beta = operator.beta().item()
        tau = operator.share().item() / (beta * lip)
        w = tau * a + value(operator.correction)
        x = x - (lam + beta * (x @ a.T + z - y)) @ w
        x = soft(x, tau * operator.u_threshold().item() * KAPPA)
        epsilon, eta = operator.z_step().item() / beta, operator.z_threshold().item() / beta
        z = z - epsilon * (lam + beta * (x @ a.T + z - y))
        z = z / (1 + eta) if form == "split" else np.zeros_like(z)
        return x, z, lam + beta * (x @ a.T + z - y)

    assert len(codes.scheme.stages) == 16
    codes.equal(textbook, 18)


def test_untrained_learned_methods_are_their_classical_ones(rng):
    for learned, classical, blocks in (("lista", "ista", 1), ("lista_cp", "ista", 1)):
        codes = Codes(built(f"method={learned}", *CODES, scale=0), rng, blocks)
        known = built(f"method={classical}", *CODES).scheme.bind(codes.problem)
        start = tuple(torch.tensor(block) for block in codes.start)
        found = iterate(codes.scheme.bind(codes.problem), start, iterations=9).value
        expected = iterate(known, start, iterations=9).value
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


# --- deconvolution --------------------------------------------------------------------------------


class Blurred:
    """Two images under kernels of their own, neither symmetric, by shifts of the whole image."""

    def __init__(self, rng, size=SIZE, strength=1.0):
        self.kernels = strength * rng.random((2, 3, 5))
        self.kernels[:, 1, 2] += 1
        self.y, self.start, self.clean = (rng.normal(size=(2, 1, *size)) for _ in range(3))
        blur = PeriodicBlur(transfer_function(torch.tensor(self.kernels), size), size)
        self.problem = blur_problem(torch.tensor(self.y), blur)
        impulse = np.zeros((2, 1, *size))
        impulse[:, :, 0, 0] = 1
        self.power = np.abs(np.fft.fft2(self.blur(impulse))) ** 2
        self.lipschitz = self.power.max()

    def blur(self, u, sign=1):
        """(k * u)(p) = sum_q k(q) u(p - q); sign = -1: the adjoint."""
        result = np.zeros_like(u)
        for b, kernel in enumerate(self.kernels):
            for (i, j), weight in np.ndenumerate(kernel):
                shift = (sign * (i - 1), sign * (j - 2))
                result[b, 0] += weight * np.roll(u[b, 0], shift, (0, 1))
        return result

    def gradient(self, u):
        return self.blur(self.blur(u) - self.y, -1)

    def resolvent(self, v, gamma):
        spectrum = np.fft.fft2(v + gamma * self.blur(self.y, -1)) / (1 + gamma * self.power)
        return np.fft.ifft2(spectrum).real


def dncnn(net, x):
    """Zhang et al. (2017): the last of a chain of convolutions is the noise."""
    state = net.state_dict()
    depth = len({name.split(".")[1] for name in state})
    z = torch.tensor(x)
    for i in range(depth):
        z = F.conv2d(z, state[f"convs.{i}.weight"], state[f"convs.{i}.bias"], padding=1)
        z = z.clamp_min(0) if i < depth - 1 else z
    return x - z.numpy()


DENOISER = ("net.depth=3", "net.width=4")


def test_pnp_forward_backward_splitting(rng):
    """Venkatakrishnan et al. (2013), Kamilov et al. (2017): x <- R(x - gamma A^T (A x - y))."""
    scheme, image = built("method=pnp_fbs", *DENOISER, scale=0.05).scheme, Blurred(rng)

    def textbook(k, x):
        return (dncnn(scheme.net, x - image.gradient(x) / image.lipschitz),)

    assert not scheme.operator.gamma.theta.requires_grad
    equals(scheme, image.problem, (image.start,), textbook, 8)


def test_pnp_half_quadratic_splitting(rng):
    """Zhang et al. (2017): z = argmin 1/2 |A z - y|^2 + |z - x|^2 / (2 gamma), x <- R(z)."""
    scheme, image = built("method=pnp_hqs", *DENOISER, scale=0.05).scheme, Blurred(rng)
    gamma = scheme.operator.gamma().item() / image.lipschitz
    assert gamma == pytest.approx(50 / image.lipschitz, rel=1e-5)

    def textbook(k, x):
        z = image.resolvent(x, gamma)
        optimality = image.gradient(z) + (z - x) / gamma
        assert np.abs(optimality).max() < 1e-9
        return (dncnn(scheme.net, z),)

    assert not scheme.operator.gamma.theta.requires_grad
    equals(scheme, image.problem, (image.start,), textbook, 8)


@pytest.mark.parametrize("residual", [True, False])
def test_ista_net(rng, residual):
    """Zhang & Ghanem (2018): r = x - rho A^T (A x - y), x <- [r +] Ft(soft(F(r), theta))."""
    words = ("net.width=4", f"net.residual={residual}", "net.last_gain=0.3", "net.theta=0.1")
    scheme, image = built("method=ista_net", *words, scale=0.02).scheme, Blurred(rng)
    assert len(scheme.stages) == 9
    active = []

    def textbook(k, x):
        part = stage(scheme, k)
        r = x - part.operator.gamma().item() / image.lipschitz * image.gradient(x)
        a, b, c, d = (getattr(part.net, name).detach() for name in "abcd")
        features = F.conv2d(F.conv2d(torch.tensor(r), a, padding=1).clamp_min(0), b, padding=1)
        shrunk = soft(features.numpy(), part.net.theta.item())
        active.append((shrunk == 0).mean())
        back = F.conv2d(torch.tensor(shrunk), c, padding=1).clamp_min(0)
        back = F.conv2d(back, d, padding=1).numpy()
        return (r + back if residual else back,)

    assert all(part.net.theta.item() > 0 for part in scheme.stages)
    equals(scheme, image.problem, (image.start,), textbook, 11)
    assert 0.01 < np.mean(active) < 0.99


def convex_potential(filters, log_levels, relaxation):
    """Meunier et al. (2022) with a clipping: x - rho W^T clip(W x) / |W|^2, borders periodic."""
    half = filters.shape[-1] // 2
    offsets = [(i, j) for i in range(-half, half + 1) for j in range(-half, half + 1)]
    layers = []
    for w, log_t, theta in zip(filters, log_levels, relaxation, strict=True):
        t = log_t.exp()[:, :, None]
        w = w - w.mean((2, 3), keepdim=True)
        power = torch.fft.fft2(w[:, 0], s=(128, 128)).abs().square().sum(0)
        w = w / (power.max().sqrt() / math.cos(2 * math.pi * half / 128))
        taps = [w[:, 0, i + half, j + half, None, None] for i, j in offsets]
        layers.append((taps, t, 2e-6 + (2 - 4e-6) / (1 + torch.exp(-theta))))

    def apply(x):
        for taps, t, rho in layers:
            ahead = [torch.roll(x, (-i, -j), (2, 3)) for i, j in offsets]
            features = sum(a * b for a, b in zip(taps, ahead, strict=True))
            clipped = torch.minimum(torch.maximum(features, -t), t)
            behind = [torch.roll(clipped, (i, j), (2, 3)) for i, j in offsets]
            back = sum(a * b for a, b in zip(taps, behind, strict=True))
            x = x - rho * back.sum(1, keepdim=True)
        return x

    return apply


def test_deep_equilibrium(rng):
    """Bai, Kolter & Koltun (2019): forward a fixed point, backward (I - J^T)^{-1}, here dense."""
    size = (6, 5)
    experiment = built(
        *("method=deq", "net.depth=2", "net.width=3", "net.size=3", "net.threshold=0.3"),
        *("hyper.tolerance=1e-13", "hyper.backward_tolerance=1e-13"),
        "hyper.backward_iterations=100",
        scale=0.05,
    )
    scheme, image = experiment.scheme, Blurred(rng, size, strength=0.02)
    operator, net = experiment.scheme.operator, experiment.scheme.net
    gamma = operator.gamma()
    leaves = [p.detach().clone().requires_grad_() for p in (gamma, *net.parameters())]
    assert [name for name, _ in net.named_parameters()] == ["filters", "log_levels", "relaxation"]

    def blur_matrix(b):
        """A of image b, column by column."""
        found = []
        for i in range(30):
            impulse = np.zeros((2, 1, *size))
            impulse[b].flat[i] = 1
            found.append(image.blur(impulse)[b].ravel())
        return torch.tensor(np.stack(found, 1))

    a = torch.stack([blur_matrix(b) for b in range(2)])
    y = torch.tensor(image.y).reshape(2, 30, 1)

    def bound(gamma, *weights):
        network = convex_potential(*weights)

        def textbook(u):
            gradient = (a.mT @ (a @ u.reshape(2, 30, 1) - y)).reshape(u.shape)
            return network(u - gamma / image.lipschitz * gradient)

        return textbook

    u, textbook = torch.tensor(image.start), bound(*leaves)
    with torch.no_grad():
        for _ in range(200):
            u = textbook(u)
        assert (textbook(u) - u).abs().max() < 1e-13
        start = (torch.tensor(image.start),)
        found = iterate(scheme.bind(image.problem), start, iterations=600, tolerance=1e-13)
    assert found.status is Status.CONVERGED
    torch.testing.assert_close(found.value[0], u, rtol=1e-6, atol=1e-7)

    clean = torch.tensor(image.clean)
    jacobian = torch.autograd.functional.jacobian(bound(*leaves), u).reshape(60, 60)
    assert (jacobian - jacobian.T).abs().max() > 1e-3
    right = ((u - clean) / (2 * 30)).reshape(60)  # of the mean over images and pixels
    q = torch.linalg.solve(torch.eye(60, dtype=torch.float64) - jacobian.T, right)
    expected = torch.autograd.grad(textbook(u), leaves, q.reshape(u.shape))

    sample = Sample(image.problem, start, SquaredError(clean))
    outcome = experiment.hyper.objective(scheme, sample, 600)
    assert outcome.flags == ()
    half_mean = 0.5 * (u - clean).square().mean().item()
    assert outcome.objective.item() == pytest.approx(half_mean, rel=1e-7)
    outcome.objective.backward()
    (slope,) = torch.autograd.grad(gamma, operator.gamma.theta)
    torch.testing.assert_close(operator.gamma.theta.grad, slope * expected[0], rtol=1e-6, atol=0)
    for p, gradient in zip(net.parameters(), expected[1:], strict=True):
        assert gradient.abs().max() > 1e-5
        torch.testing.assert_close(p.grad, gradient, rtol=1e-6, atol=1e-9)


# --- the optimum itself ---------------------------------------------------------------------------

LONG = {
    "pg": ("lasso", 6000, ("gkm.alpha=null",)),
    "fista": ("lasso", 6000, ()),
    "dr": ("lasso", 3000, ()),
    "ladmm": ("split", 8000, ()),
    "pdhg": ("split", 8000, ()),
}


@pytest.mark.parametrize("name", LONG)
def test_classical_solvers_find_the_lasso_optimum(name):
    linear_model = pytest.importorskip("sklearn.linear_model", reason="needs scikit-learn")
    form, iterations, words = LONG[name]
    words = ("task=sparse_coding", f"gkm={name}", "hyper=none", f"task.form={form}", *words)
    experiment = built(*words, *CODES)
    found, sample = run_long(experiment, iterations)
    relation = sample.problem.coupling
    y = value(sample.problem.f.y if relation is None else relation.b)
    lasso = linear_model.Lasso(fit_intercept=False, alpha=KAPPA / M, tol=1e-13, max_iter=10**6)
    expected = np.stack([lasso.fit(value(experiment.task.dictionary), row).coef_ for row in y])
    assert 0 < (expected != 0).sum() < expected.size / 2
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_alm_finds_the_sparsest_solution():
    optimize = pytest.importorskip("scipy.optimize")
    words = ("task=sparse_coding", "gkm=alm", "hyper=none", "task.form=exact")
    experiment = built(*words, *CODES, "gkm.operator.beta=0.3")
    found, sample = run_long(experiment, 8000)
    a, y = value(experiment.task.dictionary), value(sample.problem.coupling.b)
    for row, code in zip(y, found, strict=True):
        program = optimize.linprog(np.ones(2 * N), A_eq=np.hstack([a, -a]), b_eq=row)
        expected = program.x[:N] - program.x[N:]
        assert 0 < (np.abs(expected) > 1e-9).sum() < N
        np.testing.assert_allclose(code, expected, rtol=0, atol=1e-6)


def run_long(experiment, iterations):
    (sample,) = experiment.task.samples(range(3, 4), 3)
    mapping = experiment.scheme.bind(sample.problem)
    with torch.no_grad():
        end = iterate(mapping, sample.initial, iterations=iterations, tolerance=1e-14)
        assert end.status is not Status.NONFINITE
        return value(mapping.estimate(end.value)[0]), sample
