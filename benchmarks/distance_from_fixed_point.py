"""How far the K iterations of training end from the fixed point, in the task's metric.

Iterates the test cases of a run of hyper=truncated as its training does: K - M accelerated
iterations, then M plain ones.

usage: python benchmarks/distance_from_fixed_point.py RUN K [K ...]
"""

import sys
from pathlib import Path

import torch

from bmo_cli.errors import BmoError, InputError
from bmo_cli.experiment.evaluation import Settings, solve
from bmo_cli.experiment.load import load_run
from bmo_cli.hyper.truncated import Truncated
from bmo_cli.metrics import mean
from bmo_cli.solver.anderson import Anderson
from bmo_cli.solver.fixed_point import iterate

CONVERGED = Settings(iterations=1000, tolerance=1e-6, anderson=5)


@torch.no_grad()
def main() -> None:
    """One row for every K, the mean over the test cases."""
    if len(sys.argv) < 3 or not all(word.isdecimal() and int(word) for word in sys.argv[2:]):
        raise InputError("usage: python benchmarks/distance_from_fixed_point.py RUN K [K ...]")
    _, experiment = load_run(Path(sys.argv[1]))
    task, scheme, hyper = experiment.task, experiment.scheme, experiment.hyper
    if not isinstance(hyper, Truncated) or not scheme.stationary:
        raise InputError(f"{sys.argv[1]} is not a run of hyper=truncated with one map")
    task.prepare(("test",))
    counts = [int(word) for word in sys.argv[2:]]
    scores: dict[int, list[float]] = {count: [] for count in counts}
    ends = []
    for case in task.cases("test"):
        mapping = scheme.bind(case.problem)
        end = solve(scheme, case.problem, case.initial, CONVERGED)
        if case.further or end.residual > CONVERGED.tolerance:
            raise InputError(f"{case.name}: several problems, or no fixed point was reached")
        ends.append(task.score_metric(end.value, case))
        for count in counts:
            first = max(count - hyper.last, 0)
            u = case.initial
            if first:
                fast = Anderson(mapping.metric, memory=hyper.anderson, iterations=first)
                acceleration = fast if hyper.anderson else None
                u = iterate(mapping, u, iterations=first, acceleration=acceleration).value
            u = iterate(mapping, u, iterations=count - first, start=first).value
            scores[count].append(task.score_metric(mapping.estimate(u), case))
    print(f"{len(ends)} cases; at the fixed point: {task.metric} {mean(ends):.3f}")
    for count, values in scores.items():
        print(f"K = {count}: {mean(values):.3f}, difference {mean(values) - mean(ends):+.3f}")


if __name__ == "__main__":
    try:
        main()
    except BmoError as error:
        sys.exit(f"distance_from_fixed_point: {error}")
