"""`bmo eval`: a trained run on its own or other data, noise or number of iterations."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bmo_cli.config.commands import command
from bmo_cli.data.perceptual import look_alikes
from bmo_cli.experiment.behaviour import require_map_of
from bmo_cli.experiment.build import build, describe_device
from bmo_cli.experiment.checkpoint import load_checkpoint, parameter_count
from bmo_cli.experiment.plugins import names_plugins
from bmo_cli.experiment.scorecard import evaluate_test
from bmo_cli.experiment.signals import StopRequest
from bmo_cli.results.provenance import git_state, peak_rss_mib, versions
from bmo_cli.results.run_folder import RunFolder

log = logging.getLogger("bmo")


@names_plugins
def evaluate_run(
    config: Mapping[str, Any],
    names: Mapping[str, str | None],
    folder: RunFolder,
    begin: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Evaluate the best checkpoint of `config["run"]` on the test split of `config["data"]`.

    Args:
        config: resolved configuration that passed `config.schema.check_config`.
        names: chosen option of every group, for the result.
        folder: of the evaluation.
        begin: called when everything is built and loaded, before anything is written.

    Returns:
        The content of result.json.
    """
    run = RunFolder(Path(config["run"]))
    experiment = build(config)
    experiment.task.prepare(["test"])
    progress = load_checkpoint(run.checkpoints / "best.safetensors", experiment.omega)
    trained = run.read_result()
    require_map_of(experiment, "test")
    begin()
    result: dict[str, Any] = {
        "status": "ok",
        "message": "",
        "run": str(run.path),
        **names,
        "seed": config["seed"],
        "steps": progress.step,
        "train_seconds": progress.seconds,
        "nonexpansive": experiment.nonexpansive,
        "notes": experiment.notes,
        "parameters": parameter_count(experiment.omega),
        "versions": versions(),
        "git": git_state(),
        "device": describe_device(experiment.device),
    }
    with StopRequest() as stop:
        again = command("eval", plugins=config["plugins"], run=run.path)
        result |= evaluate_test(experiment, config["eval"], folder, again, stop)
    _report_leaks(result["data"], trained.get("data", {}))
    return result | {"peak_rss_mib": peak_rss_mib()}


def _report_leaks(data: dict[str, Any], trained: Mapping[str, Any]) -> None:
    """Test images that the run was trained or selected on go into `shared` and into the log.

    Near-duplicates go into `similar`.
    """
    test = data.get("test", {})
    for split in ("train", "val"):
        known = trained.get(split, {})
        seen = {entry["hash"]: name for name, entry in known.get("files", {}).items()}
        equal = {}
        for name, entry in test.get("files", {}).items():
            if entry["hash"] in seen:
                equal[name] = seen[entry["hash"]]
                line = f"{equal[name]} ({split} of the run) = {name} (test)"
                data["shared"].append(line)
                log.warning("the same image is in two splits: %s", line)
        for other, name in look_alikes(known.get("perceptual", {}), test.get("perceptual", {})):
            if equal.get(name) != other:
                line = f"{other} ({split} of the run) ~ {name} (test)"
                data["similar"].append(line)
                log.warning("nearly the same image is in two splits: %s", line)
