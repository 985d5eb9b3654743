"""Run folders that no two processes share."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from pathlib import Path

_made: list[Path] = []
"""Folders that this process made, the innermost first."""


def make_unique(wanted: Path) -> Path:
    """Create `wanted`, or `wanted_1`, `wanted_2`, ... : a folder that did not exist before."""
    wanted = wanted.absolute()
    _made.extend(parent for parent in wanted.parents if not parent.exists())
    wanted.parent.mkdir(parents=True, exist_ok=True)
    for i in itertools.count():
        folder = wanted if i == 0 else wanted.with_name(f"{wanted.name}_{i}")
        try:
            folder.mkdir()
            _made.insert(0, folder)
            return folder
        except FileExistsError:
            continue
    raise AssertionError("unreachable")


def discard(folder: Path) -> None:
    """Remove a run folder that this process made, and the parents it made if they are empty.

    This is for runs that are refused before they begin. Folders that existed before stay.
    """
    if folder.absolute() not in _made:
        return
    shutil.rmtree(folder, ignore_errors=True)
    for parent in folder.absolute().parents:
        if parent not in _made:
            break
        with contextlib.suppress(OSError):  # not empty: another run's
            parent.rmdir()
