"""Checkpoints: one safetensors file with omega, the optimiser's state and where training stood.

Nothing is pickled, so a file from a stranger is only data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from bmo_cli.errors import InputError
from bmo_cli.results.run_folder import write_atomically

_OPTIMIZER = "optimizer."


@dataclass
class Progress:
    """Where training stands.

    Attributes:
        step: hyper-training steps done.
        seconds: of training so far, over all sessions of the run.
        best: best validation score; nan before the first.
        best_step: the step it belongs to.
        evaluations: of T in training steps.
        products: vector-Jacobian products with D in training steps.
        window: (loss, norm of the hyper-gradient, residual) of the steps since the last row of the
            history.
        flags: what training steps remarked, and how often.
        scaler: state of the loss scale of precision=fp16.
    """

    step: int = 0
    seconds: float = 0.0
    best: float = float("nan")
    best_step: int = 0
    evaluations: int = 0
    products: int = 0
    window: list[tuple[float, float, float]] = field(default_factory=list)
    flags: dict[str, int] = field(default_factory=dict)
    scaler: dict[str, float] = field(default_factory=dict)


def save_checkpoint(
    file: Path, omega: nn.Module, progress: Progress, optimizer: Optimizer | None = None
) -> None:
    """Write omega, and with an optimiser everything that is needed to go on, atomically."""
    tensors = {name: value.detach().contiguous() for name, value in omega.state_dict().items()}
    meta = {"progress": json.dumps(asdict(progress))}
    if optimizer is not None:
        scalars: dict[str, Any] = {"class": type(optimizer).__name__}
        for index, entries in optimizer.state_dict()["state"].items():
            for key, value in entries.items():
                name = f"{_OPTIMIZER}{index}.{key}"
                if isinstance(value, Tensor):
                    tensors[name] = value.detach().contiguous()
                elif value is not None:
                    scalars[name] = value
        meta["optimizer"] = json.dumps(scalars)
    file.parent.mkdir(exist_ok=True)
    write_atomically(file, save({k: v.cpu() for k, v in tensors.items()}, metadata=meta))


def load_checkpoint(file: Path, omega: nn.Module, optimizer: Optimizer | None = None) -> Progress:
    """Load omega (and the optimiser's state) in place.

    Raises:
        InputError: missing, truncated, damaged, or of another network.
    """
    tensors, meta = _read(file)
    weights = {k: v for k, v in tensors.items() if not k.startswith(_OPTIMIZER)}
    _require_same(file, weights, omega.state_dict())
    omega.load_state_dict(weights)
    try:
        progress = Progress(**json.loads(meta["progress"]))
        if optimizer is not None:
            _restore_optimizer(optimizer, tensors, json.loads(meta["optimizer"]))
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"checkpoint {file} cannot be gone on with: it lacks {error}") from error
    return progress


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not file.is_file():
        raise InputError(f"no checkpoint {file}; the run has not trained, or it was moved")
    try:
        with safe_open(file, framework="pt") as archive:
            tensors = {key: archive.get_tensor(key) for key in archive.keys()}  # noqa: SIM118
            return tensors, archive.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        detail = " ".join(str(error).split())
        raise InputError(f"checkpoint {file} is truncated or damaged: {detail}") from error


def _require_same(file: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    for name, tensor in wanted.items():
        if name not in found:
            raise InputError(f"checkpoint {file} is of another network: it has no '{name}'")
        if found[name].shape != tensor.shape:
            have, want = tuple(found[name].shape), tuple(tensor.shape)
            raise InputError(
                f"checkpoint {file} is of another network: '{name}' is {have}, expected {want}"
            )
    for name in found:
        if name not in wanted:
            raise InputError(f"checkpoint {file} is of another network: unexpected '{name}'")


def _restore_optimizer(
    optimizer: Optimizer, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]
) -> None:
    scalars = dict(scalars)
    if scalars.pop("class") != type(optimizer).__name__:
        raise InputError("the run was trained with another optimiser; resume it with the same")
    state: dict[int, dict[str, Any]] = {}
    values = {k: v for k, v in tensors.items() if k.startswith(_OPTIMIZER)}
    for name, value in {**values, **scalars}.items():
        index, key = name.removeprefix(_OPTIMIZER).split(".", 1)
        state.setdefault(int(index), {})[key] = value
    whole = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})


def parameter_count(module: nn.Module) -> int:
    """Learned numbers: entries of all parameters that require a gradient."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def all_finite(module: nn.Module) -> bool:
    """Whether every parameter is finite."""
    return all(bool(torch.isfinite(p).all()) for p in module.parameters())
