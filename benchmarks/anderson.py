"""Evaluations of T that a trained run needs to a residual of 1e-4, plain and with Anderson.

usage: python benchmarks/anderson.py RUN [TOLERANCE]
"""

import sys
from pathlib import Path

from bmo_cli.errors import BmoError, InputError
from bmo_cli.experiment.evaluation import Settings, solve
from bmo_cli.experiment.load import load_run
from bmo_cli.metrics import mean


def main() -> None:
    """One row a test image, then the means."""
    if len(sys.argv) not in (2, 3):
        raise InputError("usage: python benchmarks/anderson.py RUN [TOLERANCE]")
    try:
        tolerance = float(sys.argv[2]) if len(sys.argv) == 3 else 1e-4
    except ValueError as error:
        raise InputError(f"TOLERANCE must be a number, got '{sys.argv[2]}'") from error
    _, experiment = load_run(Path(sys.argv[1]))
    task, scheme = experiment.task, experiment.scheme
    counts: dict[int, list[int]] = {0: [], 5: []}
    print(
        f"| image | plain | Anderson | {task.metric} | {task.metric}, Anderson |\n"
        + "|---" * 5
        + "|"
    )
    for case in task.cases("test"):
        found = []
        for memory in counts:
            settings = Settings(iterations=1000, tolerance=tolerance, anderson=memory)
            estimate = solve(scheme, case.problem, case.initial, settings)
            counts[memory].append(estimate.iterations)
            found.append(task.score_metric(estimate.value, case))
        done = [counts[memory][-1] for memory in counts]
        print(f"| {case.name} | {done[0]} | {done[1]} | {found[0]:.3f} | {found[1]:.3f} |")
    plain, fast = (mean([float(n) for n in counts[memory]]) for memory in counts)
    worst = max(b / a for a, b in zip(counts[0], counts[5], strict=True))
    print(
        f"mean {plain:.1f} and {fast:.1f} evaluations of T; largest ratio on an image {worst:.2f}"
    )


if __name__ == "__main__":
    try:
        main()
    except BmoError as error:
        sys.exit(f"anderson: {error}")
