"""Check the gradients of the first steps: a weight without a gradient is not trained."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import nn

from bmo_cli.errors import InputError
from bmo_cli.experiment.build import Experiment
from bmo_cli.nets.network import Network

_STEPS = 2  # in the first step, a last layer that starts at zero gives earlier layers no gradient
_NAMED = 4


class GradientCheck:
    """Checks the gradients of the first two steps of a session.

    Weights of networks and learned matrices are checked. Step sizes and thresholds outside of
    networks are not: some of them reach the loss in later iterations alone, or not at all. Of
    several sets of weights (gkm.stages) one must have a gradient. Where the hyper-optimiser does
    not minimise phi_K, as hyper=separate, only networks are expected to learn.

    Args:
        experiment: its omega is checked.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._net = type(experiment.scheme.net).__name__
        network = {id(p) for net in _networks(experiment.scheme) for p in net.parameters()}
        self._weights: dict[str, list[nn.Parameter]] = defaultdict(list)
        self._network: set[str] = set()
        for name, parameter in experiment.omega.named_parameters():
            inside = id(parameter) in network
            expected = inside or (parameter.dim() > 0 and experiment.hyper.minimises_phi)
            if parameter.requires_grad and expected:
                short = re.sub(r"^scheme\.stages\.\d+\.", "", name)
                self._weights[short].append(parameter)
                self._network |= {short} if inside else set()
        self._looked = 0
        self._vanished = 0

    def __call__(self) -> list[str]:
        """Remarks about the gradients of a step, before the optimiser uses them.

        Raises:
            InputError: no weight of the network has a gradient.
        """
        if self._looked == _STEPS:
            return []
        self._looked += 1
        remarks = []
        if self._looked == 1:
            remarks += self._find_missing()
        self._vanished += bool(self._network) and all(map(self._vanishes, self._network))
        if self._vanished == _STEPS:
            remarks.append(
                f"the gradient of every weight of {self._net} was exactly zero in the first "
                f"{_STEPS} steps: the network does not learn (dead units, a factor of zero?)"
            )
        return remarks

    def _find_missing(self) -> list[str]:
        missing = [name for name, ps in self._weights.items() if all(p.grad is None for p in ps)]
        if not missing:
            return []
        listed = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        if self._network and self._network <= set(missing):
            raise InputError(
                f"no weight of {self._net} has a gradient ({listed}), so nothing of it would be "
                "trained: it cuts its output off from the graph (detach, no_grad, .data, NumPy) or "
                "does not use its weights"
            )
        return [
            f"no gradient reaches {len(missing)} of {len(self._weights)} weights, which stay as "
            f"they are: {listed}"
        ]

    def _vanishes(self, name: str) -> bool:
        gradients = [p.grad for p in self._weights[name] if p.grad is not None]
        return not any(bool(torch.count_nonzero(g)) for g in gradients)


def _networks(module: nn.Module) -> Iterator[Network]:
    return (part for part in module.modules() if isinstance(part, Network))
