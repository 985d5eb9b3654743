"""Run folders that no two processes share."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class MadeFolder:
    """A folder that this process made.

    Attributes:
        path: absolute.
        parents: of the folder, those that were made with it, the innermost first.
    """

    path: Path
    parents: tuple[Path, ...] = ()

    def discard(self) -> None:
        """Remove it, and the parents that are empty: for a run that was refused."""
        shutil.rmtree(self.path, ignore_errors=True)
        for parent in self.parents:
            with contextlib.suppress(OSError):  # not empty: another run's
                parent.rmdir()


def make_unique(wanted: Path) -> MadeFolder:
    """Create `wanted`, or `wanted_1`, `wanted_2`, ...: a folder that did not exist before.

    `mkdir` is atomic: of two processes that want the same name, each gets a folder of its own.
    """
    wanted = wanted.absolute()
    parents = tuple(parent for parent in wanted.parents if not parent.exists())
    wanted.parent.mkdir(parents=True, exist_ok=True)
    for i in itertools.count():
        folder = wanted if i == 0 else wanted.with_name(f"{wanted.name}_{i}")
        try:
            folder.mkdir()
            return MadeFolder(folder, parents)
        except FileExistsError:
            continue
    raise AssertionError("unreachable")
