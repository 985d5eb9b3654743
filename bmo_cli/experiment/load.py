"""Load a finished run from Python."""

from __future__ import annotations

from pathlib import Path

from bmo_cli.config.paths import expand_paths
from bmo_cli.config.schema import Config, check_config
from bmo_cli.config.snapshot import read_snapshot
from bmo_cli.experiment.build import Experiment, build
from bmo_cli.experiment.checkpoint import load_checkpoint


def load_run(run: Path) -> tuple[Config, Experiment]:
    """Configuration and experiment of a run folder, with the weights of its best checkpoint.

    Raises:
        InputError: this is no run folder, or its configuration or checkpoint cannot be used.
    """
    recorded = expand_paths(read_snapshot(run)) | {"plugins": [], "resume": None}
    recorded.pop("run", None)
    config = check_config(recorded)
    experiment = build(config)
    load_checkpoint(run / "checkpoints" / "best.safetensors", experiment.omega)
    return config, experiment
