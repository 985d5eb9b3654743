"""A finished run as objects, for analysis from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bmo_cli.config.paths import with_paths
from bmo_cli.config.schema import check_config
from bmo_cli.config.snapshot import read_snapshot
from bmo_cli.experiment.build import Experiment, build
from bmo_cli.experiment.checkpoint import load_checkpoint


def load_run(run: Path) -> tuple[dict[str, Any], Experiment]:
    """Configuration and experiment of a run folder, with the weights of its best checkpoint.

    Raises:
        InputError: no run folder, or its configuration or checkpoint is not usable.
    """
    config = with_paths(read_snapshot(run)) | {"plugins": [], "resume": None}
    config.pop("run", None)
    check_config(config)
    experiment = build(config)
    load_checkpoint(run / "checkpoints" / "best.safetensors", experiment.omega)
    return config, experiment
