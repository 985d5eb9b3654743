"""The convergence certificate of a trained scheme: every assumption of the theory with a verdict.

Theory (docs/method.md, "The GKM iteration" and "The BMO iteration"; Bauschke & Combettes, 2017,
theorem 5.15): if D is nonexpansive in a metric G > 0 and T = (1 - alpha) I + alpha D is averaged
and has a fixed point, then u^k -> Fix T from every start and |u^{k+1} - u^k|_G never grows; with
0 < s < lambda_min(G) / L_l the aggregated iteration inherits this.

What the theory assumes of all states is proved, by a bound made from the weights and from constants
computed in float64, or declared by a class from outside of the package, or open. That T has a fixed
point is measured, problem by problem. A measured pair can only refute; one that refutes a bound
shows that a program does not compute what it says: then the certificate is refused.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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
from bmo_cli.verification import assumptions, predictions
from bmo_cli.verification.bound import bound_of
from bmo_cli.verification.declared import Check, check_constants, check_declarations, check_one_map
from bmo_cli.verification.findings import MEASURED, Bound, Finding
from bmo_cli.verification.trajectory import TASK_START, Trajectory, distance, follow, starts

log = logging.getLogger("bmo")

PATIENCE = 20
"""times the horizon for which a fixed point is looked for, where T must reach one if it has one"""

_FEW = 5
"""turns that follow a constant direction, of which the first one matters most"""

Verdict = Literal["certified", "as declared", "not certified", "refused"]


@dataclass(frozen=True)
class Subject:
    """What is certified.

    Attributes:
        scheme: trained.
        convex: whether the task declares the functions of every problem convex.
        iterations: K of training.
        step: s of the aggregation as a share of its limit; None: nothing is aggregated.
        problems: with their starts, as the solver sees them.
        sample: a training sample, for L_l; None: not looked at.
        gradients: |grad phi_K| along training, in order; None: phi_K was not what was minimised.
        hyper: the hyper-optimiser, which states `step`; None where nothing is aggregated.
        available: validation problems that there are; None: those in `problems`.
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


@dataclass(frozen=True)
class Certificate:
    """What was found.

    Attributes:
        verdict: certified: every assumption holds, and what is about all states is proved. as
            declared: every assumption holds, but some are declared by a class from outside of the
            package. refused: a measurement contradicts a bound or a declaration. Otherwise not
            certified.
        assumptions: that the theory makes.
        predictions: that it makes, held against measurements.
        bound: of D.
        pairs: the worst of every kind: random, data, adversarial.
        network: the worst pair of the network alone, in I; None: there is no network.
        trajectories: by start, the slowest of all problems.
        checks: of what is declared.
        problems: that were looked at.
    """

    verdict: Verdict
    assumptions: tuple[Finding, ...]
    predictions: tuple[Finding, ...]
    bound: Bound
    pairs: dict[str, Pair]
    network: Pair | None
    trajectories: dict[str, Trajectory]
    checks: tuple[Check, ...]
    problems: int

    @property
    def ratio(self) -> float:
        """The largest measured |D(a) - D(b)|_G / |a - b|_G."""
        return max(pair.ratio for pair in self.pairs.values())

    @property
    def declared_by(self) -> tuple[str, ...]:
        """Classes from outside of the package that an assumption rests on."""
        by = [name for finding in self.assumptions for name in finding.declared_by]
        return tuple(dict.fromkeys(by))

    @property
    def measurements(self) -> int:
        """How many were held against what is declared."""
        return sum(check.count for check in self.checks)


class _Search:
    """Measurements at one problem after the other.

    Args:
        subject: what is certified.
        settings: how hard to search.
    """

    def __init__(self, subject: Subject, settings: Settings) -> None:
        self.subject, self.settings, self.scheme = subject, settings, subject.scheme
        problems = [problem for problem, _ in subject.problems]
        self.bound = bound_of(subject.scheme, subject.convex, problems)
        self.pairs: dict[str, Pair] = {}
        self.trajectories: dict[str, Trajectory] = {}
        self.network: Pair | None = None
        self.from_task: list[Trajectory] = []
        self.metrics: list[Metric] = []
        self.checks: list[Check] = []
        self.maps: list[Check] = []
        self.distance_of_ends = 0.0

    def examine(self, number: int, problem: Problem, initial: State) -> None:
        """Follow T from several starts, and look for pairs that D pushes apart."""
        subject, settings, scheme = self.subject, self.settings, self.scheme
        k = max(subject.iterations - 1, 0)
        with torch.no_grad():
            mapping = scheme.bind(problem)
        self.metrics.append(mapping.metric)
        begin = starts(initial, settings.seed + number)
        self._iterate_from(mapping, begin)
        for kind, pair in _pairs(mapping, begin, k, settings).items():
            known = self.pairs.get(kind)
            if known is None or pair.surely > known.surely:
                self.pairs[kind] = pair
        alone = _network_pairs(scheme, problem, initial, settings)
        if alone:
            self.checks += assumptions.checks_of_network(scheme, alone)
            self.network = _worst_pair([*alone, *([self.network] if self.network else [])])
        self.checks += check_constants(problem)
        self.checks += check_declarations(
            problem, initial, scheme.operator, mapping, settings.turns
        )
        if self.bound.nonexpansive:
            name = type(scheme.operator).__name__
            self.maps.append(check_one_map(name, mapping, initial, subject.iterations))
        log.info(
            "  problem %d of %d: residual %.1e after %d iterations, largest ratio so far %.6f",
            number + 1,
            len(subject.problems),
            self.from_task[-1].residuals[-1],
            len(self.from_task[-1].residuals),
            max(pair.ratio for pair in self.pairs.values()),
        )

    def _iterate_from(self, mapping: FixedPointMap, begin: dict[str, State]) -> None:
        limit = self.settings.tolerance
        followed = _trajectories(mapping, begin, self.bound, self.subject.iterations, self.settings)
        self.from_task.append(followed[TASK_START])
        for name, trajectory in followed.items():
            kept = self.trajectories.get(name)
            slower = predictions.slowness(trajectory, limit)
            if kept is None or slower > predictions.slowness(kept, limit):
                self.trajectories[name] = trajectory
        ends = [mapping.estimate(trajectory.end) for trajectory in followed.values()]
        apart = distance(ends) if all(map(_is_finite, ends)) else math.inf
        self.distance_of_ends = max(self.distance_of_ends, apart)


def certify(subject: Subject, settings: Settings) -> Certificate:
    """Measure and judge.

    Args:
        subject: what is certified.
        settings: how hard to search.
    """
    search, scheme = _Search(subject, settings), subject.scheme
    for i, (problem, initial) in enumerate(subject.problems):
        search.examine(i, problem, initial)
    problems = [problem for problem, _ in subject.problems]
    declared = (*search.checks, *(check for check in search.maps if check.contradicts))
    available = len(problems) if subject.available is None else subject.available
    assessed = (
        *([] if search.network is None else [assumptions.assess_network(scheme, search.network)]),
        assumptions.assess_nonexpansiveness(search.bound, search.pairs),
        assumptions.assess_averaging(scheme, search.bound, search.pairs),
        assumptions.assess_fixed_point(search.from_task, settings.tolerance),
        assumptions.assess_metric(
            search.metrics, [scheme.operator.step_share(p) for p in problems]
        ),
        assumptions.assess_convexity(subject.convex, problems),
        assumptions.assess_step(subject.step, subject.sample, search.metrics, subject.hyper),
        assumptions.assess_weights(scheme),
        assumptions.assess_declarations(declared),
        assumptions.assess_search(settings.weaker(available)),
    )
    predicted = (
        predictions.assess_residual(search.trajectories, settings.tolerance),
        predictions.assess_steps(search.trajectories),
        predictions.assess_uniqueness(
            search.trajectories, settings.tolerance, search.distance_of_ends
        ),
        predictions.assess_stationarity(subject.gradients),
    )
    return Certificate(
        _verdict(search, assessed, declared),
        assessed,
        predicted,
        search.bound,
        search.pairs,
        search.network,
        search.trajectories,
        declared,
        len(problems),
    )


def _verdict(search: _Search, assessed: Sequence[Finding], declared: Sequence[Check]) -> Verdict:
    largest = max(pair.surely for pair in search.pairs.values())
    network = search.network
    refuted = (
        (search.bound.nonexpansive and not largest <= 1 + MEASURED)
        or (network is not None and assumptions.breaks_promise(search.scheme, network))
        or any(check.contradicts for check in declared)
    )
    if refuted:
        return "refused"
    # D decides, and not the network, which comes first where there is one.
    needed = assessed if network is None else assessed[1:]
    if not all(finding.verdict in ("holds", "not used") for finding in needed):
        return "not certified"
    is_declared = any(finding.evidence == "declared" for finding in needed)
    return "as declared" if is_declared else "certified"


def _trajectories(
    mapping: FixedPointMap,
    begin: dict[str, State],
    bound: Bound,
    trained: int,
    settings: Settings,
) -> dict[str, Trajectory]:
    """T from every start, over the horizon and, where that promises to end, to a fixed point.

    An averaged map converges if it has a fixed point, so that it is worth going on for long; from
    the other starts only if it has one.
    """
    horizon, limit = settings.horizon * trained, settings.tolerance
    search = (PATIENCE - 1) * horizon if bound.nonexpansive else 0
    by_start: dict[str, Trajectory] = {}
    for name, start in begin.items():
        by_start[name] = follow(mapping, start, horizon, search=search, tolerance=limit)
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
        "adversarial": _worst_pair(adversarial),
    }


def _network_pairs(scheme: GKM, problem: Problem, initial: State, settings: Settings) -> list[Pair]:
    """Pairs of the network alone, which the data term's contraction could hide."""
    if scheme.net is None:
        return []
    identity = ScaledIdentity(torch.ones((), device=initial[0].device))
    with torch.no_grad():
        guide = problem.guide() if scheme.net.guided and problem.guide is not None else None
        network = scheme.net.bind(guide)
        point = scheme.bind(problem).lift(initial)[:1]
    mapping = FixedPointMap(lambda u, k: (network(u[0]),), identity)
    ones = constant_direction(point)  # nothing contracts a constant image
    turns, seed = settings.turns, settings.seed
    return [
        worst_pair(mapping, point, turns=_FEW, radius=0.1, direction=ones),
        *(worst_pair(mapping, point, turns=turns, radius=r, seed=seed) for r in (0.01, 0.3)),
        krylov_pair(mapping, point, turns=turns, radius=0.01, seed=seed),
    ]


def _worst_pair(pairs: Sequence[Pair]) -> Pair:
    return max(pairs, key=lambda pair: pair.surely)


def _is_finite(u: State) -> bool:
    return all(bool(torch.isfinite(block).all()) for block in u)


def _are_equal(u: State, v: State) -> bool:
    return all(torch.equal(a, b) for a, b in zip(u, v, strict=True))
