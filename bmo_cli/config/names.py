"""Names of what a run was made of, as far as its folder says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from bmo_cli.config.plain_yaml import read_plain
from bmo_cli.errors import InputError

NAMED = ("task", "method", "gkm", "net", "hyper")
"""Groups whose choice result.json names."""


def plain_name(value: object) -> str | None:
    """The value if it is the name of a choice: a folder may be a stranger's."""
    return value if isinstance(value, str) and re.fullmatch(r"[\w-]{1,80}", value) else None


def recorded_names(run: Path) -> dict[str, str | None]:
    """The choice of every group, as Hydra wrote it when the run was started.

    Args:
        run: folder of a run of `bmo train`.

    Returns:
        A name for every one of `NAMED`, None where the group was left out; nothing at all where
        Hydra had written nothing yet, or for another command.
    """
    try:
        content = read_plain(run / ".hydra" / "hydra.yaml")
    except InputError:
        return {}
    chosen = _at(content, "hydra", "runtime", "choices")
    if (
        _at(content, "hydra", "job").get("name") != "train"
        or plain_name(chosen.get("task")) is None
    ):
        return {}
    return {group: plain_name(chosen.get(group)) for group in NAMED}


def _at(node: object, *keys: str) -> Mapping[object, object]:
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node if isinstance(node, Mapping) else {}
