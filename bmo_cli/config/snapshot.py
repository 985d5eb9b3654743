"""The configuration of a finished run, with what the user changes for an evaluation.

A run folder may come from a stranger: its YAML is only ever read as data, what it may instantiate
is checked like any other configuration, and plug-ins are never taken from it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bmo_cli.config.locate import GROUPS, OVERLAYS, choices
from bmo_cli.config.schema import Certify, Config
from bmo_cli.errors import InputError


def argument(overrides: Sequence[str], key: str) -> str | None:
    """Value of `key=...` among the command line's overrides."""
    values = [text.split("=", 1)[1] for text in overrides if text.startswith(f"{key}=")]
    return values[-1].strip("'\"") if values else None


def quoted(path: object) -> str:
    """A path as a value that Hydra's override grammar takes literally."""
    escaped = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def recorded_overrides(run: Path, *, all_of_them: bool) -> list[str]:
    """What was typed when the run was made, as far as it may be typed again.

    The snapshot holds every value, so only the choices of groups are needed, to know which keys
    there are.

    Args:
        run: run folder.
        all_of_them: also keep choices that this installation does not have, for a command line
            that names its own --config-dir.

    Raises:
        InputError: no run folder, or a damaged one.
    """
    file = run / ".hydra" / "overrides.yaml"
    if not run.is_dir():
        raise InputError(f"no run folder {run}; expected a folder that 'bmo train' wrote")
    if not file.is_file():
        raise InputError(f"{run} is not a run folder: it has no .hydra/overrides.yaml")
    content = _read(file)
    if not isinstance(content, list) or not all(isinstance(item, str) for item in content):
        raise InputError(f"{file} is damaged: expected a list of overrides")
    pairs = [text.partition("=") for text in content]
    known = choices()
    return [
        f"{group}={choice}"
        for group, _, choice in pairs
        if group in GROUPS
        and re.fullmatch(r"[\w-]+", choice)
        and (all_of_them or choice in known[group])
    ]


_LAUNCHING = re.compile(r"hydra/(launcher|sweeper)=[\w-]+|hydra\.launcher\.n_jobs=\d+")
_NAMES = re.compile(r"[\w\-,()* ]+")
"""choices of a group: no paths, which would lead to a stranger's own YAML"""
_OF_HYDRA_ITSELF = re.compile(r"hydra\.(mode|sweep\.dir)=.*|resume=.*", re.DOTALL)


@dataclass(frozen=True)
class RecordedSweep:
    """What was typed when a sweep was started.

    Attributes:
        overrides: that may be typed again.
        left_out: that the user has to name again, if they are wanted: a stranger's settings of
            Hydra may hold commands, and plug-ins are programs.
    """

    overrides: list[str]
    left_out: list[str]


def recorded_sweep(folder: Path) -> RecordedSweep | None:
    """Read what was typed when a sweep was started.

    The folder may be a stranger's: what is typed again are keys of a run, choices by name, and the
    names of the launcher and of the sweeper.

    Returns:
        None where this is not the folder of a sweep.

    Raises:
        InputError: damaged.
    """
    file = folder / "multirun.yaml"
    if not file.is_file():
        return None
    content = _read(file)
    node: object = content
    for key in ("hydra", "overrides"):
        node = node.get(key) if isinstance(node, dict) else None
    given: list[str] = []
    for key in ("task", "hydra"):
        part = node.get(key) if isinstance(node, dict) else None
        if not isinstance(part, list) or not all(isinstance(item, str) for item in part):
            raise InputError(f"{file} is damaged: expected a list in hydra.overrides.{key}")
        given += part
    taken = [text for text in given if _LAUNCHING.fullmatch(text) or _is_of_a_run(text)]
    rest = [text for text in given if text not in taken and not _OF_HYDRA_ITSELF.fullmatch(text)]
    return RecordedSweep(taken, rest)


def _is_of_a_run(text: str) -> bool:
    """Whether an override changes nothing but what a run computes."""
    key, _, value = text.lstrip("+~").partition("=")
    if key in GROUPS:
        return bool(_NAMES.fullmatch(value))
    keys = {field.name for field in fields(Config)} - {"plugins", "resume"}
    return bool(re.fullmatch(r"[\w.]+", key)) and key.split(".")[0] in keys


def refuse_changes_of_a_sweep(typed: Sequence[str]) -> None:
    """A sweep goes on as it was started.

    Raises:
        InputError: something would change its jobs.
    """
    for text in typed:
        key = _own(text)
        if not text.startswith("-") and not (
            key in ("resume", "plugins", "device", "jobs") or key.startswith("hydra")
        ):
            raise InputError(
                f"'{text}' would change the jobs of the sweep: it goes on as it was started; "
                "device, jobs, plugins and hydra/launcher may be given; a new sweep has other keys"
            )


def _own(override: str) -> str:
    return override.lstrip("+~").split("=", 1)[0]


def combine(recorded: Sequence[str], typed: Sequence[str]) -> list[str]:
    """Recorded overrides first, then the typed ones; a key typed again replaces the recorded."""
    keys = {_own(text) for text in typed}
    return [text for text in recorded if _own(text) not in keys] + list(typed)


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
    snapshot, merged = _load(file), OmegaConf.create(composed)
    try:
        for key in FROM_SNAPSHOT:
            if key in snapshot or key not in _ADDED:
                merged[key] = snapshot[key]
        if not own_search:
            merged["certificate"] = asdict(Certify())
        for text in typed:
            _apply(text, composed, merged)
        for key in FROM_SNAPSHOT:
            if key in merged:
                _forget_weights(merged[key])
        if argument(typed, "net.weights") is not None:
            merged.net.weights = composed.net.weights
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
        snapshot = _load(file)
        _forget_weights(snapshot)
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


def _forget_weights(node: object) -> None:
    """Files that initial weights came from: the checkpoint has them, and a stranger names others.

    Nodes that interpolate another one follow it, and are not visited.
    """
    if isinstance(node, ListConfig):
        for i in range(len(node)):
            if not OmegaConf.is_interpolation(node, i):
                _forget_weights(node[i])
    elif isinstance(node, DictConfig):
        for key in list(node):
            if key == "weights":
                node[key] = None
            elif not OmegaConf.is_interpolation(node, str(key)):
                _forget_weights(node[key])


def _load(file: Path) -> DictConfig:
    content = _read(file)
    if not isinstance(content, dict):
        raise InputError(f"{file} is damaged: expected a mapping")
    try:
        strange = _strange_interpolation(content)
        if strange:
            raise InputError(
                f"{file} holds an interpolation that is not read from a run folder: {strange[:80]}"
            )
        if expanded_size(content) > _MOST:
            raise InputError(f"{file} is damaged: its interpolations stand for too much")
        return OmegaConf.create(content)
    except (OmegaConfBaseException, RecursionError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        detail = " ".join(str(error).split())[:200]
        raise InputError(f"{file} is damaged: {detail or 'nested too deeply'}") from error


def _apply(text: str, composed: DictConfig, merged: DictConfig) -> None:
    """One typed override onto the snapshot."""
    key = _own(text)
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
_LARGEST = 5 * 2**20
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


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases: a few lines of them can stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)


def _read(file: Path) -> object:
    if file.exists() and not file.is_file():
        raise InputError(f"{file} is no regular file")
    try:
        if file.stat().st_size > _LARGEST:
            raise InputError(f"{file} is larger than a configuration can be (5 MiB)")
        return yaml.load(file.read_text(encoding="utf-8"), _PlainLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        detail = " ".join(str(error).split())
        raise InputError(f"{file} cannot be read: {detail}") from error
