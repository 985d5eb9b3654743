"""No hyper-training: the scheme runs with its initial hyper-parameters, as a classical solver."""

from __future__ import annotations

from bmo_cli.errors import InputError
from bmo_cli.gkm.scheme import GKM
from bmo_cli.hyper.base import HyperOptimizer, Outcome
from bmo_cli.solver.problem import Sample


class Untrained(HyperOptimizer):
    """Evaluates the scheme as configured. A run with it takes no hyper-training step."""

    trains = False

    def objective(self, scheme: GKM, sample: Sample, iterations: int) -> Outcome:
        raise InputError("hyper=none has no hyper-gradient")

    def accuracy(self, iterations: int) -> float | None:
        return None
