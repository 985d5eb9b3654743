"""Available memory."""

from __future__ import annotations

from pathlib import Path

import torch

MIB, GIB = 2**20, 2**30


def in_words(count: float) -> str:
    """Bytes as text."""
    return f"{count / GIB:.1f} GiB" if count >= 0.1 * GIB else f"{count / MIB:.1f} MiB"


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process may still allocate on a device; None: unknown."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type != "cpu":
        return None
    limits = [_meminfo(), _control_group()]
    return min((limit for limit in limits if limit is not None), default=None)


def _meminfo() -> int | None:
    """Available bytes according to Linux."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def _control_group() -> int | None:
    """Bytes below the limit of the container; cached files count as free."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return limit - used + int(stat.get("inactive_file", 0))
    except (OSError, ValueError):  # no such limit
        return None
