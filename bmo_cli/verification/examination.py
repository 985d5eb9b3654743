"""Measurements of a certificate at one problem: trajectories, expanding pairs, declarations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from bmo_cli.config.schema import Certify as Settings
from bmo_cli.gkm.scheme import GKM
from bmo_cli.solver.fixed_point import FixedPointMap, iterate
from bmo_cli.solver.metric import Metric, ScaledIdentity
from bmo_cli.solver.nonexpansive import (
    Pair,
    compare,
    constant_direction,
    krylov_pair,
    worst_pair,
)
from bmo_cli.solver.problem import Problem, Sample
from bmo_cli.solver.state import State
from bmo_cli.verification import assumptions
from bmo_cli.verification.declared import Check, check_constants, check_declarations, check_one_map
from bmo_cli.verification.findings import Bound
from bmo_cli.verification.trajectory import TASK_START, Trajectory, distance, follow, starts

PATIENCE = 20
"""multiple of the horizon over which an averaged T is searched for a fixed point"""

_FEW = 5
"""turns from a constant direction, of which the first one matters most"""


@dataclass(frozen=True)
class Subject:
    """The object of a certificate.

    Attributes:
        scheme: trained scheme.
        convex: whether the task declares the functions of every problem convex.
        iterations: K of training.
        step: s of the aggregation as a share of its limit; None: nothing is aggregated.
        problems: problems and their starts, as the solver gets them.
        sample: a training sample, for L_l; None: L_l is not examined.
        gradients: |grad phi_K| along training, in order; None: training did not minimise phi_K.
        hyper: the hyper-optimiser, which states `step`; None if nothing is aggregated.
        available: number of validation problems; None: that of `problems`.
        watch: receives (number of the problem, name of the start, k, estimate of u after k
            iterations) along the trajectories; None: nobody does.
    """

    scheme: GKM
    convex: bool
    iterations: int
    step: float | None
    problems: Sequence[tuple[Problem, State]]
    sample: Sample | None
    gradients: Sequence[float] | None
    hyper: object = None
    available: int | None = None
    watch: Callable[[int, str, int, State], None] | None = None


@dataclass(frozen=True)
class Examination:
    """The measurements at one problem.

    Attributes:
        metric: G.
        trajectories: by start.
        distance_of_ends: largest relative distance between their ends.
        pairs: the worst pair of every kind.
        network: pairs of the network alone; empty where there is none.
        checks, maps: checks of declarations, and of D as one map.
    """

    metric: Metric
    trajectories: dict[str, Trajectory]
    distance_of_ends: float
    pairs: dict[str, Pair]
    network: list[Pair]
    checks: list[Check]
    maps: list[Check]


def examine(subject: Subject, settings: Settings, bound: Bound, number: int) -> Examination:
    """Iterate T from several starts, and search for pairs whose distance D increases.

    Args:
        subject: the object of the certificate.
        settings: how thoroughly to search.
        bound: of D.
        number: of the problem.
    """
    scheme, (problem, initial) = subject.scheme, subject.problems[number]
    with torch.no_grad():
        mapping = scheme.bind(problem)
    begin = starts(initial, settings.seed + number)
    trajectories = _trajectories(mapping, begin, bound, subject, settings, number)
    ends = [mapping.estimate(trajectory.end) for trajectory in trajectories.values()]
    pairs = _pairs(mapping, begin, max(subject.iterations - 1, 0), settings)
    network = _network_pairs(scheme, problem, initial, settings)
    name = type(scheme.operator).__name__
    return Examination(
        mapping.metric,
        trajectories,
        distance(ends) if all(map(_is_finite, ends)) else math.inf,
        pairs,
        network,
        [
            *(assumptions.checks_of_network(scheme, network) if network else ()),
            *check_constants(problem),
            *check_declarations(problem, initial, scheme.operator, mapping, settings.turns),
        ],
        [check_one_map(name, mapping, initial, subject.iterations)] if bound.nonexpansive else [],
    )


def _trajectories(
    mapping: FixedPointMap,
    begin: dict[str, State],
    bound: Bound,
    subject: Subject,
    settings: Settings,
    number: int,
) -> dict[str, Trajectory]:
    """T from every start, over the horizon and, if the search is worthwhile, beyond it.

    An averaged map converges if it has a fixed point. The task's start is therefore iterated for
    long, and the other starts only if it converged.
    """
    horizon, limit = settings.horizon * subject.iterations, settings.tolerance
    search = (PATIENCE - 1) * horizon if bound.nonexpansive else 0
    by_start: dict[str, Trajectory] = {}
    for name, start in begin.items():
        watch = None if subject.watch is None else partial(subject.watch, number, name)
        by_start[name] = follow(
            mapping, start, horizon, search=search, tolerance=limit, watch=watch
        )
        search = search if by_start[TASK_START].has_stopped(limit) else 0
    return by_start


def _pairs(
    mapping: FixedPointMap, begin: dict[str, State], k: int, settings: Settings
) -> dict[str, Pair]:
    """The worst pair of every kind at one problem."""
    with torch.no_grad():
        first = mapping.lift(begin[TASK_START])
        later = iterate(mapping, first, iterations=k + 1).value
        noise = mapping.lift(begin["noise"])
        data = (first, later) if not _are_equal(first, later) else (first, noise)
        far = tuple(100 * (block + 1) for block in noise)
        farther = tuple(block + 1 for block in far)
    turns, seed = settings.turns, settings.seed
    adversarial = [
        *(
            worst_pair(mapping, point, turns=turns, radius=radius, seed=seed, k=k)
            for point, radius in ((later, 0.01), (first, 0.1), (noise, 0.1))
        ),
        *(
            worst_pair(mapping, u, turns=_FEW, radius=0.1, k=k, direction=constant_direction(u))
            for u in (first, later)
        ),
        krylov_pair(mapping, later, turns=turns, radius=0.01, seed=seed, k=k),
        compare(mapping, far, farther, k=k),
    ]
    return {
        "random": worst_pair(mapping, noise, turns=1, radius=0.1, seed=seed, k=k),
        "data": compare(mapping, *data, k=k),
        "adversarial": worst_of(adversarial),
    }


def _network_pairs(scheme: GKM, problem: Problem, initial: State, settings: Settings) -> list[Pair]:
    """Pairs of the network alone, whose expansion the data term could hide."""
    if scheme.net is None:
        return []
    identity = ScaledIdentity(torch.ones((), device=initial[0].device))
    with torch.no_grad():
        guide = problem.guide() if scheme.net.guided and problem.guide is not None else None
        network, whole = scheme.net.bind(guide), scheme.bind(problem)
        u = whole.lift(initial)
        point = (scheme.operator.network_argument(u, whole.estimate(u)),)
    mapping = FixedPointMap(lambda u, k: (network(u[0]),), identity)
    ones = constant_direction(point)  # constant images are not contracted
    turns, seed = settings.turns, settings.seed
    return [
        worst_pair(mapping, point, turns=_FEW, radius=0.1, direction=ones),
        *(worst_pair(mapping, point, turns=turns, radius=r, seed=seed) for r in (0.01, 0.3)),
        krylov_pair(mapping, point, turns=turns, radius=0.01, seed=seed),
    ]


def worst_of(pairs: Sequence[Pair]) -> Pair:
    """The pair with the largest ratio that rounding cannot explain."""
    return max(pairs, key=lambda pair: pair.surely)


def _is_finite(u: State) -> bool:
    return all(bool(torch.isfinite(block).all()) for block in u)


def _are_equal(u: State, v: State) -> bool:
    return all(torch.equal(a, b) for a, b in zip(u, v, strict=True))
