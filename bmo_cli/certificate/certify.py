"""The convergence certificate of a trained scheme: every assumption of the theory with a verdict.

Theory (method.md, sections 2 and 3; Bauschke & Combettes, 2017, theorem 5.15): if D is nonexpansive
in a metric G > 0 and T = (1 - alpha) I + alpha D is averaged and has a fixed point, then
u^k -> Fix T from every start and |u^{k+1} - u^k|_G never grows; with 0 < s < lambda_min(G) / L_l
the aggregated iteration inherits this.

A bound made from the weights can prove that D is nonexpansive. A measured pair can only refute it,
and one that refutes a bound shows that the program is wrong: then the certificate is refused.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from bmo_cli.certificate.findings import (
    MEASURED,
    Bound,
    Finding,
    averaged,
    breaks_promise,
    convex,
    nonexpansive,
    positive,
    promise,
    residual,
    slowness,
    solvable,
    stationary,
    step,
    steps,
    unique,
)
from bmo_cli.certificate.horizon import TASK_START, Trajectory, distance, follow, starts
from bmo_cli.gkm.scheme import GKM
from bmo_cli.solver.fixed_point import FixedPointMap, iterate
from bmo_cli.solver.metric import Metric, ScaledIdentity
from bmo_cli.solver.nonexpansive import Pair, compare, worst_pair
from bmo_cli.solver.problem import Problem, Sample
from bmo_cli.solver.state import State

log = logging.getLogger("bmo")

PATIENCE = 20
"""times the horizon for which a fixed point is looked for, where T must reach one if it has one"""


@dataclass(frozen=True)
class Settings:
    """How hard the search is; the keys are those of the configuration's `certificate`.

    Attributes:
        horizon: iterations followed, as a multiple of the K trained with; up to 20 times as many
            until `tolerance` is met, where D is proved nonexpansive.
        cases: validation problems looked at.
        turns: of the adversarial search at each of them.
        tolerance: residual that counts as converged.
        seed: of random states.
    """

    horizon: int = 10
    cases: int = 2
    turns: int = 20
    tolerance: float = 1e-5
    seed: int = 0


@dataclass(frozen=True)
class Subject:
    """What is certified.

    Attributes:
        scheme: trained.
        convex: whether the functions of every problem are convex.
        iterations: K of training.
        step: s of the aggregation as a share of its limit; None: nothing is aggregated.
        problems: with their starts, as the solver sees them.
        sample: a training sample, for L_l; None: not looked at.
        gradients: |grad phi_K| along training, in order; None: phi_K was not what was minimised.
    """

    scheme: GKM
    convex: bool
    iterations: int
    step: float | None
    problems: Sequence[tuple[Problem, State]]
    sample: Sample | None
    gradients: Sequence[float] | None


@dataclass(frozen=True)
class Certificate:
    """What was found.

    Attributes:
        verdict: certified: every assumption holds. refused: a measured pair contradicts a bound.
            Otherwise not certified.
        assumptions: that the theory makes.
        predictions: that it makes, held against measurements.
        bound: of D.
        pairs: the worst of every kind: random, data, adversarial.
        network: the worst pair of the network alone, in I; None: there is no network.
        trajectories: by start, the slowest of all problems.
    """

    verdict: Literal["certified", "not certified", "refused"]
    assumptions: tuple[Finding, ...]
    predictions: tuple[Finding, ...]
    bound: Bound
    pairs: dict[str, Pair]
    network: Pair | None
    trajectories: dict[str, Trajectory]

    @property
    def ratio(self) -> float:
        """The largest measured |D(a) - D(b)|_G / |a - b|_G."""
        return max(pair.ratio for pair in self.pairs.values())


def certify(subject: Subject, settings: Settings) -> Certificate:
    """Measure and judge.

    Args:
        subject: what is certified.
        settings: how hard to search.
    """
    scheme, k = subject.scheme, max(subject.iterations - 1, 0)
    bound = bound_of(scheme, subject.convex)
    pairs: dict[str, Pair] = {}
    trajectories: dict[str, Trajectory] = {}
    network: Pair | None = None
    searched: list[Trajectory] = []
    apart = 0.0
    metric: Metric | None = None
    for i, (problem, initial) in enumerate(subject.problems):
        with torch.no_grad():
            mapping = scheme.bind(problem)
        if metric is None or mapping.metric.smallest_eigenvalue < metric.smallest_eigenvalue:
            metric = mapping.metric
        begin = starts(initial, settings.seed + i)
        followed = _trajectories(mapping, begin, bound, subject.iterations, settings)
        searched.append(followed[TASK_START])
        for name, found in followed.items():
            kept, limit = trajectories.get(name), settings.tolerance
            if kept is None or slowness(found, limit) > slowness(kept, limit):
                trajectories[name] = found
        ends = [mapping.estimate(found.end) for found in followed.values()]
        apart = max(apart, distance(ends)) if all(map(_finite, ends)) else math.inf
        for kind, pair in _pairs(mapping, begin, k, settings).items():
            if kind not in pairs or pair.ratio > pairs[kind].ratio:
                pairs[kind] = pair
        alone = _network_pair(scheme, problem, initial, settings)
        if alone is not None and (network is None or alone.ratio > network.ratio):
            network = alone
        log.info(
            "  problem %d of %d: residual %.1e after %d iterations, largest ratio so far %.6f",
            i + 1,
            len(subject.problems),
            searched[-1].residuals[-1],
            len(searched[-1].residuals),
            max(pair.ratio for pair in pairs.values()),
        )
    assert metric is not None
    assumptions = (
        *([] if network is None else [promise(scheme, network)]),
        nonexpansive(bound, pairs),
        averaged(scheme, bound, pairs),
        solvable(searched, settings.tolerance),
        positive(metric),
        convex(subject.convex),
        step(subject.step, subject.sample, metric),
    )
    predictions = (
        residual(trajectories, settings.tolerance),
        steps(trajectories),
        unique(trajectories, settings.tolerance, apart),
        stationary(subject.gradients),
    )
    refuted = bound.proves and max(pair.ratio for pair in pairs.values()) > 1 + MEASURED
    refuted = refuted or (network is not None and breaks_promise(scheme, network))
    needed = assumptions if network is None else assumptions[1:]  # D decides, not the network
    held = all(finding.verdict in ("holds", "not used") for finding in needed)
    verdict: Literal["certified", "not certified", "refused"] = "not certified"
    if refuted:
        verdict = "refused"
    elif held:
        verdict = "certified"
    return Certificate(verdict, assumptions, predictions, bound, pairs, network, trajectories)


def bound_of(scheme: GKM, convex: bool) -> Bound:
    """The best upper bound of the Lipschitz constant of D in G that the weights give."""
    operator, net = scheme.operator, scheme.net
    name = type(operator).__name__
    if len(scheme.stages) > 1:
        return Bound(None, f"{len(scheme.stages)} sets of weights: there is no single map")
    if not convex:
        return Bound(None, f"the problems are not convex, which {name} assumes")
    if not operator.nonexpansive:
        return Bound(None, f"{name} promises nothing about its norm")
    if net is None:
        return Bound(1.0, f"{name} is nonexpansive in G for {operator.condition}")
    if not operator.keeps_nonexpansive:
        return Bound(None, f"the network is bounded in I, and the metric of {name} is another")
    found = net.bound()
    if found is None:
        return Bound(None, f"no bound is known for {type(net).__name__}")
    why = f"{name} is nonexpansive in G for {operator.condition}; {type(net).__name__}: {found.how}"
    return Bound(found.value, why, found.layers)


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
    search = (PATIENCE - 1) * horizon if bound.proves else 0
    found: dict[str, Trajectory] = {}
    for name, start in begin.items():
        found[name] = follow(mapping, start, horizon, search=search, tolerance=limit)
        search = search if found[TASK_START].met(limit) is not None else 0
    return found


def _pairs(
    mapping: FixedPointMap, begin: dict[str, State], k: int, settings: Settings
) -> dict[str, Pair]:
    """The worst pair of every kind at one problem."""
    with torch.no_grad():
        first = mapping.lift(begin[TASK_START])
        later = iterate(mapping, first, iterations=k + 1).value
        noise = mapping.lift(begin["noise"])
        data = (first, later) if not _equal(first, later) else (first, noise)
    found = {
        "random": worst_pair(mapping, noise, turns=1, radius=0.1, seed=settings.seed, k=k),
        "data": compare(mapping, *data, k=k),
    }
    searched = [
        worst_pair(mapping, point, turns=settings.turns, radius=radius, seed=settings.seed, k=k)
        for point, radius in ((later, 0.01), (first, 0.1), (noise, 0.1))
    ]
    found["adversarial"] = max(searched, key=lambda pair: pair.ratio)
    return found


def _network_pair(scheme: GKM, problem: Problem, initial: State, settings: Settings) -> Pair | None:
    """The worst pair of the network alone, which the data term's contraction could hide."""
    if scheme.net is None:
        return None
    identity = ScaledIdentity(torch.ones((), device=initial[0].device))
    with torch.no_grad():
        guide = problem.guide() if scheme.net.guided and problem.guide is not None else None
        network = scheme.net.bind(guide)
        point = scheme.bind(problem).lift(initial)[:1]
    mapping = FixedPointMap(lambda u, k: (network(u[0]),), identity)
    brighter = tuple(block + 0.1 for block in point)  # nothing contracts a constant image
    searched = [compare(mapping, point, brighter)] + [
        worst_pair(mapping, point, turns=settings.turns, radius=radius, seed=settings.seed)
        for radius in (0.01, 0.3)
    ]
    return max(searched, key=lambda pair: pair.ratio)


def _finite(u: State) -> bool:
    return all(bool(torch.isfinite(block).all()) for block in u)


def _equal(u: State, v: State) -> bool:
    return all(torch.equal(a, b) for a, b in zip(u, v, strict=True))
