"""How much memory a hyper-gradient will take, measured on a few iterations before training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bmo_cli.errors import InputError
from bmo_cli.experiment.build import Experiment
from bmo_cli.solver.cost import SavedBytes

_GIB = 2**30


def require_memory(experiment: Experiment, settings: Mapping[str, Any]) -> None:
    """Refuse a training whose graph would not fit, before anything is written.

    The memory of 1 and of 3 inner iterations on the first batch is measured; what as many take as
    the hyper-optimiser differentiates follows, because every iteration keeps the same.

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

    few, kept = measure(1), experiment.hyper.differentiated(iterations)
    more = min(kept, 3)
    if more * few > 1.25 * free:  # measuring must not do what it is to prevent
        more = 1
    slope = (measure(more) - few) / (more - 1) if more > 1 else float(few)
    needed = few + slope * (kept - 1)
    if needed <= free:
        return
    what = f"needs about {_size(needed)} for the hyper-gradient and {_size(free)} are free"
    if few > 0.8 * free:
        raise InputError(
            f"train.iterations={iterations} {what}, which is not enough for one iteration; use a "
            "smaller train.batch or smaller samples (data.crop), or a smaller network"
        )
    fits = int((0.8 * free - few) / slope) + 1
    raise InputError(
        f"train.iterations={iterations} {what}; use hyper=truncated hyper.last={fits}, "
        f"hyper=implicit, train.iterations={fits} or a smaller train.batch"
    )


def _size(count: float) -> str:
    """Bytes in words."""
    return f"{count / _GIB:.1f} GiB" if count >= 0.1 * _GIB else f"{count / 2**20:.1f} MiB"


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
