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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bmo_cli.config.schema import Certify as Settings
from bmo_cli.solver.metric import Metric
from bmo_cli.solver.nonexpansive import Pair
from bmo_cli.verification import assumptions, predictions
from bmo_cli.verification.bound import bound_of
from bmo_cli.verification.declared import Check
from bmo_cli.verification.examination import Examination, Subject, examine, worst_of
from bmo_cli.verification.findings import MEASURED, Bound, Finding
from bmo_cli.verification.trajectory import TASK_START, Trajectory

log = logging.getLogger("bmo")

Verdict = Literal["certified", "as declared", "not certified", "refused"]


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
        first: the trajectories of the first problem, by start.
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
    first: dict[str, Trajectory]
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
        self.first: dict[str, Trajectory] = {}
        self.network: Pair | None = None
        self.from_task: list[Trajectory] = []
        self.metrics: list[Metric] = []
        self.checks: list[Check] = []
        self.maps: list[Check] = []
        self.distance_of_ends = 0.0

    def add(self, seen: Examination) -> None:
        """Take over the measurements of the next problem."""
        limit = self.settings.tolerance
        self.metrics.append(seen.metric)
        self.checks += seen.checks
        self.maps += seen.maps
        self.from_task.append(seen.trajectories[TASK_START])
        self.distance_of_ends = max(self.distance_of_ends, seen.distance_of_ends)
        self.first = self.first or seen.trajectories
        for name, trajectory in seen.trajectories.items():
            kept = self.trajectories.get(name)
            slower = predictions.slowness(trajectory, limit)
            if kept is None or slower > predictions.slowness(kept, limit):
                self.trajectories[name] = trajectory
        for kind, pair in seen.pairs.items():
            known = self.pairs.get(kind)
            if known is None or pair.surely > known.surely:
                self.pairs[kind] = pair
        if seen.network:
            self.network = worst_of([*seen.network, *([self.network] if self.network else [])])
        log.info(
            "  problem %d of %d: residual %.1e after %d iterations, largest ratio so far %.6f",
            len(self.from_task),
            len(self.subject.problems),
            self.from_task[-1].residuals[-1],
            len(self.from_task[-1].residuals),
            max(pair.ratio for pair in self.pairs.values()),
        )


def certify(subject: Subject, settings: Settings) -> Certificate:
    """Certify a scheme.

    Args:
        subject: the object of the certificate.
        settings: how thoroughly to search.
    """
    search, scheme = _Search(subject, settings), subject.scheme
    for number in range(len(subject.problems)):
        search.add(examine(subject, settings, search.bound, number))
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
        search.first,
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
