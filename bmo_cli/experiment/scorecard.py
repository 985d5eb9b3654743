"""The test split of a run: scores, pictures, and the table that ends the console output."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bmo_cli.data.image_file import Photograph, write_image
from bmo_cli.errors import Interrupted
from bmo_cli.experiment.build import Experiment
from bmo_cli.experiment.console import table
from bmo_cli.experiment.evaluation import Evaluation, Settings, averages, evaluate
from bmo_cli.experiment.interrupt import StopRequest
from bmo_cli.results.figures import side_by_side
from bmo_cli.results.run_folder import RunFolder

log = logging.getLogger("bmo")
_COLUMNS = {
    "psnr_input": ".2f",
    "psnr": ".2f",
    "ssim_input": ".4f",
    "ssim": ".4f",
    "residual": ".1e",
    "iterations": ".0f",
}


def evaluate_test(
    experiment: Experiment,
    settings: Mapping[str, Any],
    folder: RunFolder,
    run: Path,
    stop: StopRequest,
) -> dict[str, Any]:
    """Evaluate the test split, write pictures, print the table.

    Args:
        experiment: with the weights to evaluate.
        settings: the configuration's `eval` section.
        folder: where pictures go.
        run: where the weights are, for the message when the user stops the evaluation.
        stop: when it holds a signal, the evaluation ends after the image.

    Returns:
        `metrics` (flat, test/...), `images` (scores by image name), `protocol`, `data`.
    """
    shown = 0

    def report(evaluation: Evaluation) -> None:
        nonlocal shown
        if stop.signal is not None:
            raise Interrupted(
                "stopped during evaluation; the weights are saved, evaluate them with "
                f"'bmo eval run={run}'",
                exit_code=stop.exit_code,
            )
        if shown < settings["images"]:
            shown += 1
            try:
                _write_pictures(experiment, evaluation, folder, shown)
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
    data = experiment.task.fingerprints()
    metric = experiment.task.metric
    if metrics[f"test/{metric}"] < metrics[f"test/{metric}_input"]:
        log.warning(
            "on average the restored images are worse than the observations: a run knows the noise "
            "and the blur that it was trained on (train with task.noise=[low,high] for a range)"
        )
    mean = {key.removeprefix("test/"): value for key, value in metrics.items()}
    log.info("\n%s\n", table({**scores, "mean": mean}, _COLUMNS))
    return {
        "metrics": metrics,
        "images": scores,
        "protocol": experiment.task.protocol,
        "data": data,
    }


def _write_pictures(
    experiment: Experiment, evaluation: Evaluation, folder: RunFolder, number: int
) -> None:
    folder.images.mkdir(exist_ok=True)
    stem = evaluation.case.name.rsplit(".", 1)[0][:80]
    pictures = experiment.task.pictures(evaluation.estimate, evaluation.case)
    arrays = {name: _array(picture) for name, picture in pictures.items()}
    for name, array in arrays.items():
        pixels = (array * 255).round().astype(np.uint8)
        write_image(
            folder.images / f"{number:02d}_{stem}_{name}.png", Photograph(pixels), overwrite=True
        )
    scores = evaluation.scores
    captions = {
        "clean": f"{stem}: clean",
        "degraded": f"degraded {scores['psnr_input']:.2f} dB",
        "restored": f"restored {scores['psnr']:.2f} dB",
    }
    side_by_side(arrays, captions, folder.images / f"{number:02d}_{stem}_side_by_side.png")


def _array(picture: Tensor) -> NDArray[Any]:
    """(C, H, W) tensor as a clipped (H, W, C) array."""
    clipped: NDArray[Any] = picture.float().clamp(0, 1).cpu().numpy().transpose(1, 2, 0)
    return clipped
