"""Whether a hyper-gradient fits, asked before training."""

from __future__ import annotations

from bmo_cli import memory
from bmo_cli.experiment.build import Experiment
from bmo_cli.solver.problem import Sample


def require_memory(experiment: Experiment, sample: Sample, iterations: int, parts: int = 1) -> None:
    """Let the hyper-optimiser choose what it keeps, before anything is written.

    Args:
        experiment: built, its task prepared.
        sample: a batch, or an equal part of one, as training meets it.
        iterations: K.
        parts: that are differentiated at a time.

    Raises:
        InputError: more is needed than is free; says what would fit.
    """
    free = memory.free_memory(experiment.device)
    experiment.hyper.plan(experiment.scheme, sample, iterations, free, parts)
