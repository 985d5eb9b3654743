"""Whether a hyper-gradient fits, asked before training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bmo_cli import memory
from bmo_cli.experiment.build import Experiment


def require_memory(experiment: Experiment, settings: Mapping[str, Any]) -> None:
    """Let the hyper-optimiser choose what it keeps, before anything is written.

    Args:
        experiment: built, its task prepared.
        settings: the configuration's `train` section.

    Raises:
        InputError: more is needed than is free; says what would fit.
    """
    sample = next(iter(experiment.task.samples(range(1), settings["batch"])))
    free = memory.free_memory(experiment.device)
    experiment.hyper.plan(experiment.scheme, sample, settings["iterations"], free)
