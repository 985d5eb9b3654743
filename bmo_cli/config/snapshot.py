"""The configuration recorded in a run folder (its snapshot), with the changes of the user.

A run folder is untrusted. Its YAML is read as data alone, its targets are checked against the
allow-list like those of any configuration, and plug-ins are never taken from it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bmo_cli.config.locate import GROUPS, OVERLAYS
from bmo_cli.config.plain_yaml import read_plain_yaml
from bmo_cli.config.recorded import key_of
from bmo_cli.config.schema import Certify
from bmo_cli.errors import InputError

FROM_SNAPSHOT = (
    *(group for group in GROUPS if group not in OVERLAYS),
    *("train", "eval", "seed", "certify", "certificate"),
)
_OPTIONAL_IN_SNAPSHOT = ("certify", "certificate", "logger")
"""Keys of `FROM_SNAPSHOT` that runs of an earlier version do not have."""


def apply_changes(
    run: Path, composed: DictConfig, typed: Sequence[str], *, own_search: bool = True
) -> DictConfig:
    """The snapshot of a run, with the typed overrides applied.

    Args:
        run: run folder. Only the keys of `FROM_SNAPSHOT` are taken from it. Keys that concern the
            user's files (plug-ins, output, overwrite, ...) come from the command line alone.
        composed: composition of the recorded and the typed overrides by this version.
        typed: overrides of this command line; a group choice replaces the whole group.
        own_search: whether `certificate` is taken from the run. Otherwise it has the defaults: a
            quick run would else be certified by a weak search.
    """
    file = run / ".hydra" / "config.yaml"
    snapshot, merged = _load(file, weights=False), OmegaConf.create(composed)
    try:
        for key in FROM_SNAPSHOT:
            if key in snapshot or key not in _OPTIONAL_IN_SNAPSHOT:
                merged[key] = snapshot[key]
        if not own_search:
            merged["certificate"] = asdict(Certify())
        for text in typed:
            _apply_override(text, composed, merged)
    except OmegaConfBaseException as error:
        raise InputError(f"{file} is damaged: {' '.join(str(error).split())}") from error
    return merged


def read_snapshot(run: Path) -> dict[str, Any]:
    """The configuration of a run, resolved, as plain data.

    Raises:
        InputError: the file is missing or damaged.
    """
    file = run / ".hydra" / "config.yaml"
    try:
        snapshot = _load(file, weights=False)
        content = OmegaConf.to_container(snapshot, resolve=True)
    except OmegaConfBaseException as error:
        raise InputError(f"{file} is damaged: {' '.join(str(error).split())}") from error
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def read_raw_snapshot(run: Path) -> dict[str, Any]:
    """The configuration of a run with unresolved interpolations, for display.

    Raises:
        InputError: the file is missing or damaged.
    """
    content = OmegaConf.to_container(_load(run / ".hydra" / "config.yaml"), resolve=False)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def _drop_weights(node: object, prefix: str = "") -> dict[str, Any]:
    """Drop the files of initial weights from a configuration, in place.

    The checkpoint holds the weights, and an untrusted folder may name any file.

    Returns:
        The dropped values, by dotted key.
    """
    dropped: dict[str, Any] = {}
    if isinstance(node, dict):
        if node.get("weights") is not None:
            dropped[f"{prefix}weights"], node["weights"] = node["weights"], None
        for key, value in node.items():
            dropped |= _drop_weights(value, f"{prefix}{key}.")
    elif isinstance(node, list):
        for i, value in enumerate(node):
            dropped |= _drop_weights(value, f"{prefix}{i}.")
    return dropped


def restore_weight_keys(config: DictConfig, run: Path) -> DictConfig:
    """A copy of the configuration of a resumed run, with the files of its initial weights."""
    complete = OmegaConf.create(config)
    for key, value in _drop_weights(_read_content(run / ".hydra" / "config.yaml")).items():
        if OmegaConf.select(complete, key, default="") is None:
            OmegaConf.update(complete, key, value)
    return complete


def require_weights(run: Path, config: Mapping[str, Any]) -> None:
    """Refuse to start a run from its beginning without the initial weights that it had.

    Args:
        run: run folder without a checkpoint.
        config: resolved configuration with which the run would start.

    Raises:
        InputError: the run had a file of weights, and the configuration names none.
    """
    for key, value in _drop_weights(_read_content(run / ".hydra" / "config.yaml")).items():
        node: Any = config
        for part in key.split("."):
            node = node.get(part, "") if isinstance(node, Mapping) else ""
        if node is None:
            raise InputError(
                f"{run} was started with {key}={value}, and no checkpoint holds these weights yet; "
                f"type {key}=FILE again (files of weights are not taken from a run folder)"
            )


def _load(file: Path, *, weights: bool = True) -> DictConfig:
    """The configuration in a file; with weights=False without the files of initial weights."""
    content = _read_content(file)
    if not weights:
        _drop_weights(content)
    try:
        return OmegaConf.create(content)
    except (OmegaConfBaseException, ValueError) as error:
        raise _damaged_error(file, error) from error


def _read_content(file: Path) -> dict[str, Any]:
    """A configuration as plain data, whose interpolations are known to be safe and small."""
    content = read_plain_yaml(file)
    if not isinstance(content, dict):
        raise InputError(f"{file} is damaged: expected a mapping")
    try:
        unsafe, size = _find_unsafe_interpolation(content), expanded_size(content)
    except RecursionError as error:
        raise _damaged_error(file, error) from error
    if unsafe:
        raise InputError(
            f"{file} holds an interpolation that is not read from a run folder: {unsafe[:80]}"
        )
    if size > _MAX_EXPANDED_SIZE:
        raise InputError(f"{file} is damaged: its interpolations stand for too much")
    return content


def _damaged_error(file: Path, error: Exception) -> InputError:
    detail = " ".join(str(error).split())[:200]
    return InputError(f"{file} is damaged: {detail or 'nested too deeply'}")


def _apply_override(text: str, composed: DictConfig, merged: DictConfig) -> None:
    """Apply one typed override to the snapshot."""
    key = key_of(text)
    if text.startswith("~") or key in OVERLAYS:
        raise InputError(f"'{text}' cannot change a run that is trained; set single keys")
    if key in FROM_SNAPSHOT:
        merged[key] = composed[key]
    elif key.split(".")[0] in FROM_SNAPSHOT:
        value = OmegaConf.select(composed, key)
        OmegaConf.update(merged, key, value, merge=False, force_add=True)


def _find_unsafe_interpolation(node: object) -> str:
    """The first text with an interpolation other than a key or an environment variable; else empty.

    Other interpolations call functions, whose results `expanded_size` does not know.
    """
    if isinstance(node, dict | list):
        values = node.values() if isinstance(node, dict) else node
        return next((unsafe for v in values if (unsafe := _find_unsafe_interpolation(v))), "")
    text = str(node)
    return text if "${" in _ENVIRONMENT.sub("", _INTERPOLATION.sub("", text)) else ""


_MAX_EXPANDED_SIZE = 1e6
_ENVIRONMENT = re.compile(r"\$\{\s*oc\.env:\s*\w+\s*(,[^${}]*)?\}")
_INTERPOLATION = re.compile(r"\$\{\s*(\.*)([\w.-]+)\s*\}")


def expanded_size(content: object) -> float:
    """Number of values and characters of a configuration with resolved interpolations.

    A few interpolations that refer to one another can expand to gigabytes, as aliases can. This
    function counts without building them. A circular interpolation counts as infinite.
    """
    known: dict[tuple[str, ...], float] = {}

    def size(node: object, path: tuple[str, ...]) -> float:
        if path in known:
            return known[path]
        known[path] = math.inf  # until it is computed: a path that returns here is circular
        if isinstance(node, dict):
            total = 1 + sum(size(child, (*path, str(key))) for key, child in node.items())
        elif isinstance(node, list):
            total = 1 + sum(size(child, (*path, str(i))) for i, child in enumerate(node))
        else:
            total = float(len(str(node))) + 1
            for interpolation in _INTERPOLATION.finditer(str(node)):
                total += target(absolute(interpolation, path))
        known[path] = total
        return total

    def absolute(interpolation: re.Match[str], path: tuple[str, ...]) -> tuple[str, ...]:
        dots, name = interpolation.groups()
        return (*(path[: len(path) - len(dots)] if dots else ()), *name.split("."))

    def target(path: tuple[str, ...]) -> float:
        node = content
        for i, key in enumerate(path):
            alias = _INTERPOLATION.fullmatch(node) if isinstance(node, str) else None
            if alias:  # a path through another interpolation
                return target((*absolute(alias, path[:i]), *path[i:]))
            try:
                node = node[int(key)] if isinstance(node, list) else node[key]  # type: ignore[index]
            except (KeyError, IndexError, TypeError, ValueError):
                return 0.0  # there is no such key: OmegaConf reports it
        return size(node, path)

    return size(content, ())
