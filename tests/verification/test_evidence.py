"""Proved, declared, measured: what a certificate takes for granted, and what it does not."""

import copy
import functools
import importlib
import math
import pkgutil

import pytest
import torch
from torch import nn

import bmo_cli
from bmo_cli.config.schema import Certify
from bmo_cli.errors import InputError
from bmo_cli.gkm.accelerated import FISTA
from bmo_cli.gkm.augmented import ALM, LADMM, PDHG
from bmo_cli.gkm.operator import BoundOperator, NumericalOperator
from bmo_cli.gkm.proximal import DouglasRachford, ProximalGradient, Resolvent
from bmo_cli.gkm.scheme import GKM
from bmo_cli.linear.blur import PeriodicBlur, transfer_function
from bmo_cli.linear.gradient import PeriodicGradient
from bmo_cli.linear.layers import StreakGradient, SumOfLayers
from bmo_cli.linear.map import LinearMap
from bmo_cli.linear.matrix import Matrix
from bmo_cli.nets.convex_potential import ConvexPotential
from bmo_cli.nets.dncnn import DnCNN
from bmo_cli.nets.guided import GuidedPotential
from bmo_cli.nets.layers import Layers
from bmo_cli.nets.network import Network, NormBound, largest
from bmo_cli.nets.normalized_conv import NormalizedConv
from bmo_cli.nets.ridge import ConvexRidge, WeaklyConvexRidge
from bmo_cli.solver.fixed_point import FixedPointMap
from bmo_cli.solver.functions import (
    L1,
    AtZero,
    LeastSquares,
    Proximable,
    Quadratic,
    Smooth,
    SquaredNorm,
    TotalVariation,
    Zero,
)
from bmo_cli.solver.metric import Metric, ScaledIdentity
from bmo_cli.solver.nonexpansive import constant_direction, krylov_pair, worst_pair
from bmo_cli.solver.problem import Coupling, Problem
from bmo_cli.tasks.deconvolution import blur_problem
from bmo_cli.verification.bound import bound_of
from bmo_cli.verification.certificate import certify
from bmo_cli.verification.evidence import _is_as_written, declarers, is_own
from bmo_cli.verification.examination import Subject

SIZE = (8, 6)
SEARCH = Certify(horizon=40)


def blur(seed=0):
    generator = torch.Generator().manual_seed(seed)
    kernel = 0.05 * torch.rand(1, 3, 3, generator=generator)
    kernel[:, 1, 1] = 1
    return PeriodicBlur(transfer_function(kernel / kernel.sum(), SIZE), SIZE)


def image(seed=1, channels=1):
    return torch.rand(1, channels, *SIZE, generator=torch.Generator().manual_seed(seed))


def certificate(scheme, problem, initial=None, settings=SEARCH, convex=True):
    start = (problem.f.y.clone(),) if initial is None else initial
    found = Subject(scheme, convex, 10, None, [(problem, start)], None, None)
    return certify(found, settings)


def verdict(*parts, **changes):
    return certificate(*parts, **changes).verdict


def of(found, name):
    (finding,) = [f for f in found.assumptions if name in f.name]
    return finding


# --- operators from outside of the package --------------------------------------------------------


class Silent(NumericalOperator):
    """A gradient step that declares nothing."""

    def __init__(self, length=1.0):
        super().__init__()
        self.length = length

    def bind(self, problem):
        gamma = self.length / float(problem.f.lipschitz)

        def apply(u, k):
            return tuple(a - gamma * b for a, b in zip(u, problem.f.grad(u), strict=True))

        return BoundOperator(apply, ScaledIdentity(torch.tensor(1 / gamma)))


class Declaring(Silent):
    """The same step, declared nonexpansive whatever its length is."""

    nonexpansive = True
    averaged = True
    keeps_nonexpansive = True


def test_what_is_not_declared_is_not_promised():
    for name in ("nonexpansive", "averaged", "keeps_nonexpansive", "converges_undamped", "uses_g"):
        assert getattr(NumericalOperator, name) is False
    scheme = GKM(operator=Silent())
    assert scheme.expansive_because == "Silent promises nothing"
    found = certificate(scheme, blur_problem(image(), blur()))
    assert found.verdict == "not certified"
    assert of(found, "nonexpansive in G").verdict == "not verifiable"
    assert of(found, "nonexpansive in G").evidence is None
    assert found.bound.value is None


@pytest.mark.slow
def test_what_is_declared_is_not_proved():
    found = certificate(GKM(operator=Declaring()), blur_problem(image(), blur()))
    assert found.verdict == "as declared"
    assert found.bound.value == 1 and not found.bound.proves
    assert found.declared_by == ("Declaring",)
    assert of(found, "nonexpansive in G").evidence == "declared"
    assert of(found, "has a fixed point").evidence == "measured"
    assert found.measurements > 50
    assert not any(check.contradicts for check in found.checks)


@pytest.mark.slow
@pytest.mark.parametrize("length", [2.01, 2.1, 2.5])
def test_a_step_that_is_longer_than_declared_is_refused(length):
    """2.01 / L_f expands constant images alone, by 1 %."""
    scheme = GKM(operator=Declaring(length))
    found = certificate(scheme, blur_problem(image(), blur()))
    assert found.verdict == "refused"
    assert found.ratio == pytest.approx(length - 1, abs=2e-4)


@pytest.mark.slow
def test_a_subclass_of_a_proved_operator_only_declares():
    class Relabelled(ProximalGradient):
        pass

    problem = blur_problem(image(), blur())
    assert verdict(GKM(operator=ProximalGradient()), problem) == "certified"
    assert verdict(GKM(operator=Relabelled()), problem) == "as declared"


@pytest.mark.slow
def test_a_replaced_method_is_seen():
    operator = ProximalGradient()
    assert is_own(operator)
    bind = operator.bind
    operator.bind = lambda problem: bind(problem)
    assert not is_own(operator)
    assert verdict(GKM(operator=operator), blur_problem(image(), blur())) == "as declared"


def test_who_is_of_this_package():
    own = [ProximalGradient(), GKM(operator=ProximalGradient()), blur(), L1(0.1), Zero()]
    assert all(map(is_own, own))
    assert declarers([*own, Silent(), Silent(), Declaring()]) == ("Silent", "Declaring")

    class L1Again(L1):
        pass

    L1Again.__module__ = "bmo_cli.solver.functions"
    assert not is_own(L1Again(0.1))


class Growing(Declaring):
    """Declares one map, and steps that depend on the iteration."""

    def bind(self, problem):
        bound = super().bind(problem)
        return BoundOperator(
            lambda u, k: tuple(a + 0.01 * k for a in bound.apply(u, k)), bound.metric
        )


class Random(Declaring):
    """Declares one map, and draws another one at every evaluation."""

    def bind(self, problem):
        bound = super().bind(problem)
        return BoundOperator(
            lambda u, k: tuple(a + 0.05 * torch.randn_like(a) for a in bound.apply(u, k)),
            bound.metric,
        )


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Growing, Random])
def test_a_map_that_is_not_one_map_is_refused(kind):
    found = certificate(GKM(operator=kind()), blur_problem(image(), blur()))
    assert found.verdict == "refused"
    broken = [check.what for check in found.checks if check.contradicts]
    assert any("D is one map" in what for what in broken)


def test_a_scheme_that_changes_along_the_iteration_has_no_bound():
    bound = bound_of(GKM(operator=FISTA(), alpha=None), True)
    assert bound.value is None and "no single map" in bound.why


# --- parts of problems from outside of the package ------------------------------------------------


class Halving(LinearMap):
    """A u = u / 2, with what its class attributes state."""

    norm_squared = 0.25
    back, inverse_error = 0.5, 0.0

    def __call__(self, u):
        return u / 2

    def adjoint(self, y):
        return self.back * y

    def shifted_inverse(self, gamma):
        return lambda v: v / (1 + gamma * 0.25) + self.inverse_error * v


class Curved(Halving):
    def __call__(self, u):
        return u / 2 + 0.1 * u.square()


def halving(**stated):
    a = type("Halving", (Halving,), stated)()
    return Problem(LeastSquares(a, image()))


@pytest.mark.slow
def test_a_right_linear_map_is_taken_at_its_word():
    for operator in (ProximalGradient(gamma=1.5), Resolvent(gamma=2.0)):
        found = certificate(GKM(operator=operator), halving())
        assert found.verdict == "as declared"
        assert found.declared_by == ("Halving",)
        assert {check.what.partition(": ")[2] for check in found.checks} >= {
            "<A u, y> = <u, A^T y>",
            "|A|^2",
            "(I + gamma A^T A)^-1",
        }
        (norm,) = [check for check in found.checks if "|A|^2" in check.what]
        assert norm.measured == pytest.approx(0.25, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stated", "named"),
    [
        ({"norm_squared": 0.24}, "|A|^2"),
        ({"back": 0.4}, "<A u, y>"),
        ({"back": -0.5}, "<A u, y>"),
        ({"inverse_error": 0.01}, "(I + gamma"),
        ({"norm_squared": float("nan")}, "|A|^2"),
    ],
)
def test_a_wrong_linear_map_is_refused(stated, named):
    found = certificate(GKM(operator=ProximalGradient(gamma=1.0)), halving(**stated))
    assert found.verdict == "refused"
    broken = [check.what for check in found.checks if check.contradicts]
    assert any(named in what for what in broken), broken


@pytest.mark.slow
def test_a_map_that_is_not_linear_is_refused():
    problem = Problem(LeastSquares(Curved(), image()))
    found = certificate(GKM(operator=ProximalGradient(gamma=0.5)), problem)
    assert found.verdict == "refused"
    assert any("linear" in check.what for check in found.checks if check.contradicts)


@pytest.mark.slow
def test_a_map_without_an_inverse_is_measured_without_it():
    class Bare(Halving):
        def shifted_inverse(self, gamma):
            raise NotImplementedError

    found = certificate(GKM(operator=ProximalGradient()), Problem(LeastSquares(Bare(), image())))
    assert found.verdict == "as declared"
    assert not any("^-1" in check.what for check in found.checks)


class Bowl(Smooth):
    """1/2 c |u - y|^2, with a stated constant."""

    def __init__(self, y, curvature=1.0, stated=1.0):
        self.y, self.curvature, self.lipschitz = y, curvature, stated

    def grad(self, u):
        return (self.curvature * (u[0] - self.y),)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("curvature", "stated", "expected"),
    [(1.0, 1.0, "as declared"), (1.0, 0.9, "refused"), (-0.5, 1.0, "refused")],
)
def test_a_smooth_function_is_measured(curvature, stated, expected):
    problem = Problem(Bowl(image(), curvature, stated))
    found = certificate(GKM(operator=ProximalGradient(gamma=1.0)), problem, (image(2),))
    assert found.verdict == expected
    assert of(found, "convex").evidence == "declared"


class Shrinking(Proximable):
    """prox u -> factor u, which is that of a square for factors in (0, 1]."""

    def __init__(self, factor):
        self.factor = factor

    def prox(self, u, gamma):
        return tuple(self.factor * a for a in u)


class Turning(Proximable):
    """A rotation: nonexpansive, and no proximal map."""

    def prox(self, u, gamma):
        return tuple(a.roll(1, -1) for a in u)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("g", "expected"),
    [
        (Shrinking(0.7), "as declared"),
        (Shrinking(1.05), "refused"),
        (Shrinking(-0.5), "refused"),
        (Turning(), "refused"),
    ],
)
def test_a_proximal_map_is_measured(g, expected):
    problem = Problem(LeastSquares(blur(), image()), g)
    assert verdict(GKM(operator=ProximalGradient(gamma=1.0)), problem) == expected
    gradient = PeriodicGradient(SIZE)
    relation = Coupling(gradient, torch.zeros(1, 2, *SIZE), g)
    problem = Problem(LeastSquares(blur(), image()), coupling=relation)
    found = verdict(GKM(operator=LADMM(beta=0.3)), problem)
    assert (found == "refused") == (expected == "refused")


class Skewed(Metric):
    """A metric with faults to choose from."""

    is_diagonal = True

    def __init__(self, lowest=1.0, skew=0.0, back=1.0):
        self.lowest, self.skew, self.back = lowest, skew, back

    def apply(self, u):
        return tuple(a + self.skew * a.roll(1, -1) for a in u)

    def solve(self, u):
        return tuple(self.back * a for a in u)

    @property
    def smallest_eigenvalue(self):
        return torch.tensor(self.lowest)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ({}, "as declared"),
        ({"lowest": 1.1}, "refused"),
        ({"skew": 0.3}, "refused"),
        ({"back": 2.0}, "refused"),
        ({"lowest": 0.0}, "not certified"),
    ],
)
def test_a_metric_is_measured(faults, expected):
    class Own(Declaring):
        def bind(self, problem):
            return BoundOperator(super().bind(problem).apply, Skewed(**faults))

    assert verdict(GKM(operator=Own()), blur_problem(image(), blur())) == expected


@pytest.mark.slow
def test_a_stated_norm_of_a_map_of_this_package_is_computed_again():
    a = blur()
    problem = Problem(LeastSquares(a, image()))
    assert verdict(GKM(operator=ProximalGradient(gamma=1.9)), problem) == "certified"
    a = blur()
    a.norm_squared = 0.5 * a.norm_squared
    found = certificate(
        GKM(operator=ProximalGradient(gamma=0.5)), Problem(LeastSquares(a, image()))
    )
    assert found.verdict == "refused"  # the step is short enough, the statement is wrong
    assert "PeriodicBlur: |A|^2" in of(found, "declared agrees").meaning
    f = LeastSquares(blur(), image())
    f.lipschitz = 0.5
    found = certificate(GKM(operator=ProximalGradient(gamma=1.5)), Problem(f))
    assert found.verdict == "refused"
    assert "breaks its condition" in found.bound.why


@pytest.mark.slow
@pytest.mark.parametrize(
    "problem",
    [
        Problem(LeastSquares(blur(), image()), L1(-0.1)),
        Problem(LeastSquares(blur(), image()), L1(torch.tensor([[-0.1]]))),
        Problem(LeastSquares(blur(), image()), L1(float("nan"))),
    ],
)
def test_a_negative_weight_is_not_convex(problem):
    found = certificate(GKM(operator=ProximalGradient()), problem)
    assert found.verdict in ("not certified", "refused")
    assert of(found, "convex").verdict == "violated"
    assert of(found, "convex").evidence == "proved"


@pytest.mark.parametrize(
    ("h", "convex"),
    [
        ([[1.0, 0.0], [0.0, 0.0]], True),
        ([[1.0, 0.0], [0.0, -1e-3]], False),
        ([[1.0, 0.0], [0.0, -4e-7]], None),
        ([[1.0, 1e-7], [0.0, 1.0]], True),
        ([[1.0, 1e-7], [0.0, 0.0]], None),
        ([[1.0, 0.2], [0.0, 1.0]], False),
    ],
)
def test_a_quadratic_knows_whether_it_is_convex(h, convex):
    assert Quadratic(torch.tensor(h), torch.zeros(1, 2)).is_convex() is convex


def test_a_quadratic_that_is_convex_up_to_rounding_is_not_certified():
    h = torch.diag(torch.tensor([1.0, -4e-7]))
    problem = Problem(Quadratic(h, torch.tensor([[1.0, 0.0]])))
    start = (torch.tensor([[0.0, 1.0]]),)
    found = certificate(GKM(operator=ProximalGradient(gamma=1.99)), problem, start)
    assert found.verdict == "not certified"
    assert of(found, "convex").verdict == of(found, "nonexpansive in G").verdict == "not verifiable"


def test_a_quadratic_of_nan_is_refused():
    with pytest.raises(InputError, match="finite matrix H"):
        Quadratic(torch.tensor([[math.nan]]), torch.zeros(1, 1))


def test_functions_of_this_package_are_convex_by_their_weights():
    y = image()
    for function in (Zero(), SquaredNorm(), AtZero(), L1(0.0), TotalVariation(0.3)):
        assert function.is_convex() is True
    assert LeastSquares(blur(), y).is_convex() is True
    assert TotalVariation(-0.3).is_convex() is False
    assert Bowl(y).is_convex() is None and Shrinking(0.5).is_convex() is None


# --- constants ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "shape"),
    [
        (blur(), (1, *SIZE)),
        (PeriodicGradient(SIZE), (1, *SIZE)),
        (StreakGradient(SIZE), (2, *SIZE)),
        (SumOfLayers(2), (2, *SIZE)),
        (Matrix(torch.randn(4, 7, generator=torch.Generator().manual_seed(0))), (7,)),
    ],
)
def test_computed_norms_are_those_of_dense_matrices(a, shape):
    unit = torch.eye(math.prod(shape)).reshape(-1, *shape)
    if isinstance(a, PeriodicBlur):
        a = PeriodicBlur(a.transfer.to(torch.complex128), SIZE)
    dense = a(unit.double() if not isinstance(a, Matrix) else unit).flatten(1).double()
    expected = torch.linalg.matrix_norm(dense, 2).square().item()
    assert a.computed_norm_squared() == pytest.approx(expected, rel=1e-6)
    assert float(a.norm_squared) == pytest.approx(expected, rel=1e-6)


def relation(seed=0):
    generator = torch.Generator().manual_seed(seed)
    c = torch.randn(4, 6, generator=generator)
    a, y = torch.randn(5, 6, generator=generator), torch.randn(1, 5, generator=generator)
    b = torch.randn(1, 6, generator=generator) @ c.mT
    return Problem(LeastSquares(Matrix(a), y), L1(0.1), Coupling(Matrix(c), b, AtZero()))


def test_the_share_of_a_step_is_that_of_the_textbook_condition():
    problem = Problem(LeastSquares(blur(), image()))
    assert ProximalGradient(gamma=1.5).step_share(problem) == pytest.approx(0.75, rel=1e-5)
    assert Resolvent(gamma=1e5).step_share(problem) == 0
    assert DouglasRachford().step_share(problem) == 0
    coupled = relation()
    for kind in (ALM, LADMM, PDHG):
        operator = kind(beta=0.7, share=0.8)
        beta, tau = (v.item() for v in operator._step(coupled, coupled.coupling))
        norms = [torch.linalg.matrix_norm(m.a, 2).item() ** 2 for m in (
            coupled.f.a, coupled.coupling.a,
        )]  # fmt: skip
        expected = tau * (beta * norms[1] + norms[0] / 2)
        assert operator.step_share(coupled) == pytest.approx(expected, rel=1e-5)
        assert operator.step_share(coupled) == pytest.approx(0.8, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("theta", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", [ProximalGradient, Resolvent, DouglasRachford, LADMM, PDHG])
def test_step_sizes_that_are_not_finite_are_not_certified(kind, theta):
    problem = relation() if kind in (LADMM, PDHG) else Problem(LeastSquares(blur(), image()))
    initial = (torch.zeros(1, 6),) if kind in (LADMM, PDHG) else None
    for name, _ in kind().named_parameters():
        operator = kind()
        operator.get_parameter(name).data.fill_(theta)
        found = certificate(GKM(operator=operator), problem, initial)
        assert found.verdict in ("not certified", "refused")
        assert of(found, "weights are finite").verdict == "violated"


# --- networks -------------------------------------------------------------------------------------

NETWORKS = {
    "lip": lambda: ConvexPotential(width=3, size=3),
    "lip, clips": lambda: ConvexPotential(width=3, size=3, depth=2, clips=2),
    "guided": lambda: GuidedPotential(widths=(4, 4, 4)),
    "norm_conv": lambda: NormalizedConv(depth=2, width=3),
    "crr": lambda: ConvexRidge(width=4, size=3),
    "layers": lambda: Layers(background=ConvexPotential(width=3, size=3)),
}


def rain_problem(channels=2):
    y = image()
    return Problem(LeastSquares(SumOfLayers(2), y), guide=lambda: y.repeat(1, 7, 1, 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_broken_weights_prove_nothing(name, value):
    """Every tensor of every network in turn."""
    layers = 2 if name == "layers" else 1
    problem = rain_problem() if layers == 2 else blur_problem(image(), blur())
    initial = (image(channels=layers),)
    for key, _ in NETWORKS[name]().named_parameters():
        net = NETWORKS[name]()
        parameter = net.get_parameter(key).data
        parameter[(0,) * parameter.dim()] = value  # it need not be contiguous
        bound = net.bound()
        scheme = GKM(operator=Resolvent(gamma=2.0), net=net, layers=layers)
        found = certificate(scheme, problem, initial, Certify())
        assert found.verdict in ("not certified", "refused"), key
        assert of(found, "weights are finite").verdict == "violated"
        if "filters" in key or "weights" in key:
            assert not bound.value <= 1 + 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_this_package_are_certified(name):
    layers = 2 if name == "layers" else 1
    problem = rain_problem() if layers == 2 else blur_problem(image(), blur())
    scheme = GKM(operator=Resolvent(gamma=2.0), net=NETWORKS[name](), layers=layers)
    found = certificate(scheme, problem, (image(channels=layers),))
    assert found.verdict == "certified"
    assert of(found, "network alone").evidence == "proved"


def test_the_largest_of_some_values_is_nan_where_one_is():
    assert largest(1.0, 2.0) == 2
    assert math.isnan(largest(1.0, math.nan)) and math.isnan(largest(math.nan, 1.0))


class Blurring(Network):
    """Declares that it is nonexpansive; its weight decides whether it is."""

    nonexpansive = True
    averaged = True

    def __init__(self, weight=0.9, value=None):
        super().__init__()
        self.channels = 1
        self.weight = nn.Parameter(torch.tensor(float(weight)))
        self.value = value

    def forward(self, x):
        return self.weight * (x + x.roll(1, -1)) / 2

    def bound(self):
        return None if self.value is None else NormBound(self.value, ())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weight", "value", "expected"),
    [
        (0.9, None, "as declared"),
        (0.9, 1.0, "as declared"),
        (0.9, 1.5, "not certified"),
        (1.01, None, "refused"),
        (1.01, 1.0, "refused"),
        (0.9, 0.5, "refused"),
        (0.9, math.nan, "not certified"),
    ],
)
def test_a_network_from_outside_declares(weight, value, expected):
    scheme = GKM(operator=Resolvent(gamma=2.0), net=Blurring(weight, value))
    found = certificate(scheme, blur_problem(image(), blur()))
    assert found.verdict == expected
    if expected == "as declared":
        assert found.declared_by == ("Blurring",)
        agrees = of(found, "what is declared agrees")
        assert (agrees.verdict, found.measurements) == ("holds", 4)


@pytest.mark.slow
def test_a_network_from_outside_is_seen_inside_another():
    net = Layers(background=ConvexPotential(width=3, size=3), rain=Blurring())
    scheme = GKM(operator=Resolvent(gamma=2.0), net=net, layers=2)
    found = certificate(scheme, rain_problem(), (image(channels=2),))
    assert found.verdict == "as declared"
    assert found.declared_by == ("Blurring",)


@pytest.mark.slow
@pytest.mark.parametrize(
    "net", [DnCNN(depth=2, width=3), WeaklyConvexRidge(width=4, size=3)], ids=["dncnn", "wcrr"]
)
def test_a_network_that_may_expand_is_not_certified(net):
    scheme = GKM(operator=Resolvent(gamma=2.0), net=net)
    assert verdict(scheme, blur_problem(image(), blur())) == "not certified"


# --- the search -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "weaker", [{"turns": 3}, {"horizon": 39, "turns": 19}, {"tolerance": 1e-4}, {"horizon": 9}]
)
def test_a_weak_search_is_no_certificate(weaker):
    scheme, problem = GKM(operator=ProximalGradient()), blur_problem(image(), blur())
    settings = Certify(**{"horizon": 40, **weaker})
    found = certificate(scheme, problem, settings=settings)
    assert found.verdict == "not certified"
    assert of(found, "search").verdict == "violated"
    assert str(next(iter(weaker))) in of(found, "search").meaning or "turns" in weaker


def test_fewer_cases_than_there_are_is_a_weak_search():
    assert Certify(cases=1).weaker_than_default(available=1) == []
    assert Certify(cases=1).weaker_than_default(available=5) == ["cases=1 (2)"]
    harder = Certify(horizon=50, cases=9, turns=99, tolerance=1e-7, seed=3)
    assert harder.weaker_than_default(5) == []


def test_constant_images_and_krylov_spaces_find_what_power_iteration_misses():
    """A step of 2.01 / L_f on 64 x 64 pixels: one direction of 4096 is stretched, by 1 %."""
    size = (64, 64)
    kernel = torch.rand(1, 9, 9, generator=torch.Generator().manual_seed(3))
    a = PeriodicBlur(transfer_function(kernel / kernel.sum(), size), size)
    y = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(4))
    mapping = GKM(operator=Declaring(2.01)).bind(Problem(LeastSquares(a, y)))
    assert worst_pair(mapping, (y,), turns=20, radius=0.1).ratio < 1
    ones = constant_direction((y,))
    constant = worst_pair(mapping, (y,), turns=1, radius=0.1, direction=ones)
    assert constant.ratio == pytest.approx(1.01, abs=1e-4)
    assert krylov_pair(mapping, (y,), turns=20, radius=0.1).surely > 1.005


def test_the_krylov_pair_of_a_linear_map_is_its_norm():
    generator = torch.Generator().manual_seed(0)
    m = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    one = ScaledIdentity(torch.ones((), dtype=torch.float64))
    mapping = GKM(operator=Silent()).bind(Problem(LeastSquares(Matrix(m), m[:1])))
    mapping = copy.copy(mapping)
    object.__setattr__(mapping, "D", lambda u, k: (u[0] @ m.mT,))
    object.__setattr__(mapping, "metric", one)
    pair = krylov_pair(mapping, (m[:2],), turns=12)
    expected = torch.linalg.matrix_norm(m, 2).item()
    assert pair.ratio == pytest.approx(expected, rel=1e-9)
    assert pair.surely == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_exhausted_krylov_space_refutes_nothing(dtype):
    """A multiple of the identity has one of dimension 1: what follows is 0, no infinite ratio."""
    one = ScaledIdentity(torch.ones((), dtype=dtype))
    mapping = FixedPointMap(lambda u, k: (u[0] / 2,), one, 0.9)
    for turns in (1, 2, 20):
        pair = krylov_pair(mapping, (torch.full((2, 1), 1e5, dtype=dtype),), turns=turns)
        assert pair.ratio == pytest.approx(0.5, rel=1e-5)


@pytest.mark.slow
def test_a_map_without_a_derivative_is_searched_at_random():
    class Rounded(Declaring):
        def bind(self, problem):
            bound = super().bind(problem)
            return BoundOperator(
                lambda u, k: tuple(a.detach() for a in bound.apply(u, k)), bound.metric
            )

    found = certificate(GKM(operator=Rounded()), blur_problem(image(), blur()))
    assert found.verdict == "as declared"
    assert verdict(GKM(operator=Rounded(2.5)), blur_problem(image(), blur())) == "refused"


# --- close to the limit ---------------------------------------------------------------------------


def nearly_identity(gain):
    """R(x) = (1 + gain) x, as a network about which nothing is promised."""
    net = DnCNN(depth=1, width=1, bias=False)
    with torch.no_grad():
        net.layers[0].weight.zero_()[0, 0, 1, 1] = -gain
    return net


@pytest.mark.slow
@pytest.mark.parametrize("gain", [0.0, 3e-8, 9e-7])
def test_a_bound_above_1_is_no_rounding_where_the_network_is_unconstrained(gain):
    """b + r = y leaves b - r to the network, which expands it for ever."""
    scheme = GKM(operator=Resolvent(), net=nearly_identity(gain), layers=2)
    start = (torch.cat([image(1), image(2)], 1),)
    found = certificate(scheme, Problem(LeastSquares(SumOfLayers(2), image())), start)
    assert found.verdict == ("not certified" if gain else "certified")
    assert (of(found, "network alone").verdict == "holds") == (not gain)


@pytest.mark.slow
@pytest.mark.parametrize("gamma", [1.99, 1.9999, 1.99999])
def test_undamped_steps_close_to_their_limit_are_averaged(gamma):
    problem = Problem(Quadratic(torch.eye(2), torch.tensor([[1.0, 2.0]])))
    scheme = GKM(operator=ProximalGradient(gamma=gamma), alpha=None)
    found = certificate(scheme, problem, (torch.zeros(1, 2),))
    assert of(found, "averaged").verdict == "holds"
    assert of(found, "averaged").number == pytest.approx(gamma / 2, abs=1e-5)


class Reflection(Declaring):
    """-u is declared averaged, and circles."""

    def bind(self, problem):
        return BoundOperator(lambda u, k: (-u[0],), ScaledIdentity(torch.ones(())))


@pytest.mark.slow
def test_a_declared_averaging_without_a_measured_one_is_not_taken():
    found = certificate(GKM(operator=Reflection(), alpha=None), blur_problem(image(), blur()))
    assert found.verdict == "not certified"
    assert of(found, "averaged").verdict == "not verifiable"


# --- what replaces a part of this package without a class of its own ------------------------------


def test_every_class_of_this_package_is_as_written():
    names = [m.name for m in pkgutil.walk_packages(bmo_cli.__path__, "bmo_cli.")]
    modules = [importlib.import_module(name) for name in names if "__main__" not in name]
    kinds = {k for module in modules for k in vars(module).values() if isinstance(k, type)}
    bases = (nn.Module, LinearMap, Metric, Smooth, Proximable, Problem, Coupling)
    own = [k for k in kinds if k.__module__.startswith("bmo_cli") and issubclass(k, bases)]
    assert len(own) > 60 and all(map(_is_as_written, own))


@pytest.mark.slow
def test_a_method_that_was_replaced_on_the_class_is_seen(monkeypatch):
    written = ConvexPotential.bind

    @functools.wraps(written)
    def far(self, guide=None):
        apply = written(self, guide)
        return lambda x: apply(x) + 0.5 * (x - x.clamp(-1e4, 1e4))

    scheme = GKM(operator=Resolvent(gamma=0.1), net=ConvexPotential(width=2, size=3))
    problem = blur_problem(image(), blur())
    assert verdict(scheme, problem) == "certified"
    monkeypatch.setattr(ConvexPotential, "bind", far)
    assert certificate(scheme, problem).declared_by == ("ConvexPotential",)


class Gamma(nn.Module):
    """A step of 1 that says so of itself."""

    def forward(self):
        return torch.tensor(1.0)


@pytest.mark.slow
def test_a_module_inside_of_a_part_of_this_package_only_declares():
    operator = ProximalGradient()
    operator.gamma = Gamma()
    found = certificate(GKM(operator=operator), blur_problem(image(), blur()))
    assert (found.verdict, found.declared_by) == ("as declared", ("Gamma",))


@pytest.mark.slow
def test_a_hook_only_declares():
    net = GuidedPotential(widths=(4, 4, 4))
    net.guide.head.register_forward_hook(lambda module, given, output: 2 * output)
    problem = blur_problem(image(), blur())
    assert verdict(GKM(operator=Resolvent(), net=net), problem) == "as declared"


@pytest.mark.slow
def test_a_subclass_of_a_problem_only_declares():
    class Posed(Problem):
        pass

    problem = Posed(LeastSquares(blur(), image()))
    found = certificate(GKM(operator=ProximalGradient()), problem)
    assert (found.verdict, found.declared_by) == ("as declared", ("Posed",))
    assert of(found, "convex").evidence == "declared"


# --- long steps in float32 ------------------------------------------------------------------------


def ill_conditioned(rows, columns):
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(rows, columns, generator=generator)
    u, s, v = torch.linalg.svd(draws, full_matrices=False)
    return (u * torch.logspace(0, -7, len(s))) @ v


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Resolvent, DouglasRachford])
@pytest.mark.parametrize("gamma", [1e3, 1e5, 1e7])
@pytest.mark.parametrize("shape", [(12, 12), (5, 30)])
def test_a_long_resolvent_step_is_nonexpansive_in_float32(kind, gamma, shape):
    a = Matrix(ill_conditioned(*shape))
    generator = torch.Generator().manual_seed(1)
    y = 100 * torch.randn(2, shape[0], generator=generator)
    start = (torch.randn(2, shape[1], generator=generator),)
    found = certificate(GKM(operator=kind(gamma=gamma)), Problem(LeastSquares(a, y)), start)
    assert found.verdict != "refused"
    assert found.ratio <= 1 + 1e-5


@pytest.mark.parametrize("gamma", [1.0, 1e4])
def test_the_inverse_of_a_quadratic_is_made_in_float64(gamma):
    a = ill_conditioned(12, 12).double()
    h = (a.mT @ a + 1e-5 * torch.eye(12)).float()
    apply = Quadratic((h + h.mT) / 2, torch.zeros(1, 12)).resolvent(torch.tensor(gamma))
    (inverse,) = apply((torch.eye(12),))
    assert torch.linalg.matrix_norm(inverse.double(), 2) <= 1
