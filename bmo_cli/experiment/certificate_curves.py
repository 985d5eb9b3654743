"""The curves of a certificate: T iterated far beyond K from several starts, scored on the way.

The verdict does not depend on them. The starts are those of the verdict and two more. What the
certificate iterates anyway is scored on the way (`Recorder`), and not iterated again.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import takewhile

import torch

from bmo_cli.experiment.evaluation import Trace, trace_case
from bmo_cli.gkm.scheme import GKM
from bmo_cli.results.iteration_curves import Curve, Curves
from bmo_cli.solver.state import State
from bmo_cli.tasks.task import Case, Task
from bmo_cli.verification.trajectory import TASK_START, Trajectory, spread, starts

_SCORED = 25
"""Numbers of iterations that are scored, besides K."""
_FAR = 3
"""Standard deviation of the far noise, in units of the spread of the task's start."""


class Recorder:
    """Scores the iterates of a certificate while it follows them (`Subject.watch`).

    The certificate sees neither references nor scores. A case of several problems is not recorded:
    its estimate joins those of all of them.

    Args:
        task: scores the estimates.
        cases: by the number of their problem.
        counts: numbers of iterations that are scored.
    """

    def __init__(self, task: Task, cases: Sequence[Case], counts: Collection[int]) -> None:
        self._task, self._cases, self._counts = task, cases, frozenset(counts)
        self._scores: defaultdict[tuple[int, str], dict[int, float]] = defaultdict(dict)

    def watch(self, number: int, start: str, k: int, estimate: State) -> None:
        """Score the estimate after k iterations, where k is one of the counts."""
        case = self._cases[number]
        if k in self._counts and not case.further:
            self._scores[number, start][k] = self._task.score_metric(estimate, case)

    def scores(self, scheme: GKM, counts: Sequence[int]) -> dict[int, float]:
        """The mean score of all cases from the task's start, by number of iterations.

        Args:
            scheme: iterated on the cases that are not recorded.
            counts: among those of the constructor, at most the horizon of the certificate.
        """
        columns = [
            self._traced(number, TASK_START, counts, ()).scores
            if (number, TASK_START) in self._scores
            else trace_case(scheme, self._task, case, counts).scores
            for number, case in enumerate(self._cases)
        ]
        return {k: math.fsum(column[k] for column in columns) / len(columns) for k in counts}

    def traces(
        self, trajectories: Mapping[str, Trajectory], counts: Sequence[int]
    ) -> dict[str, Trace]:
        """Traces of the first case by start, where its trajectory is as long as the last count.

        Args:
            trajectories: of the first problem.
            counts: among those of the constructor.
        """
        return {
            name: self._traced(0, name, counts, trajectory.residuals[: counts[-1]])
            for name, trajectory in trajectories.items()
            if (0, name) in self._scores
            and (len(trajectory.residuals) >= counts[-1] or not trajectory.finite)
        }

    def _traced(
        self, number: int, start: str, counts: Sequence[int], residuals: Sequence[float]
    ) -> Trace:
        """What was recorded; infinitely bad where an iterate was not finite."""
        worst = -math.inf if self._task.larger_is_better else math.inf
        scores = {k: self._scores[number, start].get(k, worst) for k in counts}
        return Trace(scores, tuple(takewhile(math.isfinite, residuals)))


def trace_starts(
    scheme: GKM,
    task: Task,
    case: Case,
    *,
    trained: int,
    iterations: int,
    seed: int,
    known: Mapping[str, Trace] | None = None,
) -> Curves:
    """Iterate T on one case from each of `curve_starts`.

    The solver gets the problem and a start. The reference is used by `Task.score` alone.

    Args:
        scheme: trained.
        task: scores the estimates.
        case: validation problem.
        trained: K, the iterations of training.
        iterations: number of iterations from every start.
        seed: of the random starts.
        known: traces by start that exist already, for the counts of `scored_counts`.
    """
    known = known or {}
    counts = scored_counts(iterations, trained)
    by_part = [curve_starts(initial, seed + i) for i, (_, initial) in enumerate(case.parts)]
    curves = {}
    for name in by_part[0]:
        begin = [given.get(name, given[next(iter(given))]) for given in by_part]
        trace = known.get(name) or trace_case(scheme, task, case, counts, begin)
        scores = tuple(float(score) for score in trace.scores.values())
        curves[name] = Curve(residuals=trace.residuals, scores=scores)
    return Curves(
        case=case.name,
        metric=task.metric,
        unit=task.unit,
        larger_is_better=task.larger_is_better,
        counts=counts,
        starts=curves,
    )


def curve_starts(initial: State, seed: int) -> dict[str, State]:
    """Five starts: the task's own, 0, 1, noise in its range, and noise far out of its range.

    0 is left out where it is the task's own start.

    Args:
        initial: the task's start.
        seed: of the noise.
    """
    by_name = starts(initial, seed)
    generator = torch.Generator().manual_seed(seed)
    noise, size = by_name.pop("noise"), _FAR * spread(initial)
    by_name["ones"] = tuple(torch.ones_like(block) for block in initial)
    by_name["noise"] = noise
    by_name["far noise"] = tuple(
        (size * torch.randn(block.shape, generator=generator)).to(block) for block in initial
    )
    return by_name


def scored_counts(iterations: int, trained: int) -> tuple[int, ...]:
    """About 25 numbers from 1 to `iterations`, evenly on a logarithmic axis, and K."""
    spaced = {round(iterations ** (i / (_SCORED - 1))) for i in range(_SCORED)}
    return tuple(sorted(spaced | {min(trained, iterations)}))
