"""The convergence certificate of a trained scheme: every assumption of the theory with a verdict.

The theory covers the generalised Krasnoselskii-Mann (GKM) iteration and bilevel meta optimisation
(BMO); see docs/method.md, "The GKM iteration" and "The BMO iteration", and Bauschke & Combettes,
2017, theorem 5.15. Suppose that D is nonexpansive in a metric G > 0, and that
T = (1 - alpha) I + alpha D is averaged and has a fixed point. Then u^k converges to a point of
Fix T from every start, and |u^{k+1} - u^k|_G never grows. With 0 < s < lambda_min(G) / L_l the
aggregated iteration inherits this.

An assumption about all states is proved, declared or open. A proof is a bound made from the weights
and from constants computed in float64. A declaration comes from a class outside of the package. The
existence of a fixed point of T is measured on every problem. A measured pair can only refute. If it
refutes a bound, the code does not compute what it declares, and the certificate is refused.
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
"""multiple of the horizon over which an averaged T is searched for a fixed point"""

_FEW = 5
"""turns from a constant direction, of which the first one matters most"""

Verdict = Literal["certified", "as declared", "not certified", "refused"]


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
    """The verdict, with everything that it rests on.

    Attributes:
        verdict: certified: every assumption holds, and those about all states are proved. as
            declared: every assumption holds, but a class from outside of the package declares some
            of them. refused: a measurement contradicts a bound or a declaration. Otherwise not
            certified.
        assumptions: findings about the assumptions of the theory.
        predictions: findings about its predictions.
        bound: bound of D.
        pairs: the worst pair of every kind: random, data, adversarial.
        network: the worst pair of the network alone, in I; None: there is no network.
        trajectories: the slowest of all problems, by start.
        checks: checks of declarations.
        problems: number of examined problems.
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
        """The number of measurements that were compared with declarations."""
        return sum(check.count for check in self.checks)


class _Search:
    """Measurements, accumulated over the problems.

    Args:
        subject: the object of the certificate.
        settings: how thoroughly to search.
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
        """Iterate T from several starts, and search for pairs whose distance D increases."""
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
    """Certify a scheme.

    Args:
        subject: the object of the certificate.
        settings: how thoroughly to search.
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
        assumptions.assess_search(settings.weaker_than_default(available)),
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
    # D decides, not the network, whose finding is the first if there is one.
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
    """T from every start, over the horizon and, if the search is worthwhile, beyond it.

    An averaged map converges if it has a fixed point. The task's start is therefore iterated for
    long, and the other starts only if it converged.
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
    """Pairs of the network alone, whose expansion the data term could hide."""
    if scheme.net is None:
        return []
    identity = ScaledIdentity(torch.ones((), device=initial[0].device))
    with torch.no_grad():
        guide = problem.guide() if scheme.net.guided and problem.guide is not None else None
        network = scheme.net.bind(guide)
        point = scheme.bind(problem).lift(initial)[:1]
    mapping = FixedPointMap(lambda u, k: (network(u[0]),), identity)
    ones = constant_direction(point)  # constant images are not contracted
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
