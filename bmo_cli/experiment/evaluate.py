"""`bmo eval`: a trained run on its own or other data, noise or number of iterations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bmo_cli.experiment.build import build, describe_device
from bmo_cli.experiment.checkpoint import load_checkpoint, parameter_count
from bmo_cli.experiment.interrupt import StopRequest
from bmo_cli.experiment.provenance import git_state, peak_rss_mib, versions
from bmo_cli.experiment.scorecard import evaluate_test
from bmo_cli.results.run_folder import RunFolder


def evaluate_run(config: Mapping[str, Any], folder: RunFolder) -> dict[str, Any]:
    """Evaluate the best checkpoint of `config["run"]` on the test split of `config["data"]`.

    Returns:
        The content of result.json.
    """
    run = RunFolder(Path(config["run"]))
    experiment = build(config)
    experiment.task.prepare(["test"])
    progress = load_checkpoint(run.checkpoints / "best.safetensors", experiment.omega)
    trained = run.read_result()
    result: dict[str, Any] = {
        "status": "ok",
        "message": "",
        "run": str(run.path),
        **{key: trained.get(key) for key in ("task", "gkm", "net", "hyper")},
        "seed": config["seed"],
        "steps": progress.step,
        "parameters": parameter_count(experiment.omega),
        "versions": versions(),
        "git": git_state(),
        "device": describe_device(experiment.device),
    }
    with StopRequest() as stop:
        result |= evaluate_test(experiment, config["eval"], folder, stop)
    return result | {"peak_rss_mib": peak_rss_mib()}
