"""Hyper-gradients against central finite differences in float64; the aggregation formula itself."""

import pytest
import torch

from bmo_cli.errors import InputError
from bmo_cli.gkm.accelerated import FISTA
from bmo_cli.gkm.dpir import DPIR
from bmo_cli.gkm.operator import BoundOperator, NumericalOperator
from bmo_cli.gkm.proximal import DouglasRachford, ProximalGradient, Resolvent
from bmo_cli.gkm.scheme import GKM
from bmo_cli.hyper.aggregation import BMO, Unrolled
from bmo_cli.hyper.implicit import UNCONVERGED, UNSOLVED, Implicit
from bmo_cli.hyper.none import Untrained
from bmo_cli.hyper.separate import Separate
from bmo_cli.hyper.truncated import Truncated
from bmo_cli.linear.blur import PeriodicBlur, transfer_function
from bmo_cli.linear.matrix import Matrix
from bmo_cli.nets.convex_potential import ConvexPotential
from bmo_cli.nets.dncnn import DnCNN
from bmo_cli.nets.network import Identity
from bmo_cli.solver.fixed_point import iterate
from bmo_cli.solver.functions import L1, LeastSquares
from bmo_cli.solver.gmres import gmres
from bmo_cli.solver.metric import Metric, ScaledIdentity
from bmo_cli.solver.problem import Problem, Sample, SquaredError
from bmo_cli.tasks.toy import Toy

SIZE = (9, 8)
NETS = {
    "dncnn": lambda: DnCNN(depth=3, width=3, last_gain=1.0),
    "lip": lambda: ConvexPotential(depth=2, width=3, size=3, threshold=0.5),
    "none": lambda: None,
}


@pytest.fixture
def sample(rng):
    return make_sample(rng, torch.tensor(rng.random((2, 3, 3))) / 9)


def make_sample(rng, kernel):
    blur = PeriodicBlur(transfer_function(kernel, SIZE), SIZE)
    clean, y = (torch.tensor(rng.normal(size=(2, 1, *SIZE))) for _ in range(2))
    noise = torch.tensor([0.01, 0.02], dtype=torch.float64)
    problem = Problem(LeastSquares(blur, y), noise=noise)
    return Sample(problem, (y,), SquaredError(clean), seed=5)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("operator", [ProximalGradient, Resolvent])
@pytest.mark.parametrize(
    "hyper",
    [
        Unrolled(),
        BMO(mu=0.4, s=0.9),
        BMO(mu=0.4, s=0.9, box=(-0.7, 0.8)),
        Truncated(last=4),
    ],
)
def test_hypergradient_equals_finite_differences(sample, net, operator, hyper):
    scheme = GKM(operator=operator(gamma=1.2), net=NETS[net](), alpha=0.8).double()
    equals_finite_differences(scheme, sample, hyper, 4)


def equals_finite_differences(scheme, sample, hyper, iterations, rel=2e-5, value=None):
    """Directional derivatives of `value`'s objective (by default of `hyper`'s own)."""
    value = value or hyper
    hyper.objective(scheme, sample, iterations).objective.backward()
    generator = torch.Generator().manual_seed(0)
    for parameter in (p for p in scheme.parameters() if p.requires_grad):
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        start, h, values = parameter.data.clone(), 1e-6, []
        for sign in (1, -1):
            parameter.data = start + sign * h * direction
            values.append(value.objective(scheme, sample, iterations).objective.item())
        parameter.data = start
        expected = (values[0] - values[1]) / (2 * h)
        found = (parameter.grad * direction).sum().item()
        assert found == pytest.approx(expected, rel=rel, abs=1e-9)


def test_aggregation_is_the_formula(sample):
    mu, s, alpha, gamma = 0.3, 0.5, 0.8, 1.2
    scheme = GKM(operator=ProximalGradient(gamma=gamma), alpha=alpha).double()
    f, clean = sample.problem.f, sample.loss.target
    step = scheme.operator.gamma().item() / f.lipschitz
    u = sample.initial[0]
    for k in range(3):
        v_l = (1 - alpha) * u + alpha * (u - step * f.grad((u,))[0])
        s_k = s * (1 / step) / (k + 1)  # lambda_min(G) / L_l with G = I / step and L_l = 1
        v_u = u - s_k * step * (u - clean)
        u = mu * v_u + (1 - mu) * v_l
    expected = 0.5 * (u - clean).square().sum().item() / 2 / (SIZE[0] * SIZE[1])
    found = BMO(mu=mu, s=s).objective(scheme, sample, 3)
    assert found.objective.item() == pytest.approx(expected, rel=1e-10)


def test_without_aggregation_bmo_is_unrolling(sample):
    scheme = GKM(operator=Resolvent(), net=NETS["dncnn"]()).double()
    found = [h.objective(scheme, sample, 3).objective.item() for h in (BMO(mu=0.0), Unrolled())]
    assert found[0] == pytest.approx(found[1], rel=1e-12)


@pytest.mark.parametrize(("done", "mu"), [(0.0, 0.4), (0.25, 0.3), (1.0, 0.0)])
def test_the_weight_changes_linearly_over_the_training(sample, done, mu):
    scheme = GKM(operator=ProximalGradient()).double()
    hyper = BMO(mu=0.4, mu_end=0.0)
    hyper.begin_step(done)
    objectives = [h.objective(scheme, sample, 3).objective.item() for h in (hyper, BMO(mu=mu))]
    assert objectives[0] == pytest.approx(objectives[1], rel=1e-12)
    constant = BMO(mu=0.05)
    constant.begin_step(0.7)
    assert constant.mu == 0.05


def test_projection_keeps_the_iterate_in_the_box(sample):
    scheme = GKM(operator=Resolvent()).double()
    narrow = BMO(mu=0.1, box=(0.0, 1e-9)).objective(scheme, sample, 3)
    at_zero = 0.5 * sample.loss.target.square().mean().item()
    assert narrow.objective.item() == pytest.approx(at_zero, rel=1e-6)


def test_box_is_refused_in_a_metric_that_is_not_diagonal(sample):
    class Coupled(ScaledIdentity):
        is_diagonal = False

    class Operator(NumericalOperator):
        def bind(self, problem):
            return BoundOperator(lambda u, k: u, Coupled(torch.tensor(1.0)))

    assert issubclass(Coupled, Metric)
    with pytest.raises(InputError, match=r"hyper\.box needs a diagonal metric"):
        BMO(box=(0, 1)).objective(GKM(operator=Operator()), sample, 2)


ONE_IMAGE = torch.tensor([[0.2, 0.5, 0.8]], dtype=torch.float64)
OUTSIDE = torch.tensor([[3.7, 0.5, -2.2]], dtype=torch.float64)


@pytest.mark.parametrize("operator", [ProximalGradient, DouglasRachford])
def test_a_box_that_holds_the_solution_does_not_move_it(operator):
    """argmin 1/2 |x - y|^2 + 3.2 |x|_1 = soft(y, 3.2) lies in [0, 1]; the s* of DR does not."""
    f = LeastSquares(Matrix(torch.eye(3, dtype=torch.float64)), OUTSIDE)
    mapping = GKM(operator=operator(gamma=1.0), alpha=0.9).double().bind(Problem(f, L1(3.2)))
    loss = mapping.loss_on_state(SquaredError(ONE_IMAGE))

    def end(box):
        update = BMO(mu=1e-9, s=0.5, box=box)._update_rule(mapping, loss)
        start = (torch.zeros(1, 3, dtype=torch.float64),)
        return mapping.estimate(iterate(mapping, start, iterations=400, update=update).value)[0]

    solution = torch.tensor([[0.5, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(end(None), solution, rtol=0, atol=1e-6)
    if operator is DouglasRachford:
        with pytest.raises(InputError, match=r"hyper\.box bounds the estimate"):
            end((0.0, 1.0))
    else:
        torch.testing.assert_close(end((0.0, 1.0)), solution, rtol=0, atol=1e-6)


def test_a_box_is_refused_before_training(sample):
    scheme = GKM(operator=DouglasRachford()).double()
    with pytest.raises(InputError, match=r"use hyper\.box=null, or gkm=pg"):
        BMO(box=(0, 1)).plan(scheme, sample, 3, None)


def test_box_must_be_an_interval():
    with pytest.raises(InputError, match="low < high"):
        BMO(box=(1.0, 0.0))


def test_separate_fits_a_denoiser_of_the_matching_noise(sample):
    scheme = GKM(operator=Resolvent(gamma=4.0), net=NETS["dncnn"]()).double()
    draw = torch.randn(
        sample.loss.target.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )
    step = (4.0 / sample.problem.f.lipschitz) ** 0.5
    level = step * sample.problem.noise[:, None, None, None]
    noisy = sample.loss.target + level * draw
    error = scheme.net(noisy) - sample.loss.target
    expected = 0.5 * error.square().mean().item()
    found = Separate().objective(scheme, sample, 7).objective
    assert found.item() == pytest.approx(expected, rel=1e-6)
    found.backward()
    assert scheme.operator.gamma.theta.grad is None
    assert all(p.grad is not None for p in scheme.net.parameters())


def test_separate_says_what_it_cannot_do(sample):
    with pytest.raises(InputError, match="net=none has nothing to fit"):
        Separate().objective(GKM(operator=Resolvent(), net=Identity()), sample, 1)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["gmres", "anderson", "fixed_point"])
@pytest.mark.parametrize("net", ["lip", "none"])
def test_implicit_gradient_at_a_fixed_point(rng, net, solver):
    """The kernel is nearly a unit impulse, so that D is a contraction with a small factor."""
    kernel = 0.02 * torch.tensor(rng.random((2, 3, 3)))
    kernel[:, 1, 1] = 1
    sample = make_sample(rng, kernel)
    scheme = GKM(operator=Resolvent(gamma=2.0), net=NETS[net](), alpha=0.9).double()
    tight = {"tolerance": 1e-13, "backward_tolerance": 1e-13}
    hyper = Implicit(solver=solver, backward_iterations=100, **tight)
    outcome = hyper.objective(scheme, sample, 200)
    assert outcome.flags == ()
    assert outcome.residual < 1e-12
    equals_finite_differences(scheme, sample, hyper, 200, rel=1e-5, value=Truncated(last=1))


def test_implicit_says_when_it_is_not_converged(sample):
    scheme = GKM(operator=Resolvent(gamma=2.0)).double()
    assert UNCONVERGED in Implicit(tolerance=1e-9).objective(scheme, sample, 2).flags
    short = Implicit(tolerance=1.0, backward_iterations=1)
    assert short.objective(scheme, sample, 2).flags == (UNSOLVED,)


def test_truncation_is_biased_and_the_bias_falls_with_its_length(sample):
    def gradient(hyper):
        scheme = GKM(operator=Resolvent(gamma=1.0), net=NETS["dncnn"](), alpha=0.8).double()
        hyper.objective(scheme, sample, 12).objective.backward()
        return torch.cat([p.grad.flatten() for p in scheme.parameters()])

    exact = gradient(Unrolled())
    errors = [
        ((gradient(Truncated(last=m)) - exact).norm() / exact.norm()).item() for m in (1, 4, 11, 12)
    ]
    assert errors[0] > 0.01
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[3] < 1e-12


@pytest.mark.parametrize("n", [1, 7, 30])
def test_solvers_of_a_system_that_is_not_symmetric(rng, n):
    a = torch.eye(n, dtype=torch.float64) + 0.4 * torch.tensor(rng.normal(size=(n, n))) / n**0.5
    b = torch.tensor(rng.normal(size=n))
    expected = torch.linalg.solve(a, b)
    found, defect = gmres(lambda q: a @ q, b, iterations=n, tolerance=1e-13)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert defect < 1e-9
    assert gmres(lambda q: a @ q, torch.zeros_like(b), iterations=3, tolerance=1e-9)[0].norm() == 0


def test_gmres_stops_at_its_limit_with_the_best_it_has(rng):
    a = torch.eye(40, dtype=torch.float64) + 0.5 * torch.tensor(rng.normal(size=(40, 40))) / 40**0.5
    b = torch.tensor(rng.normal(size=40))
    defects = [
        (a @ gmres(lambda q: a @ q, b, iterations=k, tolerance=0.0)[0] - b).norm().item()
        for k in (1, 5, 10, 20)
    ]
    _, said = gmres(lambda q: a @ q, b, iterations=20, tolerance=0.0)
    assert said * b.norm().item() == pytest.approx(defects[3], rel=1e-6)
    assert defects == sorted(defects, reverse=True)
    assert defects[3] < 1e-2 * defects[0]


def test_none_has_no_hypergradient(sample):
    assert not Untrained.trains
    with pytest.raises(InputError, match="hyper=none"):
        Untrained().objective(GKM(operator=Resolvent()), sample, 1)


def test_gmres_ends_at_products_that_are_not_finite():
    found, defect = gmres(lambda q: q * torch.nan, torch.ones(3), iterations=5, tolerance=1e-3)
    assert torch.isnan(found).all()
    assert defect == float("inf")


@pytest.mark.parametrize("solver", ["gmres", "anderson", "fixed_point"])
def test_implicit_says_that_a_singular_system_has_no_solution(solver):
    """I - J is singular along y_2, which the loss looks at: |b - A q| / |b| cannot come down."""
    toy = Toy(problem="a", n=2).double()
    toy.x.data.fill_(0.3)
    scheme = GKM(operator=ProximalGradient(gamma=1.2)).double()
    hyper = Implicit(solver=solver, backward_iterations=200, backward_tolerance=1e-2)
    assert UNSOLVED in hyper.objective(scheme, toy.sample(), 100).flags


def test_truncated_says_which_stages_it_leaves_out():
    scheme = GKM(operator=Resolvent(), stages=3)
    assert "last 2 are differentiated" in Truncated(last=2).check(scheme)[0]
    assert Truncated(last=3).check(scheme) == ()


def test_separate_takes_its_level_from_the_metric_of_fista(sample):
    """Steps of 1/L_f: the same level as from a resolvent with gamma = 1."""
    levels = [
        Separate()._level(GKM(operator=kind(), net=NETS["dncnn"]()).double(), sample)
        for kind in (FISTA, lambda: Resolvent(gamma=1.0))
    ]
    torch.testing.assert_close(*levels)


@pytest.mark.parametrize("kind", [DouglasRachford, DPIR])
def test_separate_needs_a_level_where_the_metric_has_none(sample, kind):
    scheme = GKM(operator=kind(), net=NETS["dncnn"]()).double()
    with pytest.raises(InputError, match=r"give hyper\.sigma"):
        Separate().objective(scheme, sample, 1)
    assert Separate(sigma=10.0).objective(scheme, sample, 1).objective.item() > 0


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_gmres_of_a_singular_system_stays_finite(kind):
    """A = diag(1, 2, 0), b = (1, 1, 1): the least residual is |b_3| / |b|; q_3 stays moderate."""
    a = torch.diag(torch.tensor([1.0, 2.0, 0.0], dtype=kind))
    found, defect = gmres(lambda q: a @ q, torch.ones(3, dtype=kind), iterations=20, tolerance=1e-6)
    assert defect == pytest.approx(3**-0.5, rel=1e-3)
    assert found.abs().max().item() < 10
    torch.testing.assert_close(found[:2], torch.tensor([1.0, 0.5], dtype=kind), rtol=0, atol=1e-3)
