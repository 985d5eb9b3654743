"""`bmo eval`: a trained run on its own or other data, noise or number of iterations."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bmo_cli.config.commands import format_command
from bmo_cli.config.schema import EvalConfig
from bmo_cli.config.snapshot import read_snapshot
from bmo_cli.data.perceptual import look_alikes
from bmo_cli.errors import InputError
from bmo_cli.experiment.behaviour import require_map_on_split
from bmo_cli.experiment.build import build, describe_device
from bmo_cli.experiment.checkpoint import count_parameters, load_checkpoint
from bmo_cli.experiment.plugins import names_plugins
from bmo_cli.experiment.scorecard import evaluate_test
from bmo_cli.experiment.signals import StopRequest
from bmo_cli.results.provenance import git_state, peak_rss_mib, versions
from bmo_cli.results.result import RunResult
from bmo_cli.results.run import Run
from bmo_cli.results.run_folder import RunFolder

log = logging.getLogger("bmo")


@names_plugins
def evaluate_run(run: Run[EvalConfig]) -> RunResult:
    """Evaluate the best checkpoint of `config.run` on the test split of `config.data`.

    Args:
        run: of the evaluation.

    Returns:
        The content of result.json, which the caller writes.

    Raises:
        InputError: an input cannot be used; the state of the evaluation is still `prepared`.
        Interrupted: this process received a request to stop.
    """
    config = run.config
    trained = RunFolder(Path(config.run))
    _require_noise_of_the_test(config, trained)
    experiment = build(config)
    experiment.task.prepare(["test"])
    progress = load_checkpoint(trained.checkpoints / "best.safetensors", experiment.omega)
    require_map_on_split(experiment, "test")
    result = RunResult(
        status="ok",
        choices=run.spec.choices,
        run=run.spec.about,
        seed=config.seed,
        steps=progress.step,
        train_seconds=progress.seconds,
        nonexpansive=experiment.nonexpansive,
        notes=experiment.notes,
        parameters=count_parameters(experiment.omega),
        versions=versions(),
        git=git_state(),
        device=describe_device(experiment.device),
    )
    recorded = trained.read_result()
    run.start()
    with StopRequest() as stop:
        again = format_command("eval", plugins=config.plugins, run=trained.path)
        testing = evaluate_test(experiment, config.eval, run.folder, again, stop)
    if recorded is not None:
        testing = replace(testing, data=_add_leaks(testing.data, recorded.data or {}))
    return replace(result.including(testing), peak_rss_mib=peak_rss_mib())


def _require_noise_of_the_test(config: EvalConfig, trained: RunFolder) -> None:
    """Refuse a new `task.noise` that the run's own `task.test_noise` would hide.

    Raises:
        InputError: the noise of training was changed alone, and the test has one of its own.
    """
    before: Mapping[str, Any] = read_snapshot(trained.path).get("task") or {}
    tested = config.task.get("test_noise")
    changed = config.task.get("noise") != before.get("noise")
    if tested is not None and changed and tested == before.get("test_noise"):
        raise InputError(
            f"task.noise={config.task['noise']} would change nothing: this run is tested with "
            f"task.test_noise={tested}; give task.test_noise={config.task['noise']}"
        )


def _add_leaks(tested: Mapping[str, Any], trained: Mapping[str, Any]) -> dict[str, Any]:
    """Fingerprints of the test data, with leaks from the training and validation splits of the run.

    `shared` lists test images that are equal to an image of these splits, `similar` lists
    near-duplicates. Both are logged.
    """
    data: dict[str, Any] = {
        key: list(v) if key in ("shared", "similar") else v for key, v in tested.items()
    }
    test = data.get("test", {})
    for split in ("train", "val"):
        known = trained.get(split, {})
        names_by_hash = {entry["hash"]: name for name, entry in known.get("files", {}).items()}
        equal = {}
        for name, entry in test.get("files", {}).items():
            if entry["hash"] in names_by_hash:
                equal[name] = names_by_hash[entry["hash"]]
                line = f"{equal[name]} ({split} of the run) = {name} (test)"
                data["shared"].append(line)
                log.warning("the same image is in two splits: %s", line)
        for other, name in look_alikes(known.get("perceptual", {}), test.get("perceptual", {})):
            if equal.get(name) != other:
                line = f"{other} ({split} of the run) ~ {name} (test)"
                data["similar"].append(line)
                log.warning("nearly the same image is in two splits: %s", line)
    return data
