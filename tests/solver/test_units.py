"""Solvers do not depend on units: a scaled problem has the scaled solution."""

import numpy as np
import pytest
import torch

from bmo_cli.gkm.proximal import ProximalGradient
from bmo_cli.gkm.scheme import GKM
from bmo_cli.hyper.implicit import Implicit
from bmo_cli.solver.anderson import Anderson
from bmo_cli.solver.fixed_point import FixedPointMap, iterate
from bmo_cli.solver.functions import Quadratic, TotalVariation
from bmo_cli.solver.gmres import gmres
from bmo_cli.solver.metric import ScaledIdentity
from bmo_cli.solver.problem import Problem, Sample, SquaredError
from bmo_cli.solver.state import binary_scale

KINDS = {torch.float32: 1e-4, torch.float64: 1e-9}
N = 12


def systems(rng):
    """Names, matrices, right sides: full rank, a right side in an invariant subspace, singular."""
    full = rng.normal(size=(N, N))
    full = np.eye(N) - 0.8 * full / np.linalg.norm(full, 2)
    block = np.eye(N)
    block[0, 1], block[1, 0] = -0.5, -0.3
    rank = np.diag([1.0, 2.0, 3.0] + [0.0] * (N - 3))
    yield "full", full, rng.normal(size=N)
    yield "invariant subspace", block, np.r_[1.0, 2.0, np.zeros(N - 2)]
    yield "one dimension", 3 * np.eye(N), rng.normal(size=N)
    yield "singular, solvable", rank, np.r_[1.0, -1.0, 2.0, np.zeros(N - 3)]
    yield "singular, not solvable", rank, np.ones(N)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", [1e-35, 1e-14, 1e-8, 1e-4, 1.0, 1e8, 1e15, 1e35])
def test_gmres_finds_the_least_residual_in_every_unit(rng, kind, unit):
    """Against NumPy's least squares; the singular system that has no solution keeps its defect."""
    for name, matrix, right in systems(rng):
        a, b = torch.tensor(matrix, dtype=kind), torch.tensor(right * unit, dtype=kind)
        products = []

        def apply(v, a=a, products=products):
            products.append(v)
            return a @ v

        solution, defect = gmres(apply, b, iterations=30, tolerance=KINDS[kind] / 10)
        exact = np.linalg.lstsq(matrix, right, rcond=1e-12)[0]
        left = np.linalg.norm(right - matrix @ exact) / np.linalg.norm(right)
        assert defect == pytest.approx(left, rel=1e-3, abs=KINDS[kind]), name
        residual = right - matrix @ (solution.double().numpy() / unit)
        said = np.linalg.norm(residual) / np.linalg.norm(right)
        assert said == pytest.approx(defect, rel=1e-3, abs=KINDS[kind]), name
        if left < 1e-9:
            error = np.linalg.norm(solution.double().numpy() / unit - exact) / np.linalg.norm(exact)
            assert error < 10 * KINDS[kind], name
        assert len(products) <= np.linalg.matrix_rank(matrix) + 2, name
        if "subspace" in name or "dimension" in name:
            assert len(products) == (2 if "subspace" in name else 1)


def test_powers_of_two_below_the_largest_entry():
    for value in (1e-44, 1e-30, 0.7, 1.0, 3.0, 1e30):
        for kind in KINDS:
            u = (torch.tensor([[0.0, value / 3]], dtype=kind), torch.tensor([[-value]], dtype=kind))
            size = binary_scale(u)
            assert size == max(2.0 ** np.floor(np.log2(value)), torch.finfo(kind).tiny)
            assert torch.equal(u[1] / size * size, u[1])
    assert binary_scale((torch.zeros(1, 3),)) == 1
    assert binary_scale((torch.tensor([[torch.inf, 1.0]]),)) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", [2.0**-80, 2.0**-40, 2.0**60])
def test_anderson_takes_the_same_way_in_every_unit(rng, kind, unit):
    """In float32 squares of 2^-80 vanish and those of 2^80 overflow."""
    m = torch.tensor(rng.normal(size=(5, 5)), dtype=kind)
    m = 0.9 * m / torch.linalg.matrix_norm(m, 2)
    b = torch.tensor(rng.normal(size=(1, 5)), dtype=kind)
    metric = ScaledIdentity(torch.ones((), dtype=kind))

    def end(size):
        mapping = FixedPointMap(lambda u, k: (u[0] @ m.mT + size * b,), metric)
        start = (torch.zeros(1, 5, dtype=kind),)
        accelerated = Anderson(metric, memory=4, iterations=6)
        return iterate(mapping, start, iterations=6, acceleration=accelerated).value[0]

    plain, scaled = end(1.0), end(unit)
    assert torch.equal(scaled / unit, plain)
    exact = torch.linalg.solve(torch.eye(5, dtype=kind) - m, b[0])
    slow = torch.linalg.matrix_power(m, 6)  # the error of six plain iterations, as a factor
    assert (plain[0] - exact).norm() < 0.3 * (slow @ exact).norm()


@pytest.mark.parametrize("solver", ["gmres", "anderson", "fixed_point"])
@pytest.mark.parametrize("unit", [2.0**-70, 2.0**50])
def test_implicit_gradients_scale_with_the_loss(rng, solver, unit):
    """l times a unit has the gradient times the unit, in float32, to the last digit."""
    h = torch.diag(torch.tensor([1.0, 0.5, 0.25]))
    c, x = (torch.tensor(rng.normal(size=(2, 3)), dtype=torch.float32) for _ in range(2))

    class Scaled(SquaredError):
        factor = 1.0

        def value(self, u):
            return self.factor * super().value(u)

        def grad(self, u):
            return (self.factor * super().grad(u)[0],)

    def gradient(factor):
        scheme = GKM(operator=ProximalGradient(gamma=0.8))
        loss = Scaled(x)
        loss.factor = factor
        hyper = Implicit(solver=solver, tolerance=1e-6, backward_iterations=60)
        sample = Sample(Problem(Quadratic(h, c)), (torch.zeros(2, 3),), loss)
        q, defect = hyper._solve(lambda q: tuple(0.5 * a for a in q), (factor * c,))
        assert defect < 1e-4
        torch.testing.assert_close(q[0] / factor, 2 * c, rtol=2e-4, atol=0)
        outcome = hyper.objective(scheme, sample, 200)
        outcome.objective.backward()
        return scheme.operator.gamma.theta.grad / factor, outcome.flags

    (plain, _), (scaled, flags) = gradient(1.0), gradient(unit)
    assert flags == ()
    torch.testing.assert_close(scaled, plain, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", [1e-18, 1e-6, 1e12])
def test_the_shrinkage_of_gradients_has_no_unit(rng, kind, unit):
    """prox of |z|_{2,1} against its formula, pixels without a gradient among them."""
    z = rng.normal(size=(1, 2, 5, 4))
    z[:, :, 2] = 0
    length = np.sqrt((z**2).sum(1, keepdims=True))
    shrunk = z * np.maximum(1 - 0.8 / np.where(length > 0, length, 1), 0)
    assert 0.1 < (shrunk != 0).mean() < 0.9
    given = torch.tensor(unit * z, dtype=kind).requires_grad_()
    (result,) = TotalVariation(0.4).prox((given,), torch.tensor(2 * unit, dtype=kind))
    np.testing.assert_allclose(result.detach().double() / unit, shrunk, rtol=0, atol=1e-5)
    result.sum().backward()
    assert given.grad.isfinite().all()
