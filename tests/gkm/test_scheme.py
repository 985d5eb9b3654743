"""The scheme: what it refuses, what it promises, weights per iteration, pairings of parts."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from bmo_cli.errors import InputError
from bmo_cli.experiment.evaluation import Settings, solve
from bmo_cli.gkm.accelerated import FISTA
from bmo_cli.gkm.augmented import ALM, LADMM, PDHG
from bmo_cli.gkm.learned import ALISTA, LISTA, LISTACP, LearnedLADMM
from bmo_cli.gkm.operator import BoundOperator, NumericalOperator
from bmo_cli.gkm.proximal import DouglasRachford, ProximalGradient, Resolvent
from bmo_cli.gkm.scheme import GKM
from bmo_cli.linear.blur import PeriodicBlur, transfer_function
from bmo_cli.linear.matrix import Matrix
from bmo_cli.nets.convex_potential import ConvexPotential
from bmo_cli.nets.dncnn import DnCNN
from bmo_cli.nets.execution import Execution
from bmo_cli.nets.ista_net import ISTANet
from bmo_cli.nets.network import Identity, Network
from bmo_cli.nets.ridge import WeaklyConvexRidge
from bmo_cli.solver.cost import Cost
from bmo_cli.solver.fixed_point import iterate
from bmo_cli.solver.functions import L1, AtZero, LeastSquares, Quadratic, SquaredNorm, Zero
from bmo_cli.solver.metric import ScaledIdentity
from bmo_cli.solver.problem import Coupling, Problem

ROWS, COLUMNS = 4, 6


class Rotation(NumericalOperator):
    """Nonexpansive and not averaged: undamped, it goes round for ever."""

    nonexpansive = True

    def bind(self, problem):
        c, s = math.cos(2.0), math.sin(2.0)
        turn = torch.tensor([[c, -s], [s, c]])
        return BoundOperator(lambda u, k: (u[0] @ turn,), ScaledIdentity(torch.tensor(1.0)))


class Halving(Network):
    """Declares that it is nonexpansive, but not averaged."""

    nonexpansive = True
    channels = 1

    def __init__(self, norm=None):
        super().__init__()
        self.chain = nn.Sequential(nn.Identity(), norm or nn.Identity())

    def forward(self, x):
        return self.chain(x / 2)


class Unpromising(Halving):
    nonexpansive = False


def lasso(rows=ROWS, columns=COLUMNS):
    generator = torch.Generator().manual_seed(0)
    a, y = (torch.randn(s, generator=generator) for s in ((rows, columns), (2, rows)))
    return Problem(LeastSquares(Matrix(a), y), L1(0.1))


def split(h=None):
    f = lasso().f
    return Problem(g=L1(0.1), coupling=Coupling(f.a, f.y, h or SquaredNorm()))


def blurred():
    blur = PeriodicBlur(transfer_function(torch.ones(1, 3, 3) / 9, (6, 6)), (6, 6))
    return Problem(LeastSquares(blur, torch.zeros(1, 1, 6, 6)))


def curved():
    return Problem(Quadratic(torch.eye(COLUMNS), torch.zeros(2, COLUMNS)), L1(0.1))


# --- averaging ------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.5, 1.5])
def test_refuses_alpha_outside(alpha):
    with pytest.raises(InputError, match=r"alpha must lie in \(0, 1\) \(or null\)"):
        GKM(operator=Resolvent(), alpha=alpha)


def test_refuses_undamped_iterations_of_a_map_that_is_not_averaged():
    with pytest.raises(InputError, match=r"gkm\.alpha=null needs a D that is averaged") as error:
        GKM(operator=Rotation(), alpha=None)
    assert "Rotation" in str(error.value)
    with pytest.raises(InputError, match="Halving is nonexpansive only"):
        GKM(operator=ProximalGradient(), net=Halving(), alpha=None)


def test_damping_makes_it_converge():
    scheme = GKM(operator=Rotation(), alpha=0.5)
    mapping = scheme.bind(Problem())
    assert mapping.alpha == 0.5
    end = iterate(mapping, (torch.ones(1, 2),), iterations=100).value[0]
    assert end.abs().max() < 1e-6


@pytest.mark.parametrize(
    ("problem", "parts"),
    [
        (lasso, {"operator": ProximalGradient()}),
        (split, {"operator": LADMM()}),
        (blurred, {"operator": Resolvent(), "net": Identity()}),
        (blurred, {"operator": Resolvent(), "net": ConvexPotential(depth=1, width=1, size=3)}),
        (blurred, {"operator": Resolvent(), "net": DnCNN(depth=2, width=2)}),  # promises nothing
        (lasso, {"operator": FISTA()}),
        (blurred, {"operator": Rotation(), "stages": 2}),
    ],
)
def test_takes_undamped_iterations_otherwise(problem, parts):
    assert GKM(alpha=None, **parts).bind(problem()).alpha == 1


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(1), nn.BatchNorm2d(1), nn.SyncBatchNorm(1)])
def test_refuses_batch_norm_in_a_network_that_promises(norm):
    with pytest.raises(InputError, match=r"Halving declares itself nonexpansive.*\(chain\.1\)"):
        GKM(operator=Resolvent(), net=Halving(norm))
    assert GKM(operator=Resolvent(), net=Unpromising(norm)).expansive_because is not None


def test_says_why_it_may_expand():
    lip, dncnn = ConvexPotential(depth=1, width=1, size=3), DnCNN(depth=2, width=2)
    for operator in (ProximalGradient(), Resolvent(), DouglasRachford(), ALM(), LADMM(), PDHG()):
        assert GKM(operator=operator).expansive_because is None
        assert GKM(operator=operator).nonexpansive
    for operator in (ProximalGradient(), Resolvent()):
        assert GKM(operator=operator, net=lip).nonexpansive
        assert GKM(operator=operator, net=Halving()).nonexpansive
    reasons = {
        "gkm.stages=3 iterates several maps": GKM(operator=Resolvent(), stages=3),
        "FISTA promises nothing": GKM(operator=FISTA()),
        "ALISTA promises nothing": GKM(operator=ALISTA(), net=lip),
        "DnCNN is unconstrained": GKM(operator=Resolvent(), net=dncnn),
        "WeaklyConvexRidge need not be nonexpansive": GKM(
            operator=Resolvent(), net=WeaklyConvexRidge(width=2, size=3)
        ),
    }
    for operator in (DouglasRachford(), ALM(), LADMM(), PDHG()):  # 2 N - I, or another metric
        reason = (
            f"{type(operator).__name__} with ConvexPotential in the place of prox_g need not be "
            "nonexpansive, though each of them is"
        )
        reasons[reason] = GKM(operator=operator, net=lip)
    for reason, scheme in reasons.items():
        assert scheme.expansive_because == reason
        assert not scheme.nonexpansive


# --- weights per iteration ------------------------------------------------------------------------


def test_iteration_k_uses_stage_k_and_later_ones_the_last(rng):
    net = Halving(nn.Conv2d(1, 1, 1, bias=False))
    scheme = GKM(operator=ProximalGradient(gamma=1.0), net=net, alpha=0.8, stages=3)
    assert len({id(p) for p in scheme.parameters()}) == 3 * len(list(scheme.stages[0].parameters()))
    scheme.double()
    factors = (0.5, 3.0, -1.0)
    for stage, theta, factor in zip(scheme.stages, (-1.0, 0.3, 2.0), factors, strict=True):
        stage.operator.gamma.theta.data.fill_(theta)
        stage.net.chain[1].weight.data.fill_(2 * factor)
    a = torch.tensor(rng.normal(size=(4, 4)))
    f = Quadratic(a @ a.T, torch.zeros(2, 4, dtype=torch.float64))

    class Image(Quadratic):  # the same on images of 2 x 2
        def grad(self, u):
            return (f.grad((u[0].flatten(1),))[0].reshape(u[0].shape),)

    u = torch.tensor(rng.normal(size=(2, 1, 2, 2)))
    mapping = scheme.bind(Problem(Image(f.h, f.c)))
    top = torch.linalg.eigvalsh(f.h)[-1]
    expected = u.flatten(1)
    for k in range(6):
        gamma = scheme.stages[min(k, 2)].operator.gamma().item() / top
        image = factors[min(k, 2)] * (expected - gamma * expected @ f.h)
        expected = 0.2 * expected + 0.8 * image
        with torch.no_grad():
            found = iterate(mapping, (u,), iterations=k + 1).value[0].flatten(1)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert scheme.operator is scheme.stages[-1].operator
    assert scheme.net is scheme.stages[-1].net


class Doubling(Network):
    channels = 1

    def forward(self, x):
        return 2 * x + 1


def test_a_network_follows_the_proximal_map_of_g_wherever_that_is(rng):
    """Inside Douglas-Rachford and before the dual step of PDHG; behind an operator without g."""
    states = [
        torch.tensor(rng.normal(size=s), dtype=torch.float32) for s in ((2, COLUMNS), (2, ROWS))
    ]
    (u, v), f, net = states, lasso().f, Doubling()

    def applied(operator, problem, *state):
        return GKM(operator=operator, net=net).bind(problem).D(state, 0)

    def soft(w, t):
        return w.sign() * (w.abs() - t).clamp_min(0)

    gamma = 1 / f.lipschitz
    (found,) = applied(ProximalGradient(), lasso(), u)
    torch.testing.assert_close(found, net(soft(u - gamma * f.grad((u,))[0], 0.1 * gamma)))
    (x,) = f.resolvent(gamma)((u,))
    (found,) = applied(DouglasRachford(), lasso(), u)
    torch.testing.assert_close(found, u + net(soft(2 * x - u, 0.1 * gamma)) - x)
    (found,) = applied(Resolvent(gamma=1.0), Problem(f), u)
    torch.testing.assert_close(found, net(x))
    found, dual = applied(PDHG(), split(AtZero()), u, v)
    tau = 0.95 / f.lipschitz
    torch.testing.assert_close(found, net(soft(u - tau * f.a.adjoint(v), 0.1 * tau)))
    torch.testing.assert_close(dual, v + f.a(2 * found - u) - f.y)


def test_stages_start_equal_and_learn_apart():
    scheme = GKM(operator=LISTA(rows=ROWS, columns=COLUMNS), alpha=None, stages=3)
    mapping = scheme.bind(lasso())
    start = (torch.zeros(2, COLUMNS),)
    iterate(mapping, start, iterations=2).value[0].square().sum().backward()
    grads = [stage.operator.encoder.grad for stage in scheme.stages]
    assert (scheme.stages[0].operator.encoder == scheme.stages[2].operator.encoder).all()
    assert not torch.equal(grads[0], grads[1])
    assert grads[2] is None  # two iterations do not reach the third


def test_stationary():
    assert GKM(operator=Resolvent()).stationary
    assert not GKM(operator=Resolvent(), stages=2).stationary
    assert not GKM(operator=FISTA()).stationary


def test_projection_reaches_the_network_of_every_stage():
    scheme = GKM(operator=Resolvent(), net=ISTANet(width=2), stages=2)
    for stage in scheme.stages:
        stage.net.theta.data.fill_(-1)
    scheme.project_()
    assert all(stage.net.theta == 0 for stage in scheme.stages)


def test_evaluations_and_products_are_counted():
    cost, scheme = Cost(), GKM(operator=ProximalGradient())
    mapping = scheme.using(cost=cost).bind(lasso())
    end = iterate(mapping, (torch.ones(2, COLUMNS),), iterations=5).value[0]
    assert (cost.evaluations, cost.vjps) == (5, 0)
    end.sum().backward()
    assert (cost.evaluations, cost.vjps) == (5, 5)


def test_a_view_shares_the_weights_and_leaves_the_scheme_alone():
    cost, scheme = Cost(), GKM(operator=ProximalGradient())
    view = scheme.using(cost=cost)
    assert [*map(id, view.parameters())] == [*map(id, scheme.parameters())]
    scheme.bind(lasso()).D((torch.ones(2, COLUMNS),), 0)
    assert cost.evaluations == 0
    view.using(execution=Execution(finite=True)).bind(lasso()).D((torch.ones(2, COLUMNS),), 0)
    assert cost.evaluations == 1


# --- pairings -------------------------------------------------------------------------------------


SHAPE = {"rows": ROWS, "columns": COLUMNS}
UNCOUPLED = "needs a problem with a linear relation A u + z = b"
COUPLED = "solves min f + g, but this problem has a linear relation"
OTHER_SHAPE = "the dictionary is 3 x 6, but gkm.operator has rows=4 columns=6"


@pytest.mark.parametrize(
    ("operator", "problem", "message"),
    [
        (ALM(), split(L1(0.1)), "holds exactly (h = AtZero), got h = L1; use gkm=ladmm"),
        (ALM(), split(), "got h = SquaredNorm"),
        *((o, lasso(), UNCOUPLED) for o in (ALM(), LADMM(), PDHG(), LearnedLADMM(**SHAPE))),
        *((o, split(), COUPLED) for o in (ProximalGradient(), DouglasRachford())),
        (Resolvent(), replace(split(), g=Zero()), COUPLED),
        (Resolvent(), lasso(), "Resolvent does not see the g of this problem, L1; use gkm=pg"),
        *((o, split(), COUPLED) for o in (FISTA(), LISTA(**SHAPE), LISTACP(**SHAPE), ALISTA())),
        (
            ProximalGradient(),
            Problem(g=L1(0.1)),
            "needs a smooth term f, and this problem has none",
        ),
        *((o, lasso(rows=3), OTHER_SHAPE) for o in (LISTA(**SHAPE), LISTACP(**SHAPE))),
        (
            LearnedLADMM(rows=9, columns=COLUMNS),
            split(AtZero()),
            "the dictionary is 4 x 6, but gkm.operator has rows=9 columns=6",
        ),
        (LearnedLADMM(**SHAPE), replace(split(), f=lasso().f), "but this problem has an f, too"),
        (ALISTA(), lasso(rows=7), "needs a dictionary of full row rank, got 7 x 6"),
        *((o, blurred(), "got PeriodicBlur; use a task with") for o in (LISTA(**SHAPE), ALISTA())),
        (LISTACP(**SHAPE), curved(), "needs a data term 1/2 |A u - y|^2, got Quadratic"),
    ],
)
def test_wrong_pairings_are_refused_in_one_line(operator, problem, message):
    with pytest.raises(InputError) as error:
        GKM(operator=operator, alpha=0.5).bind(problem)
    text = str(error.value)
    assert message in text
    assert "\n" not in text


def blurred(rng):
    blur = PeriodicBlur(transfer_function(torch.tensor(rng.random((1, 3, 3))), (8, 6)), (8, 6))
    return Problem(LeastSquares(blur, torch.tensor(rng.random((1, 1, 8, 6)))))


def test_network_takes_the_place_of_prox_g(rng):
    """Plug-and-play Douglas-Rachford: s + net(2 x - s) - x with x = prox_f(s)."""
    net = DnCNN(depth=2, width=2).double()
    problem = blurred(rng)
    mapping = GKM(operator=DouglasRachford(), net=net).double().bind(problem)
    s = torch.tensor(rng.normal(size=(1, 1, 8, 6)))
    (x,) = mapping.estimate((s,))
    torch.testing.assert_close(mapping.D((s,), 0)[0], s + net(2 * x - s) - x)


def test_network_follows_an_operator_that_has_no_prox_g(rng):
    net = DnCNN(depth=2, width=2).double()
    problem = blurred(rng)
    alone, with_net = (GKM(operator=Resolvent(), net=n).double().bind(problem) for n in (None, net))
    s = torch.tensor(rng.normal(size=(1, 1, 8, 6)))
    torch.testing.assert_close(with_net.D((s,), 0)[0], net(alone.D((s,), 0)[0]))


def test_operator_without_prox_refuses_a_problem_with_g(rng):
    problem = Problem(blurred(rng).f, L1(0.1))
    with pytest.raises(InputError, match="Resolvent does not see the g of this problem, L1"):
        GKM(operator=Resolvent()).bind(problem)


def test_anderson_is_refused_for_what_is_no_single_map(rng):
    problem, settings = blurred(rng), Settings(iterations=3, anderson=2)
    initial = (problem.f.y,)
    for scheme in (GKM(operator=FISTA(), alpha=None), GKM(operator=ProximalGradient(), stages=2)):
        with pytest.raises(InputError, match=r"use eval\.anderson=0"):
            solve(scheme.double(), problem, initial, settings)
    assert solve(GKM(operator=ProximalGradient()).double(), problem, initial, settings).iterations


@pytest.mark.slow
def test_a_solve_goes_on_from_where_another_ended(rng):
    coupling = Coupling(
        Matrix(torch.tensor(rng.normal(size=(5, 4)))), torch.ones(1, 5).double(), L1(1)
    )
    problem = Problem(coupling=coupling, g=L1(0.1))
    mapping = GKM(operator=LADMM()).double().bind(problem)
    zero = (torch.zeros(1, 4).double(),)
    whole = iterate(mapping, zero, iterations=30)
    half = iterate(mapping, zero, iterations=15)
    warm = iterate(mapping, half.value, iterations=15, start=15)
    for a, b in zip(whole.value, warm.value, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    cold = iterate(mapping, zero, iterations=5000, tolerance=1e-8)
    warm = iterate(mapping, whole.value, iterations=5000, tolerance=1e-8)
    assert warm.iterations == cold.iterations - 30


def test_a_network_does_not_follow_an_iterate_that_is_no_estimate(rng):
    class Shifted(NumericalOperator):
        def bind(self, problem):
            unit = torch.ones((), dtype=torch.float64)
            return BoundOperator(
                lambda u, k: u, ScaledIdentity(unit), readout=lambda u: (u[0] - 1,)
            )

    problem = blurred(rng)
    GKM(operator=Shifted()).bind(problem)
    with pytest.raises(InputError, match="after Shifted would be applied to its iterate"):
        GKM(operator=Shifted(), net=DnCNN(width=2, depth=2)).bind(problem)
