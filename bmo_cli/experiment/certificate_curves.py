"""The curves of a certificate: T iterated far beyond K from several starts, scored on the way.

The verdict does not depend on them. The starts are those of the verdict and two more.
"""

from __future__ import annotations

import torch

from bmo_cli.experiment.evaluation import trace_case
from bmo_cli.gkm.scheme import GKM
from bmo_cli.results.iteration_curves import Curve, Curves
from bmo_cli.solver.state import State
from bmo_cli.tasks.task import Case, Task
from bmo_cli.verification.trajectory import spread, starts

_SCORED = 25
"""Numbers of iterations that are scored, besides K."""
_FAR = 3
"""Standard deviation of the far noise, in units of the spread of the task's start."""


def trace_starts(
    scheme: GKM, task: Task, case: Case, *, trained: int, iterations: int, seed: int
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
    """
    counts = scored_counts(iterations, trained)
    by_part = [curve_starts(initial, seed + i) for i, (_, initial) in enumerate(case.parts)]
    curves = {}
    for name in by_part[0]:
        begin = [given.get(name, given[next(iter(given))]) for given in by_part]
        trace = trace_case(scheme, task, case, counts, begin)
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
