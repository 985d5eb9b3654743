"""Evaluate the test split of a run: scores, pictures, and the table on the console."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bmo_cli.config.schema import Evaluate
from bmo_cli.data.images.file import write_image
from bmo_cli.data.images.photograph import Photograph
from bmo_cli.errors import InputError, Interrupted
from bmo_cli.experiment.build import Experiment
from bmo_cli.experiment.evaluation import (
    Evaluation,
    Settings,
    average_scores,
    evaluate,
    measure_null_spaces,
    trace_cases,
)
from bmo_cli.experiment.signals import StopRequest
from bmo_cli.results.figures import side_by_side
from bmo_cli.results.result import Testing
from bmo_cli.results.run_folder import RunFolder
from bmo_cli.results.tables import score_table
from bmo_cli.tasks.task import Case, Task

log = logging.getLogger("bmo")
_COLUMNS = {"residual": ".1e", "iterations": ".0f"}


def evaluate_test(
    experiment: Experiment,
    settings: Evaluate,
    folder: RunFolder,
    again: str,
    stop: StopRequest,
) -> Testing:
    """Evaluate the test split, write pictures, print the table.

    Args:
        experiment: with the weights to evaluate.
        settings: the section `eval` of the configuration.
        folder: in which pictures are written.
        again: the command that evaluates the same weights, shown if the evaluation is stopped.
        stop: when it holds a signal, the evaluation ends after the image.

    Returns:
        Scores, and flags where the tolerance was not met.

    Raises:
        Interrupted: `stop` holds a signal.
    """
    pictures = _Pictures(experiment, folder, settings.images)

    def require_running() -> None:
        if stop.signal is not None:
            raise Interrupted(
                f"stopped during evaluation; the weights are saved, evaluate them with '{again}'",
                exit_code=stop.exit_code,
            )

    def report(evaluation: Evaluation) -> None:
        require_running()
        pictures.write(evaluation)

    task = experiment.task
    scores = evaluate(experiment.scheme, task, "test", Settings.of(settings), report=report)
    metrics, flags = average_scores(scores, "test"), _count_unmet(scores, settings)

    def cases() -> Iterator[Case]:
        for case in task.cases("test"):
            require_running()
            yield case

    if counts := sorted(set(settings.score_at)):
        traced = trace_cases(experiment.scheme, task, cases(), counts)
        metrics |= {f"test/{name}": value for name, value in traced.items()}
    if settings.null_space:
        some = itertools.islice(cases(), settings.null_space)
        try:
            measured = measure_null_spaces(experiment.scheme, some)
            metrics |= {f"test/{name}": value for name, value in measured.items()}
        except InputError as error:  # the scores are computed already
            log.warning("%s", error)
            flags[str(error)] = 1
    _compare_with_observations(metrics, task)
    average = {key.removeprefix("test/"): value for key, value in metrics.items()}
    log.info("\n%s\n", score_table({**scores, "mean": average}, {**task.columns, **_COLUMNS}))
    return Testing(
        metrics=metrics,
        images=scores,
        pictures=pictures.written,
        protocol=task.protocol,
        data=task.fingerprints(),
        flags=flags,
    )


def _compare_with_observations(metrics: Mapping[str, float], task: Task) -> None:
    """Warn if the estimates are worse than the observations."""
    score, given = metrics[f"test/{task.metric}"], metrics.get(f"test/{task.metric}_input")
    if given is not None and score != given and (score > given) != task.larger_is_better:
        log.warning(
            "on average the restored images are worse than the observations: a run knows the noise "
            "and the blur that it was trained on (train with task.noise=[low,high] for a range)"
        )


def _count_unmet(scores: Mapping[str, Mapping[str, float]], settings: Evaluate) -> dict[str, int]:
    """A flag with the number of cases that did not reach the tolerance, if any."""
    missed = sum(row["residual"] > settings.tolerance for row in scores.values())
    if settings.tolerance == 0 or missed == 0:
        return {}
    flag = (
        f"eval.tolerance={settings.tolerance:g} was not reached within eval.iterations="
        f"{settings.iterations}"
    )
    log.warning("%s on %d of %d cases", flag, missed, len(scores))
    return {flag: missed}


class _Pictures:
    """Writes pictures of the first test cases.

    Args:
        experiment: its task draws the pictures.
        folder: of the run.
        count: number of cases.

    Attributes:
        written: names of the pictures of every case, in order.
    """

    def __init__(self, experiment: Experiment, folder: RunFolder, count: int) -> None:
        self._experiment, self._folder, self._count = experiment, folder, count
        self.written: dict[str, list[str]] = {}

    def write(self, evaluation: Evaluation) -> None:
        """Write the pictures of a case, where it is among the first."""
        if len(self.written) >= self._count:
            return
        names = self.written.setdefault(evaluation.case.name, [])
        try:
            names += self._write(evaluation, len(self.written))
        except (OSError, ValueError) as error:  # a failed picture must not fail the run
            log.warning("no picture of %s: %s", evaluation.case.name, error)

    def _write(self, evaluation: Evaluation, number: int) -> list[str]:
        case, folder = evaluation.case, self._folder
        pictures = self._experiment.task.pictures(evaluation.estimate, case, evaluation.scores)
        if not pictures:
            return []
        folder.images.mkdir(exist_ok=True)
        arrays = {name: _to_array(picture.image) for name, picture in pictures.items()}
        for name, array in arrays.items():
            pixels = (array * 255).round().astype(np.uint8)
            write_image(folder.picture(number, case.name, name), Photograph(pixels), overwrite=True)
        captions = {name: picture.caption for name, picture in pictures.items()}
        side_by_side(arrays, captions, folder.picture(number, case.name, "side_by_side"))
        return list(arrays)


def _to_array(picture: Tensor) -> NDArray[Any]:
    """(C, H, W) tensor as a clipped (H, W, C) array."""
    clipped: NDArray[Any] = picture.float().clamp(0, 1).cpu().numpy().transpose(1, 2, 0)
    return clipped
