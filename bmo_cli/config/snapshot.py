"""The configuration of a finished run, with what the user changes for an evaluation.

A run folder may come from a stranger: its YAML is only ever read as data, what it may instantiate
is checked like any other configuration, and plug-ins are never taken from it.
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
from bmo_cli.config.plain_yaml import read_plain
from bmo_cli.config.recorded import key_of
from bmo_cli.config.schema import Certify
from bmo_cli.errors import InputError

FROM_SNAPSHOT = (
    *(group for group in GROUPS if group not in OVERLAYS),
    *("train", "eval", "seed", "certify", "certificate"),
)
_ADDED = ("certify", "certificate", "logger")
"""of them those that runs made by an earlier version do not have"""


def with_changes(
    run: Path, composed: DictConfig, typed: Sequence[str], *, own_search: bool = True
) -> DictConfig:
    """The run's own snapshot, changed only where the user typed something.

    Args:
        run: run folder. Of it only task, networks, training and the like are taken; what touches
            the user's files (plug-ins, output, overwrite, ...) comes from the command line alone.
        composed: today's composition of the recorded and the typed overrides.
        typed: overrides of this command line; a group choice replaces the whole group.
        own_search: whether `certificate` is the run's; otherwise it has its own defaults, since a
            run that was made to be quick would be certified by a weak search.
    """
    file = run / ".hydra" / "config.yaml"
    snapshot, merged = _load(file, weights=False), OmegaConf.create(composed)
    try:
        for key in FROM_SNAPSHOT:
            if key in snapshot or key not in _ADDED:
                merged[key] = snapshot[key]
        if not own_search:
            merged["certificate"] = asdict(Certify())
        for text in typed:
            _apply(text, composed, merged)
    except OmegaConfBaseException as error:
        raise InputError(f"{file} is damaged: {' '.join(str(error).split())}") from error
    return merged


def read_snapshot(run: Path) -> dict[str, Any]:
    """The configuration of a run, resolved, as plain data.

    Raises:
        InputError: missing or damaged.
    """
    file = run / ".hydra" / "config.yaml"
    try:
        snapshot = _load(file, weights=False)
        content = OmegaConf.to_container(snapshot, resolve=True)
    except OmegaConfBaseException as error:
        raise InputError(f"{file} is damaged: {' '.join(str(error).split())}") from error
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def recorded_config(run: Path) -> dict[str, Any]:
    """The configuration of a run as it was written, interpolations unresolved, for showing it.

    Raises:
        InputError: missing or damaged.
    """
    content = OmegaConf.to_container(_load(run / ".hydra" / "config.yaml"), resolve=False)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def _forget_weights(node: object, prefix: str = "") -> dict[str, Any]:
    """Drop files that initial weights came from, in place: the checkpoint has the weights, and a
    stranger's folder may name any file.

    Returns:
        What was dropped, by dotted key.
    """
    dropped: dict[str, Any] = {}
    if isinstance(node, dict):
        if node.get("weights") is not None:
            dropped[f"{prefix}weights"], node["weights"] = node["weights"], None
        for key, value in node.items():
            dropped |= _forget_weights(value, f"{prefix}{key}.")
    elif isinstance(node, list):
        for i, value in enumerate(node):
            dropped |= _forget_weights(value, f"{prefix}{i}.")
    return dropped


def with_recorded_weights(config: DictConfig, run: Path) -> DictConfig:
    """A copy of the configuration of a run that goes on, which says where its weights came from."""
    complete = OmegaConf.create(config)
    for key, value in _forget_weights(_content(run / ".hydra" / "config.yaml")).items():
        if OmegaConf.select(complete, key, default="") is None:
            OmegaConf.update(complete, key, value)
    return complete


def require_weights(run: Path, config: Mapping[str, Any]) -> None:
    """Refuse to start a run from its beginning without the weights that it was started with.

    Args:
        run: run folder without a checkpoint.
        config: resolved, with which the run would start.

    Raises:
        InputError: weights are not given that were.
    """
    for key, value in _forget_weights(_content(run / ".hydra" / "config.yaml")).items():
        node: Any = config
        for part in key.split("."):
            node = node.get(part, "") if isinstance(node, Mapping) else ""
        if node is None:
            raise InputError(
                f"{run} was started with {key}={value}, and no checkpoint holds these weights yet; "
                f"type {key}=FILE again (files of weights are not taken from a run folder)"
            )


def _load(file: Path, *, weights: bool = True) -> DictConfig:
    """The configuration in a file; without the files that its weights came from, if so asked."""
    content = _content(file)
    if not weights:
        _forget_weights(content)
    try:
        return OmegaConf.create(content)
    except (OmegaConfBaseException, ValueError) as error:
        raise _damaged(file, error) from error


def _content(file: Path) -> dict[str, Any]:
    """A configuration as plain data, with interpolations that stand for as much as is harmless."""
    content = read_plain(file)
    if not isinstance(content, dict):
        raise InputError(f"{file} is damaged: expected a mapping")
    try:
        strange, size = _strange_interpolation(content), expanded_size(content)
    except RecursionError as error:
        raise _damaged(file, error) from error
    if strange:
        raise InputError(
            f"{file} holds an interpolation that is not read from a run folder: {strange[:80]}"
        )
    if size > _MOST:
        raise InputError(f"{file} is damaged: its interpolations stand for too much")
    return content


def _damaged(file: Path, error: Exception) -> InputError:
    detail = " ".join(str(error).split())[:200]
    return InputError(f"{file} is damaged: {detail or 'nested too deeply'}")


def _apply(text: str, composed: DictConfig, merged: DictConfig) -> None:
    """One typed override onto the snapshot."""
    key = key_of(text)
    if text.startswith("~") or key in OVERLAYS:
        raise InputError(f"'{text}' cannot change a run that is trained; set single keys")
    if key in FROM_SNAPSHOT:
        merged[key] = composed[key]
    elif key.split(".")[0] in FROM_SNAPSHOT:
        value = OmegaConf.select(composed, key)
        OmegaConf.update(merged, key, value, merge=False, force_add=True)


def _strange_interpolation(node: object) -> str:
    """The first text with an interpolation other than a key or a variable of the environment.

    Others call functions; `expanded_size` could not say what they stand for.
    """
    if isinstance(node, dict):
        return next((found for v in node.values() if (found := _strange_interpolation(v))), "")
    if isinstance(node, list):
        return next((found for v in node if (found := _strange_interpolation(v))), "")
    text = str(node)
    return text if "${" in _ENVIRONMENT.sub("", _INTERPOLATION.sub("", text)) else ""


_MOST = 1e6
_ENVIRONMENT = re.compile(r"\$\{\s*oc\.env:\s*\w+\s*(,[^${}]*)?\}")
_INTERPOLATION = re.compile(r"\$\{\s*(\.*)([\w.-]+)\s*\}")


def expanded_size(content: object) -> float:
    """Values and characters that a configuration has once its interpolations are resolved.

    A few interpolations of one another can stand for gigabytes, as aliases can; this counts
    without building them. What is circular is infinite.
    """
    known: dict[tuple[str, ...], float] = {}

    def size(node: object, path: tuple[str, ...]) -> float:
        if path in known:
            return known[path]
        known[path] = math.inf  # until it is known: what comes back here is circular
        if isinstance(node, dict):
            found = 1 + sum(size(child, (*path, str(key))) for key, child in node.items())
        elif isinstance(node, list):
            found = 1 + sum(size(child, (*path, str(i))) for i, child in enumerate(node))
        else:
            found = float(len(str(node))) + 1
            for found_here in _INTERPOLATION.finditer(str(node)):
                found += target(absolute(found_here, path))
        known[path] = found
        return found

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
                return 0.0  # there is no such key: resolving it says so
        return size(node, path)

    return size(content, ())
