"""Settings that can change a score, written equally for equal experiments."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any

from bmo_cli.config.keys import NO_SCORE, PLACES, is_among
from bmo_cli.config.schema import Config, Evaluate, Train
from bmo_cli.report.entry import Entry, content_hash

_REFERENCE = re.compile(r"\$\{([\w.]+)\}")
_DEEPEST = 20
"""Longest chain of references; a longer one is a cycle."""


class Settings:
    """The settings of some runs, by key and run.

    A reference (`${train.iterations}`) is the same setting as the number that it stands for. Paths
    of data are compared by the content of the files.

    Args:
        entries: the runs.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries
        self._configs = [_score_config(entry) for entry in entries]

    @property
    def keys(self) -> list[str]:
        """Every key that some run has, in the order of the configurations."""
        return list(dict.fromkeys(key for config in self._configs for key in config))

    def comparable(self, key: str) -> list[str]:
        """The value in every run, equal for equal experiments; empty where a run has none."""
        if _is_place(key):
            return self.displayed(key)
        values = [config.get(key, "") for config in self._configs]
        references = [v for v in dict.fromkeys(values) if _REFERENCE.fullmatch(v)]
        return [
            next((r for r in references if _resolve(r, config) == _resolve(value, config)), value)
            for value, config in zip(values, self._configs, strict=True)
        ]

    def displayed(self, key: str) -> list[str]:
        """The value in every run for display. Of paths with equal content, the first is shown."""
        values = [_resolve(config.get(key, ""), config) for config in self._configs]
        if not _is_place(key):
            return values
        first: dict[str, str] = {}
        return [
            first.setdefault(content, place) if content else place
            for place, content in zip(values, self.contents(key), strict=True)
        ]

    def contents(self, key: str) -> list[str]:
        """Hashes of the data at a path, in every run; empty where they are not known."""
        places = [config.get(key, "null") for config in self._configs]
        return [
            "" if place == "null" else _content(entry, key)
            for entry, place in zip(self._entries, places, strict=True)
        ]

    @property
    def places(self) -> list[str]:
        """The keys that hold paths of data."""
        return [key for key in self.keys if _is_place(key)]


def _is_place(key: str) -> bool:
    return key in PLACES or key.endswith(".weights")


def _score_config(entry: Entry) -> dict[str, str]:
    """The part of a configuration that can change a score."""
    config = dict(entry.config)
    if not config:
        return {}
    for key, value in _later_defaults().items():
        config.setdefault(key, value)
    return {
        key: _canonical(value)
        for key, value in config.items()
        if not is_among(key, NO_SCORE) and not _is_idle(key, entry, config)
    }


def _is_idle(key: str, entry: Entry, config: Mapping[str, str]) -> bool:
    """Whether a key had no effect in this run."""
    section = key.split(".")[0]
    if section == "data":  # of a task that takes no photographs
        return entry.is_finished and not {"train", "val", "test"} & set(entry.data)
    if entry.choice("hyper") == "none":  # nothing is trained
        return section == "optim" or (section == "train" and key != "train.iterations")
    steps = _resolve(config.get("train.steps", ""), config)
    return key == "train.max_minutes" and str(entry.run.result.steps) == steps


@cache
def _later_defaults() -> dict[str, str]:
    """Defaults of keys that runs of an earlier version lack."""
    sections: list[tuple[str, type]] = [("", Config), ("train.", Train), ("eval.", Evaluate)]
    return {
        f"{prefix}{entry.name}": json.dumps(entry.default)
        for prefix, schema in sections
        for entry in fields(schema)
        if isinstance(entry.default, int | float)
    } | {"precision": Config.precision}


def _canonical(text: str) -> str:
    """Write equal numbers as equal text: 2.0 as 2."""
    try:
        return json.dumps(_as_integers(json.loads(text)))
    except (ValueError, RecursionError):
        return text


def _as_integers(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_integers(item) for item in value]
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
    return int(value) if whole else value


def _resolve(text: str, config: Mapping[str, str]) -> str:
    """Resolve a reference; other text is returned as it is."""
    for _ in range(_DEEPEST):
        reference = _REFERENCE.fullmatch(text)
        if reference is None or reference.group(1) not in config:
            break
        text = config[reference.group(1)]
    return text


def _content(entry: Entry, key: str) -> str:
    """Hashes of the data at a path; empty if the run did not record them."""
    if key not in PLACES:  # a file of initial weights
        return (entry.run.result.weights or {}).get(key, "")
    parts = [
        f"{name}={content_hash(fingerprint) or fingerprint}"
        for name, fingerprint in entry.data.items()
        if name.startswith(PLACES[key])
    ]
    return " ".join(sorted(parts))
