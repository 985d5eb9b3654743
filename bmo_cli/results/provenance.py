"""Provenance of a result: versions, commit, source hash, memory."""

from __future__ import annotations

import functools
import hashlib
import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import bmo_cli

_PACKAGES = ("torch", "numpy", "scikit-image", "hydra-core", "omegaconf", "safetensors")


def versions() -> dict[str, str]:
    """Versions of Python, this package and its main dependencies."""
    known = {"python": platform.python_version(), "bmo": bmo_cli.__version__}
    for name in _PACKAGES:
        try:
            known[name] = version(name)
        except PackageNotFoundError:
            known[name] = "unknown"
    return known


def git_state() -> dict[str, Any]:
    """Commit of the source tree, and whether there are uncommitted changes; None outside of git."""
    root = Path(bmo_cli.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return {"hash": None, "dirty": None}
    commit = _git(root, "rev-parse", "HEAD")
    status = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"hash": commit, "dirty": None if status is None else bool(status)}


@functools.cache
def source_hash() -> str:
    """Hash of the package's source files, committed or not."""
    root, content = Path(bmo_cli.__file__).resolve().parent, hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        name = file.relative_to(root).as_posix()
        content.update(f"{name}\0".encode() + file.read_bytes() + b"\0")
    return content.hexdigest()[:16]


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def peak_rss_mib() -> float:
    """Largest resident memory of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
