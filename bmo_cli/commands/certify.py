"""`bmo certify`: the convergence certificate of a trained run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bmo_cli.config.commands import format_command
from bmo_cli.config.schema import EvalConfig
from bmo_cli.errors import BmoError, InputError
from bmo_cli.experiment.behaviour import require_map_on_split
from bmo_cli.experiment.build import build
from bmo_cli.experiment.certificate_report import hash_run_files, write_certificate
from bmo_cli.experiment.checkpoint import load_checkpoint
from bmo_cli.experiment.inputs import list_changed_inputs
from bmo_cli.experiment.plugins import hash_plugins, names_plugins
from bmo_cli.results.result import RunResult
from bmo_cli.results.run import Run
from bmo_cli.results.run_folder import RunFolder

log = logging.getLogger("bmo")


@names_plugins
def certify_run(run: Run[EvalConfig]) -> RunResult:
    """Certify the best checkpoint of `config.run` on the validation problems of that run.

    Args:
        run: of the certification.

    Returns:
        The content of result.json, which the caller writes.

    Raises:
        InputError: the run is not finished, or its checkpoint, configuration and data do not match.
        BmoError: the certificate is refused. The certificate is written before.
    """
    config, folder = run.config, RunFolder(Path(run.config.run))
    trained = _require_finished(folder, config.plugins)
    experiment = build(config)
    experiment.task.prepare(["val"])
    best = folder.checkpoints / "best.safetensors"
    progress = load_checkpoint(best, experiment.omega)
    _require_same_inputs(trained, experiment.task.fingerprints())
    history = folder.read_history()
    require_map_on_split(experiment, "val")
    _require_same_plugins(trained, config.plugins)
    run.start()
    certification = write_certificate(experiment, config, history, run.folder)
    result = RunResult(status="ok", steps=progress.step, identity=trained.identity)
    result = result.including(certification)
    if result.message:
        run.finish(result)  # a refused certificate is a result, too
        raise BmoError(f"{result.message}; see {run.spec.path}")
    return result


def _require_finished(run: RunFolder, plugins: Sequence[str]) -> RunResult:
    """The result of a finished run whose files have the hashes recorded in the result."""
    trained, present = run.read_result(), hash_run_files(run)
    recorded = None if trained is None else trained.identity
    if recorded is None and (trained is None or trained.status != "ok"):
        status = "no result.json" if trained is None else trained.status
        again = format_command("train", plugins=plugins, resume=run.path)
        raise InputError(
            f"{run.path} is not a finished run ({status}), and a certificate needs one; finish it "
            f"with '{again}'"
        )
    if trained is None or recorded is None or not set(present) <= set(recorded):
        raise InputError(
            f"{run.path}: result.json does not say which checkpoint and configuration it belongs "
            "to; train the run again"
        )
    for name, digest in recorded.items():
        if present.get(name) != digest:
            what = {"checkpoint": "checkpoints/best.safetensors", "config": ".hydra/config.yaml"}
            raise InputError(
                f"{run.path}: {what.get(name, name)} is not the one that the run's result.json "
                "belongs to; a certificate needs the run as it was trained"
            )
    return trained


def _require_same_inputs(trained: RunResult, fingerprints: Mapping[str, Any]) -> None:
    """Refuse data that differ from those the run was trained with."""
    keys = ("val", "val_rain", "kernel_content", "dictionary")
    others = list_changed_inputs(trained.data or {}, fingerprints, keys)
    if others:
        raise InputError(
            f"the run was trained with other data ({', '.join(others)}) than are found now; name "
            "those that it was trained with (data.val=..., task.kernels=...)"
        )


def _require_same_plugins(trained: RunResult, plugins: Sequence[str]) -> None:
    """Refuse plug-ins that changed since training.

    This must be called after the plug-ins have computed something. The modules that they import
    then count as parts of them.
    """
    present = hash_plugins(plugins)
    for name, digest in (trained.plugins or {}).items():
        if present.get(name, digest) != digest:
            raise InputError(
                f"the plug-in {name} is not the one that the run was trained with; a certificate "
                "needs the run as it was trained"
            )
