"""The choice of every group of a run, read from its folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from bmo_cli.config.plain_yaml import read_plain_yaml
from bmo_cli.errors import InputError

NAMED = ("task", "method", "gkm", "net", "hyper")
"""Groups whose choice is recorded in result.json."""


def choice_name_or_none(value: object) -> str | None:
    """The value if it is a valid name of a choice, else None: run folders are untrusted."""
    return value if isinstance(value, str) and re.fullmatch(r"[\w-]{1,80}", value) else None


def read_recorded_choices(run: Path) -> dict[str, str | None]:
    """The choice of every group, as Hydra recorded it when the run started.

    Args:
        run: folder of a run of `bmo train`.

    Returns:
        A name for every group of `NAMED`, None where the group was left out. Empty where Hydra has
        recorded nothing yet, and for another command.
    """
    try:
        content = read_plain_yaml(run / ".hydra" / "hydra.yaml")
    except InputError:
        return {}
    chosen = _descend(content, "hydra", "runtime", "choices")
    if (
        _descend(content, "hydra", "job").get("name") != "train"
        or choice_name_or_none(chosen.get("task")) is None
    ):
        return {}
    return {group: choice_name_or_none(chosen.get(group)) for group in NAMED}


def _descend(node: object, *keys: str) -> Mapping[object, object]:
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node if isinstance(node, Mapping) else {}
