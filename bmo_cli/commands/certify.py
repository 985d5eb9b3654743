"""`bmo certify`: the convergence certificate of a trained run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bmo_cli.config.commands import command
from bmo_cli.errors import BmoError, InputError
from bmo_cli.experiment.behaviour import require_map_of
from bmo_cli.experiment.build import build
from bmo_cli.experiment.certificate_report import run_identity, write_certificate
from bmo_cli.experiment.checkpoint import load_checkpoint
from bmo_cli.experiment.inputs import differing
from bmo_cli.experiment.plugins import names_plugins, plugin_contents
from bmo_cli.results.run_folder import RunFolder

log = logging.getLogger("bmo")


@names_plugins
def certify_run(
    config: Mapping[str, Any],
    names: Mapping[str, str | None],
    folder: RunFolder,
    begin: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Certify the best checkpoint of `config["run"]` on its validation problems.

    Args:
        config: resolved configuration that passed `config.schema.check_config`.
        names: chosen option of every group, for the result.
        folder: where the certificate goes.
        begin: called when everything is built and loaded, before anything is written.

    Returns:
        The content of result.json.

    Raises:
        InputError: not a finished run, or its checkpoint, configuration and data do not belong
            together.
        BmoError: the certificate is refused; it is written before.
    """
    run = RunFolder(Path(config["run"]))
    trained = run.read_result()
    _require_identity(run, trained, config["plugins"])
    experiment = build(config)
    experiment.task.prepare(["val"])
    best = run.checkpoints / "best.safetensors"
    progress = load_checkpoint(best, experiment.omega)
    _require_inputs(trained, experiment.task.fingerprints())
    history = run.read_history()
    require_map_of(experiment, "val")
    _require_plugins(trained, config["plugins"])
    begin()
    result: dict[str, Any] = {
        "status": "ok",
        "message": "",
        "run": str(run.path),
        **names,
        "steps": progress.step,
        "identity": trained["identity"],
    }
    result |= write_certificate(experiment, config, history, folder)
    if result["message"]:
        folder.write_result(result)  # a refusal is a result, too
        raise BmoError(f"{result['message']}; see {folder.path}")
    return result


def _require_identity(run: RunFolder, trained: Mapping[str, Any], plugins: Sequence[str]) -> None:
    recorded, found = trained.get("identity"), run_identity(run)
    if recorded is None and trained.get("status") != "ok":
        status = trained.get("status", "no result.json")
        again = command("train", plugins=plugins, resume=run.path)
        raise InputError(
            f"{run.path} is not a finished run ({status}), and a certificate needs one; finish it "
            f"with '{again}'"
        )
    if not isinstance(recorded, Mapping) or not set(found) <= set(recorded):
        raise InputError(
            f"{run.path}: result.json does not say which checkpoint and configuration it belongs "
            "to; train the run again"
        )
    for name, digest in recorded.items():
        if found.get(name) != digest:
            what = {"checkpoint": "checkpoints/best.safetensors", "config": ".hydra/config.yaml"}
            raise InputError(
                f"{run.path}: {what.get(name, name)} is not the one that the run's result.json "
                "belongs to; a certificate needs the run as it was trained"
            )


def _require_inputs(trained: Mapping[str, Any], fingerprints: Mapping[str, Any]) -> None:
    keys = ("val", "val_rain", "kernel_content", "dictionary")
    others = differing(trained.get("data", {}), fingerprints, keys)
    if others:
        raise InputError(
            f"the run was trained with other data ({', '.join(others)}) than are found now; name "
            "those that it was trained with (data.val=..., task.kernels=...)"
        )


def _require_plugins(trained: Mapping[str, Any], plugins: Sequence[str]) -> None:
    """To be asked when they have computed something: what they import then is a part of them."""
    recorded, present = trained.get("plugins"), plugin_contents(plugins)
    for name, digest in recorded.items() if isinstance(recorded, Mapping) else ():
        if present.get(name, digest) != digest:
            raise InputError(
                f"the plug-in {name} is not the one that the run was trained with; a certificate "
                "needs the run as it was trained"
            )
