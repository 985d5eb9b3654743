"""How much memory a hyper-gradient will take, measured on a few iterations before training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from bmo_cli.errors import InputError
from bmo_cli.experiment.build import Experiment

_GIB = 2**30


class SavedBytes:
    """Context that counts the memory which autograd keeps for the backward pass.

    Attributes:
        total: bytes of distinct storages saved so far.
    """

    def __init__(self) -> None:
        self.total = 0
        self._seen: set[int] = set()
        self._kept: list[Tensor] = []
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def __enter__(self) -> SavedBytes:
        self._hooks.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hooks.__exit__(kind, error, trace)
        self._kept.clear()

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self._kept.append(tensor.detach())  # so that no address is used twice
            self.total += storage.nbytes()
        return tensor


def require_memory(experiment: Experiment, settings: Mapping[str, Any]) -> None:
    """Refuse a training whose graph would not fit, before anything is written.

    The memory of 1 and of 3 inner iterations on the first batch is measured; what K of them take
    follows, because every iteration keeps the same.

    Args:
        experiment: built, its task prepared.
        settings: the configuration's `train` section.

    Raises:
        InputError: more is needed than is free; says what would fit.
    """
    free = free_memory(experiment.device)
    iterations = settings["iterations"]
    if free is None or iterations <= 3:
        return
    sample = next(iter(experiment.task.samples(range(1), settings["batch"])))

    def measure(k: int) -> int:
        with SavedBytes() as saved:
            experiment.hyper.objective(experiment.scheme, sample, k)
        return saved.total

    few, more = measure(1), measure(3)
    slope = (more - few) / 2
    needed = few + slope * (iterations - 1)
    if needed <= free:
        return
    fits = max(int((0.8 * free - few) / slope) + 1, 1)
    raise InputError(
        f"train.iterations={iterations} needs about {needed / _GIB:.1f} GiB for the hyper-gradient "
        f"and {free / _GIB:.1f} GiB are free; use hyper=truncated hyper.last={fits}, "
        f"hyper=implicit, train.iterations={fits} or a smaller train.batch"
    )


def free_memory(device: torch.device) -> int | None:
    """Bytes that a process may still take on a device; None: not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    limits = [_meminfo(), _control_group()]
    return min((limit for limit in limits if limit is not None), default=None)


def _meminfo() -> int | None:
    """What Linux says is available, bytes."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def _control_group() -> int | None:
    """What is left of a container's limit, bytes; cached files count as free."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return limit - used + int(stat.get("inactive_file", 0))
    except (OSError, ValueError):  # no such limit
        return None
