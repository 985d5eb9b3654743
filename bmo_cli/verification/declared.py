"""Declarations of classes from outside of the package, compared with measurements.

A measurement can contradict a declaration, but it cannot prove one. The checks cover the parts of a
task's problems: linear maps (adjoint, linearity, norm, inverse), functions (Lipschitz constant,
monotone gradient, firmly nonexpansive proximal map), metrics (symmetry, inverse, smallest
eigenvalue), D_num alone, and whether D is one map.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bmo_cli.errors import InputError
from bmo_cli.gkm.operator import NumericalOperator
from bmo_cli.linear.map import LinearMap
from bmo_cli.solver.fixed_point import FixedPointMap
from bmo_cli.solver.functions import Proximable, Smooth, Zero
from bmo_cli.solver.metric import Metric, ScaledIdentity
from bmo_cli.solver.nonexpansive import (
    Pair,
    compare,
    constant_direction,
    krylov_pair,
    worst_pair,
)
from bmo_cli.solver.problem import Problem
from bmo_cli.solver.state import State, inner, scale, subtract
from bmo_cli.verification.evidence import functions_of, is_own, maps_of, parts_of_metric

_EQUAL = 1e-4
"""relative difference of two numbers in float32 that should be equal"""
_DRAWS = 4
_LENGTHS = (0.01, 1.0, 100.0)
"""values of gamma at which proximal maps are examined"""


@dataclass(frozen=True)
class Check:
    """One declaration and its measurement.

    Attributes:
        what: the declared property, with the name of the class.
        declared: the declared value or bound.
        measured: the worst measured value.
        contradicts: whether the measured value violates the declared one by more than rounding.
        count: number of measurements.
    """

    what: str
    declared: float
    measured: float
    contradicts: bool
    count: int


def check_declarations(
    problem: Problem,
    initial: State,
    operator: NumericalOperator,
    mapping: FixedPointMap,
    turns: int,
) -> Iterator[Check]:
    """Check every declaration about one problem. Parts of this package are not checked.

    Args:
        problem: problem of the task.
        initial: its start.
        operator: D_num.
        mapping: the scheme at this problem.
        turns: turns of every search.
    """
    first = initial[:1]
    for a in maps_of(problem):
        if not is_own(a):
            yield from _check_linear_map(a, first[0], turns)
    for function in functions_of(problem):
        if isinstance(function, Smooth) and not isinstance(function, Zero) and not is_own(function):
            yield from _check_smooth(function, first, turns)
        if isinstance(function, Proximable) and not is_own(function):
            points = first if function is problem.g else _constraint_violation(problem, first)
            yield from _check_prox(function, points, turns)
    if not is_own(operator) and operator.nonexpansive:
        yield _check_operator(operator, problem, initial, turns)
    state = mapping.lift(initial)
    if not all(map(is_own, parts_of_metric(mapping.metric))):
        yield from _check_metric(mapping.metric, state)


def check_constants(problem: Problem) -> Iterator[Check]:
    """Check stated norms and Lipschitz constants of parts that also compute theirs.

    A constant that is stated too small makes steps too long.
    """
    for part in (*maps_of(problem), *functions_of(problem)):
        if isinstance(part, LinearMap):
            what, stated, computed = "|A|^2", part.norm_squared, part.computed_norm_squared()
        elif isinstance(part, Smooth):
            what, stated, computed = "L_f", part.lipschitz, part.computed_lipschitz()
        else:
            continue
        value = float(torch.as_tensor(stated).detach())
        if computed is not None and is_own(part) and not value >= computed * (1 - _EQUAL):
            yield Check(f"{type(part).__name__}: {what}", value, computed, True, 1)


def check_one_map(name: str, mapping: FixedPointMap, initial: State, iterations: int) -> Check:
    """Check that D is one map: equal at a second evaluation and at later iterations.

    Args:
        name: name of the scheme, for the message.
        mapping: D at a problem.
        initial: start of the problem.
        iterations: K; iteration numbers up to 10 K are compared.
    """
    u = mapping.lift(initial)
    with torch.no_grad():
        first = mapping.D(u, 0)
        others = [mapping.D(u, k) for k in (0, 1, iterations, 10 * iterations)]
    size = max(_length(first), _length(u))
    worst = max(_length(subtract(other, first)) / max(size, 1e-30) for other in others)
    return Check(f"{name}: D is one map", 0.0, worst, not worst <= _EQUAL, len(others))


def _check_linear_map(a: LinearMap, like: Tensor, turns: int) -> Iterator[Check]:
    """Adjoint, linearity and inverse on random vectors, and the norm by power iteration."""
    name = type(a).__name__
    with torch.no_grad():
        draws = list(_draws(like))
        outputs = [a(u) for u in draws]
        backs = list(_draws(outputs[0]))
        gaps = []
        for u, Au, y in zip(draws, outputs, backs, strict=True):
            left, right = inner((Au,), (y,)), inner((u,), (a.adjoint(y),))
            sizes = _norm(Au) * _norm(y) + _norm(u) * _norm(a.adjoint(y))
            gaps.append(float(((left - right).abs() / sizes.clamp_min(1e-30)).max()))
        yield _check_gaps(f"{name}: <A u, y> = <u, A^T y>", gaps)
        both = a(draws[0] - 2 * draws[1])
        yield _check_gaps(
            f"{name}: A is linear", [_relative_distance(both, outputs[0] - 2 * outputs[1])]
        )
        normal = [_relative_distance(a.normal(u), a.adjoint(a(u))) for u in draws]
        yield _check_gaps(f"{name}: normal(u) = A^T A u", normal)
        stated, largest = float(a.norm_squared), 0.0
        for start in (draws[0], torch.ones_like(like)):
            v = start
            for _ in range(turns):
                v = v / _per_problem(_norm(v).clamp_min(1e-30), v)
                largest = max(largest, float(_norm(a(v)).square().max()))
                v = a.adjoint(a(v))
        beyond = not largest <= stated * (1 + _EQUAL)
        yield Check(f"{name}: |A|^2", stated, largest, beyond, 2 * turns)
        yield from _check_inverse(a, draws[0], stated)


def _check_inverse(a: LinearMap, v: Tensor, stated: float) -> Iterator[Check]:
    gaps = []
    for share in (-0.5, 1.0, 30.0):
        gamma = torch.tensor(share / max(stated, 1e-30)).to(v)
        try:
            x = a.shifted_inverse(gamma)(v)
        except (InputError, NotImplementedError):
            return  # the map has no inverse, and methods that need one report it
        gaps.append(_relative_distance(x + gamma * a.normal(x), v))
    yield _check_gaps(f"{type(a).__name__}: (I + gamma A^T A)^-1", gaps, tolerance=1e-3)


def _check_smooth(f: Smooth, points: State, turns: int) -> Iterator[Check]:
    """L_f by a search for the largest ratio of gradients, convexity by their monotonicity."""
    name, identity = type(f).__name__, _identity(points)
    gradient = FixedPointMap(lambda u, k: f.grad(u), identity)
    pairs = list(_pairs(gradient, points, turns))
    stated, largest = float(f.lipschitz), max(pair.surely for pair in pairs)
    beyond = not largest <= stated * (1 + _EQUAL)
    yield Check(
        f"{name}: Lipschitz constant of grad f", stated, largest, beyond, len(pairs) * turns
    )
    slopes = []
    with torch.no_grad():
        for u, v in zip(_states(points, 1), _states(points, 2), strict=True):
            d, g = subtract(u, v), subtract(f.grad(u), f.grad(v))
            sizes = (inner(d, d) * inner(g, g)).sqrt().clamp_min(1e-30)
            slopes.append(float((inner(d, g) / sizes).min()))
    least = min(slopes)
    beyond = not least >= -_EQUAL
    yield Check(f"{name}: grad f is monotone", 0.0, least, beyond, len(slopes))


def _check_prox(g: Proximable, points: State, turns: int) -> Iterator[Check]:
    """Whether a proximal map is firmly nonexpansive, that is 1/2-averaged."""
    worst, count = 0.0, 0
    for length in _LENGTHS:
        for pair in _pairs(_proximal_map(g, length, points), points, turns):
            moved = pair.averaging if pair.surely <= 1 + _EQUAL else math.inf
            worst, count = max(worst, moved), count + turns
    beyond = not worst <= 0.5 + 1e-2
    name = f"{type(g).__name__}: prox is firmly nonexpansive (averaging)"
    yield Check(name, 0.5, worst, beyond, count)


def _proximal_map(g: Proximable, length: float, like: State) -> FixedPointMap:
    gamma = torch.tensor(length).to(like[0])
    return FixedPointMap(lambda u, k: g.prox(u, gamma), _identity(like))


def _check_operator(
    operator: NumericalOperator, problem: Problem, initial: State, turns: int
) -> Check:
    """Whether D_num alone is nonexpansive; a contractive network could hide its expansion."""
    with torch.no_grad():
        bound = operator.bind(problem)
    mapping = FixedPointMap(bound.apply, bound.metric, 1.0, bound.lift, bound.readout)
    pairs = list(_pairs(mapping, initial, turns))
    largest = max(pair.surely for pair in pairs)
    name = f"{type(operator).__name__}: nonexpansive in its metric"
    return Check(name, 1.0, largest, not largest <= 1 + _EQUAL, len(pairs) * turns)


def _check_metric(metric: Metric, like: State) -> Iterator[Check]:
    name = type(metric).__name__
    with torch.no_grad():
        u, v = next(_states(like, 3)), next(_states(like, 4))
        gu, gv = metric.apply(u), metric.apply(v)
        sizes = (inner(gu, gu) * inner(v, v)).sqrt() + (inner(gv, gv) * inner(u, u)).sqrt()
        gap = ((inner(gu, v) - inner(u, gv)).abs() / sizes.clamp_min(1e-30)).max()
        yield _check_gaps(f"{name}: G is symmetric", [float(gap)])
        back = metric.solve(gu)
        yield _check_gaps(f"{name}: G^-1 G = I", [_length(subtract(back, u)) / _length(u)], 1e-3)
        stated, lowest, d = float(metric.smallest_eigenvalue), math.inf, u
        for _ in range(20):
            d = scale(d, 1 / _length(d))
            lowest = min(lowest, float((inner(d, metric.apply(d)) / inner(d, d)).min()))
            d = metric.solve(d)
        beyond = not lowest >= stated * (1 - _EQUAL) - 1e-30
        yield Check(f"{name}: lambda_min(G)", stated, lowest, beyond, 20)


def _pairs(mapping: FixedPointMap, points: State, turns: int) -> Iterator[Pair]:
    """Random, constant and adversarial pairs, near and far."""
    state = mapping.lift(points)
    ones = constant_direction(state)
    for radius in (0.01, 1.0):
        yield worst_pair(mapping, state, turns=turns, radius=radius)
        yield worst_pair(mapping, state, turns=turns, radius=radius, direction=ones)
        yield krylov_pair(mapping, state, turns=turns, radius=radius)
    far = tuple(100 * (block + 1) for block in state)
    yield compare(mapping, far, tuple(block + 1 for block in far))


def _constraint_violation(problem: Problem, first: State) -> State:
    """A point in the range of A, on which h is defined."""
    assert problem.coupling is not None
    with torch.no_grad():
        return (problem.coupling.b - problem.coupling.a(first[0]),)


def _identity(points: State) -> Metric:
    return ScaledIdentity(torch.ones((), dtype=points[0].dtype, device=points[0].device))


def _draws(like: Tensor) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(_DRAWS):
        yield torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)


def _states(like: State, seed: int) -> Iterator[State]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(_DRAWS):
        yield tuple(
            x + torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x) for x in like
        )


def _check_gaps(what: str, gaps: list[float], tolerance: float = _EQUAL) -> Check:
    worst = max(gaps, key=lambda gap: math.inf if math.isnan(gap) else gap)
    return Check(what, 0.0, worst, not worst <= tolerance, len(gaps))


def _norm(u: Tensor) -> Tensor:
    return inner((u,), (u,)).sqrt()


def _relative_distance(u: Tensor, v: Tensor) -> float:
    """|u - v| / |v|, the largest of the batch."""
    return float((_norm(u - v) / _norm(v).clamp_min(1e-30)).max())


def _length(u: State) -> float:
    return float(inner(u, u).sqrt().max())


def _per_problem(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))
