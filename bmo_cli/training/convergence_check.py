"""Check whether the iterations of training end near the fixed point that more iterations reach."""

from __future__ import annotations

from itertools import islice

from bmo_cli.experiment.build import Experiment
from bmo_cli.experiment.evaluation import scores_by_iteration
from bmo_cli.metrics import mean

_CASES = 2
_FARTHER = 10  # iterations, in units of K
_DECIBELS = 0.1


def check_convergence(experiment: Experiment, iterations: int) -> str | None:
    """A remark if the score of a converging scheme changes beyond the K iterations of training.

    A scheme that is nonexpansive by construction converges, whatever K it was trained with. If the
    K-th iterate is far from the fixed point, training has chosen weights for another image than
    the one that the scheme converges to. Scores are those of the first validation cases.

    Args:
        experiment: trained, with the weights that are tested.
        iterations: K.

    Returns:
        None where the score stays, or where nothing is known: the score is not in decibels, the
        scheme is not nonexpansive, or training did not run the scheme.
    """
    task, hyper = experiment.task, experiment.hyper
    if not (experiment.nonexpansive and hyper.trains and hyper.minimises_phi and task.unit == "dB"):
        return None
    counts = (iterations, _FARTHER * iterations)
    scores = scores_by_iteration(experiment.scheme, task, islice(task.cases("val"), _CASES), counts)
    near, far = (mean(scores[count]) for count in counts)
    if abs(near - far) <= _DECIBELS:
        return None
    return (
        f"the K = {counts[0]} iterations of training end far from the fixed point: validation "
        f"{task.metric} {near:.2f} dB there and {far:.2f} dB after {counts[1]} iterations; use "
        "more train.iterations, a start that is closer to it (task.start=wiener of task=deconv), "
        "or hyper=implicit"
    )
