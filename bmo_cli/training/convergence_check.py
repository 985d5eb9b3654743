"""Check whether the iterations of training end near the fixed point that more iterations reach."""

from __future__ import annotations

import math
from itertools import islice

from bmo_cli.errors import DivergenceError
from bmo_cli.experiment.build import Experiment
from bmo_cli.experiment.evaluation import Settings, solve_case
from bmo_cli.metrics import mean

_CASES = 2
_FARTHER = 10  # iterations, in units of K
_DECIBELS = 0.1


def check_convergence(experiment: Experiment, iterations: int) -> str | None:
    """A remark if the score of a converging scheme changes beyond the K iterations of training.

    A scheme that is nonexpansive by construction converges, whatever K it was trained with. If the
    K-th iterate is far from the fixed point, training has chosen weights for another image than
    the one that the scheme converges to. The K iterations are accelerated where those of training
    are. Scores are those of the first validation cases.

    Args:
        experiment: trained, with the weights that are tested.
        iterations: K.

    Returns:
        None where the score stays, or where nothing is known: the score is not in decibels, the
        scheme is not nonexpansive, or training did not run the scheme.
    """
    scheme, task, hyper = experiment.scheme, experiment.task, experiment.hyper
    learns = hyper.trains and hyper.minimises_phi
    if not (experiment.nonexpansive and learns and task.unit == "dB"):
        return None
    cases = list(islice(task.cases("val"), _CASES))

    def score(settings: Settings) -> float:
        estimates = [solve_case(scheme, case, settings).value for case in cases]
        return mean([task.score_metric(u, case) for u, case in zip(estimates, cases, strict=True)])

    farther = _FARTHER * iterations
    try:
        near = score(Settings(iterations, anderson=hyper.anderson if scheme.stationary else 0))
        far = score(Settings(farther))
    except DivergenceError:  # the evaluation reports it
        return None
    if not math.isfinite(near - far) or abs(near - far) <= _DECIBELS:
        return None
    return (
        f"the K = {iterations} iterations of training end far from the fixed point: validation "
        f"{task.metric} {near:.2f} dB there and {far:.2f} dB after {farther} iterations; use more "
        "train.iterations, or a start that is closer to it"
    )
