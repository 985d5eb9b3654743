"""The test split of a run: scores, pictures, and the table that ends the console output."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bmo_cli.config.schema import Evaluate
from bmo_cli.data.image_file import write_image
from bmo_cli.data.photograph import Photograph
from bmo_cli.errors import Interrupted
from bmo_cli.experiment.build import Experiment
from bmo_cli.experiment.evaluation import (
    Evaluation,
    Settings,
    averages,
    evaluate,
    scores_by_iteration,
)
from bmo_cli.experiment.signals import StopRequest
from bmo_cli.metrics import mean
from bmo_cli.results.figures import side_by_side
from bmo_cli.results.result import Testing
from bmo_cli.results.run_folder import RunFolder
from bmo_cli.results.tables import score_table
from bmo_cli.tasks.task import Case

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
        settings: the configuration's `eval` section.
        folder: where pictures go.
        again: the command that evaluates the same weights, for who stops the evaluation.
        stop: when it holds a signal, the evaluation ends after the image.

    Returns:
        Scores, and flags where the tolerance was not met.

    Raises:
        Interrupted: `stop` holds a signal.
    """
    shown: dict[str, list[str]] = {}

    def require_running() -> None:
        if stop.signal is not None:
            raise Interrupted(
                f"stopped during evaluation; the weights are saved, evaluate them with '{again}'",
                exit_code=stop.exit_code,
            )

    def report(evaluation: Evaluation) -> None:
        require_running()
        if len(shown) < settings.images:
            names = shown.setdefault(evaluation.case.name, [])
            try:
                names += _write_pictures(experiment, evaluation, folder, len(shown))
            except (OSError, ValueError) as error:  # a picture is not worth a finished run
                log.warning("no picture of %s: %s", evaluation.case.name, error)

    scores = evaluate(
        experiment.scheme,
        experiment.task,
        "test",
        Settings.of(settings),
        report=report,
    )
    metrics = averages(scores, "test")
    task = experiment.task
    counts = sorted(set(settings.curve))

    def cases() -> Iterator[Case]:
        for case in task.cases("test") if counts else ():
            require_running()
            yield case

    for count, values in scores_by_iteration(experiment.scheme, task, cases(), counts).items():
        metrics[f"test/{task.metric}@{count}"] = mean(values)
    score, given = metrics[f"test/{task.metric}"], metrics.get(f"test/{task.metric}_input")
    if given is not None and score != given and (score > given) != task.larger_is_better:
        log.warning(
            "on average the restored images are worse than the observations: a run knows the noise "
            "and the blur that it was trained on (train with task.noise=[low,high] for a range)"
        )
    average = {key.removeprefix("test/"): value for key, value in metrics.items()}
    log.info("\n%s\n", score_table({**scores, "mean": average}, {**task.columns, **_COLUMNS}))
    return Testing(
        metrics=metrics,
        images=scores,
        pictures=shown,
        protocol=task.protocol,
        data=task.fingerprints(),
        flags=_unmet(scores, settings),
    )


def _unmet(scores: Mapping[str, Mapping[str, float]], settings: Evaluate) -> dict[str, int]:
    """How often the tolerance was not reached; the values are those of the last iteration."""
    missed = sum(row["residual"] > settings.tolerance for row in scores.values())
    if settings.tolerance == 0 or missed == 0:
        return {}
    flag = (
        f"eval.tolerance={settings.tolerance:g} was not reached within eval.iterations="
        f"{settings.iterations}"
    )
    log.warning("%s on %d of %d cases", flag, missed, len(scores))
    return {flag: missed}


def _write_pictures(
    experiment: Experiment, evaluation: Evaluation, folder: RunFolder, number: int
) -> list[str]:
    """Write the pictures of a case; their names."""
    pictures = experiment.task.pictures(evaluation.estimate, evaluation.case, evaluation.scores)
    if not pictures:
        return []
    folder.images.mkdir(exist_ok=True)
    case = evaluation.case.name
    arrays = {name: _array(picture.image) for name, picture in pictures.items()}
    for name, array in arrays.items():
        pixels = (array * 255).round().astype(np.uint8)
        write_image(folder.picture(number, case, name), Photograph(pixels), overwrite=True)
    captions = {name: picture.caption for name, picture in pictures.items()}
    side_by_side(arrays, captions, folder.picture(number, case, "side_by_side"))
    return list(arrays)


def _array(picture: Tensor) -> NDArray[Any]:
    """(C, H, W) tensor as a clipped (H, W, C) array."""
    clipped: NDArray[Any] = picture.float().clamp(0, 1).cpu().numpy().transpose(1, 2, 0)
    return clipped
