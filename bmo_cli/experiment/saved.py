"""A finished run as objects, for analysis from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from bmo_cli.config.schema import check_config
from bmo_cli.errors import InputError
from bmo_cli.experiment.build import Experiment, build
from bmo_cli.experiment.checkpoint import load_checkpoint


def load_run(run: Path) -> tuple[dict[str, Any], Experiment]:
    """Configuration and experiment of a run folder, with the weights of its best checkpoint.

    Raises:
        InputError: no run folder, or its configuration or checkpoint is not usable.
    """
    file = run / ".hydra" / "config.yaml"
    if not file.is_file():
        raise InputError(f"{run} is not a run folder: it has no .hydra/config.yaml")
    content = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    if not isinstance(content, dict):
        raise InputError(f"{file} is damaged: expected a mapping")
    config = {str(key): value for key, value in content.items()} | {"plugins": []}
    check_config(config)
    experiment = build(config)
    load_checkpoint(run / "checkpoints" / "best.safetensors", experiment.omega)
    return config, experiment
