"""Identify the inputs of a run by content: photographs, kernels, dictionaries, weights, plug-ins.

A run is resumed and certified with the inputs with which it started. Their place may change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from bmo_cli.errors import InputError

_DERIVED = ("shared", "similar", "kernels", "dictionary")
"""Entries of a task's fingerprints that follow from others, from the configuration or from the name
of a file. A dictionary that is learned again on another machine differs by rounding."""


def list_changed_inputs(
    recorded: object, present: Mapping[str, Any], keys: Collection[str] | None = None
) -> list[str]:
    """Names of the inputs that have changed.

    Args:
        recorded: `data` of result.json.
        present: the present `Task.fingerprints`.
        keys: keys that are compared; None: all that both have, except those that follow from
            others.

    Raises:
        InputError: `recorded` is no mapping.
    """
    if not isinstance(recorded, Mapping):
        raise InputError(f"result.json is damaged: 'data' must be a mapping, got {recorded!r}")
    compared = [key for key in recorded if key not in _DERIVED] if keys is None else keys
    return [
        key
        for key in compared
        if key in recorded
        and (keys is not None or key in present)
        and _hash_or_entry(recorded[key])
        != _hash_or_entry(json.loads(json.dumps(present.get(key))))
    ]


def _hash_or_entry(entry: Any) -> Any:
    """The hash of a split, else the entry itself."""
    return entry["hash"] if isinstance(entry, Mapping) and "hash" in entry else entry


def hash_weights(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Hash of every file of initial weights that a configuration names, by dotted key."""
    return {
        key: _hash_file(Path(file).expanduser()) for key, file in find_weights_files(config, prefix)
    }


def find_weights_files(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key and file of all initial weights that a configuration names."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from find_weights_files(value, f"{prefix}{key}.")
        elif key == "weights" and isinstance(value, str):
            yield f"{prefix}{key}", value


def _hash_file(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error
