"""Checkpoints: one safetensors file with omega, the optimiser's state and the progress of training.

Nothing is pickled, so that an untrusted file is plain data. A hash of the whole content detects a
damaged file. The last two checkpoints are kept, so that a damaged one costs one interval of
training.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
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
from bmo_cli.results.files import write_atomically

log = logging.getLogger("bmo")

LAST, PREVIOUS, BEST = "last.safetensors", "previous.safetensors", "best.safetensors"
_OPTIMIZER = "optimizer."


class DamagedCheckpoint(InputError):
    """A checkpoint is missing, or its content is not what was written."""


@dataclass
class Progress:
    """Progress of training.

    Attributes:
        step: number of hyper-training steps done.
        seconds: of training, over all sessions of the run.
        best: best validation score; nan before the first validation.
        best_step: the step of the best score.
        evaluations: of T in training steps.
        products: vector-Jacobian products with D in training steps.
        window: (loss, norm of the hyper-gradient, residual) of the steps since the last row of the
            history.
        flags: remarks of training steps, with their counts.
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
    """Write omega atomically; with an optimiser also everything that is needed to resume."""
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
    stored = {name: tensor.cpu() for name, tensor in tensors.items()}
    write_atomically(file, save(stored, metadata={**meta, "digest": _digest(stored, meta)}))


def save_last(
    folder: Path, omega: nn.Module, progress: Progress, optimizer: Optimizer | None
) -> None:
    """Write the last checkpoint, and keep the one before it.

    At every moment at least one complete checkpoint exists.
    """
    last, before = folder / LAST, folder / f".{PREVIOUS}"
    if last.is_file():
        before.unlink(missing_ok=True)
        _link_or_copy(last, before)
        before.replace(folder / PREVIOUS)
    save_checkpoint(last, omega, progress, optimizer)


def take_checkpoints(source: Path, folder: Path) -> None:
    """Take the last and the best checkpoint of another run, which are complete.

    Args:
        source, folder: folders of checkpoints; `folder` does not exist.

    Raises:
        DamagedCheckpoint: one of them is missing or damaged; nothing was taken.
    """
    for name in (LAST, BEST):
        read_checkpoint(source / name)
    folder.mkdir()
    for name in (LAST, BEST):
        _link_or_copy(source / name, folder / name)


def _link_or_copy(file: Path, other: Path) -> None:
    """Give a file another name; checkpoints are replaced as a whole and never written into."""
    try:
        os.link(file, other)
    except OSError:  # a file system without links
        shutil.copyfile(file, other)


def load_last(folder: Path, omega: nn.Module, optimizer: Optimizer | None) -> Progress:
    """Load the last checkpoint. If it is damaged, load the one before and log that.

    Raises:
        InputError: there is no complete checkpoint, or it belongs to another network.
    """
    try:
        return load_checkpoint(folder / LAST, omega, optimizer)
    except DamagedCheckpoint as error:
        if not (folder / PREVIOUS).is_file():
            raise
        progress = load_checkpoint(folder / PREVIOUS, omega, optimizer)
        log.warning("%s; going on from the one before, of step %d", error, progress.step)
        (folder / LAST).unlink(missing_ok=True)  # else it would replace the complete one
        return progress


def has_last(folder: Path) -> bool:
    """Whether there is a checkpoint to resume from, damaged or not."""
    return (folder / LAST).is_file() or (folder / PREVIOUS).is_file()


def load_checkpoint(file: Path, omega: nn.Module, optimizer: Optimizer | None = None) -> Progress:
    """Load omega (and the optimiser's state) in place.

    Raises:
        Damaged: missing, truncated, or not what was written.
        InputError: the checkpoint belongs to another network.
    """
    tensors, meta = read_checkpoint(file)
    weights = {k: v for k, v in tensors.items() if not k.startswith(_OPTIMIZER)}
    _require_same_network(file, weights, omega.state_dict())
    omega.load_state_dict(weights)
    try:
        progress = Progress(**json.loads(meta["progress"]))
        if optimizer is not None:
            _restore_optimizer(optimizer, tensors, json.loads(meta["optimizer"]))
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"checkpoint {file} cannot be resumed: it lacks {error}") from error
    return progress


def read_checkpoint(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata of a checkpoint.

    Raises:
        Damaged: missing, truncated, or not what was written.
    """
    if not file.is_file():
        raise DamagedCheckpoint(f"no checkpoint {file}; the run has not trained, or it was moved")
    try:
        with safe_open(file, framework="pt") as archive:
            tensors = {key: archive.get_tensor(key) for key in archive.keys()}  # noqa: SIM118
            meta = archive.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        detail = " ".join(str(error).split())
        raise DamagedCheckpoint(f"checkpoint {file} is truncated or damaged: {detail}") from error
    if meta.pop("digest", None) != _digest(tensors, meta):
        raise DamagedCheckpoint(
            f"checkpoint {file} is damaged: its content is not what was written"
        )
    return tensors, meta


def _digest(tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> str:
    """SHA-256 of all names, types, shapes and values."""
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _require_same_network(
    file: Path, weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> None:
    for name, tensor in expected.items():
        if name not in weights:
            raise InputError(f"checkpoint {file} is of another network: it has no '{name}'")
        if weights[name].shape != tensor.shape:
            have, want = tuple(weights[name].shape), tuple(tensor.shape)
            raise InputError(
                f"checkpoint {file} is of another network: '{name}' is {have}, expected {want}"
            )
    for name in weights:
        if name not in expected:
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


def count_parameters(module: nn.Module) -> int:
    """The number of entries of all parameters that require a gradient."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def all_finite(module: nn.Module) -> bool:
    """Whether every parameter is finite."""
    return all(bool(torch.isfinite(p).all()) for p in module.parameters())
