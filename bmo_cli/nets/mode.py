"""Training and evaluation mode. Modules are in training mode only in training steps.

Some layers compute something else in training mode: dropout draws random numbers, and batch norm
uses the statistics of its batch and keeps running averages of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Behaviour:
    """What a map computes in training mode besides its value for each problem.

    Attributes:
        random: it draws random numbers, as dropout does.
        remembers: it changes its buffers, such as the running averages of batch norm.
        mixes: its value for a problem depends on the others of the batch, as with batch norm.
    """

    random: bool = False
    remembers: bool = False
    mixes: bool = False

    @property
    def repeatable(self) -> bool:
        """Whether an iteration that is repeated gives the same values."""
        return not (self.random or self.remembers)

    @property
    def divisible(self) -> bool:
        """Whether parts of a batch may be computed separately and at the same time."""
        return self.repeatable and not self.mixes

    def __str__(self) -> str:
        said = {
            "draws random numbers": self.random,
            "changes its buffers": self.remembers,
            "mixes the images of a batch": self.mixes,
        }
        return " and ".join(text for text, holds in said.items() if holds)


@contextmanager
def training_mode(module: nn.Module) -> Iterator[None]:
    """Context in which a module is in training mode. Afterwards it is in evaluation mode."""
    module.train()
    try:
        yield
    finally:
        module.eval()


@contextmanager
def fixed_seed(seed: Sequence[int], device: torch.device) -> Iterator[None]:
    """Context in which every global generator starts from a seed. Afterwards all are as before.

    Args:
        seed: for torch's generators on the CPU and on the device, NumPy's and Python's.
        device: device of the computation.
    """
    words = np.random.SeedSequence(list(seed)).generate_state(3, np.uint64)
    python, numpy, before = random.getstate(), np.random.get_state(), _torch_states(device)
    torch.manual_seed(int(words[0]))
    np.random.seed(int(words[1]) % 2**32)
    random.seed(int(words[2]))
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        _set_torch_states(before, device)


@contextmanager
def preserved_state(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Context after which weights, buffers and global generators are as before.

    Args:
        module: module whose state is preserved.
        device: device of the module.
    """
    places: list[dict[str, Any]] = [
        entries for part in module.modules() for entries in (part._parameters, part._buffers)
    ]
    kept = [
        (entries, name, tensor, tensor.detach().clone())
        for entries in places
        for name, tensor in entries.items()
        if tensor is not None
    ]
    with fixed_seed([0], device):
        try:
            yield
        finally:
            for entries, name, tensor, value in kept:
                tensor.data.copy_(value)
                entries[name] = tensor  # in case another tensor replaced it


def generator_states(device: torch.device) -> tuple[Any, ...]:
    """States of the global generators. They compare equal if nothing was drawn in between."""
    _, words, *numpy = np.random.get_state(legacy=True)
    drawn = tuple(state.cpu().numpy().tobytes() for state in _torch_states(device).values())
    return (*drawn, np.asarray(words).tobytes(), tuple(numpy), random.getstate())


def _torch_states(device: torch.device) -> dict[str, Tensor]:
    """States of torch's global generators, on the CPU and on the device."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def _set_torch_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    elif "mps" in states:
        torch.mps.set_rng_state(states["mps"])
