"""Keys that hold a path, and the rule for all of them.

A path is text in any script, relative to the current folder. `~` at its start is the home folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from bmo_cli.errors import InputError

PATHS = (
    *("data.root", "data.train", "data.val", "data.test", "task.kernels", "task.dictionary"),
    *("input", "output", "kernel", "run", "resume", "out", "root"),
    *("hydra.run.dir", "hydra.sweep.dir"),
)


def is_path(key: str) -> bool:
    """Whether a dotted key holds a path."""
    return key in PATHS or key.split(".")[-1] == "weights"


def expand_home(path: str) -> str:
    """The path with `~` replaced by the home folder."""
    return os.path.expanduser(path)  # noqa: PTH111 - Path.expanduser fails for an unknown user


def expand_paths(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A copy of a configuration in which `~` is expanded in every path.

    Raises:
        InputError: a path is empty.
    """
    return {key: _expand_value(value, f"{prefix}{key}") for key, value in config.items()}


def _expand_value(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return expand_paths(value, f"{key}.")
    if key == "plugins" and isinstance(value, list):
        return [_expand_value(item, f"plugins.{i}") for i, item in enumerate(value)]
    if isinstance(value, str) and (is_path(key) or key.startswith("plugins.")):
        if not value:
            raise InputError(f"{key} is empty; expected a path")
        return expand_home(value)
    return value
