"""The configuration of a finished run, with what the user changes for an evaluation.

A run folder may come from a stranger: its YAML is only ever read as data, what it may instantiate
is checked like any other configuration, and plug-ins are never taken from it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bmo_cli.config.locate import GROUPS, OVERLAYS, choices
from bmo_cli.config.plain_yaml import read_plain
from bmo_cli.config.schema import Certify, Config
from bmo_cli.errors import InputError


def recorded_overrides(run: Path, *, all_of_them: bool) -> list[str]:
    """What was typed when the run was made, as far as it may be typed again.

    The snapshot holds every value, so only the choices of groups are needed, to know which keys
    there are.

    Args:
        run: run folder.
        all_of_them: also keep choices that this installation does not have, for a command line
            that names its own --config-dir.

    Raises:
        InputError: no run folder, one whose run was killed before its configuration was written, or
            a damaged one.
    """
    file = run / ".hydra" / "overrides.yaml"
    if not run.is_dir():
        raise InputError(f"no run folder {run}; expected a folder that 'bmo train' wrote")
    if not file.is_file():
        if {entry.name for entry in run.iterdir()} <= {".hydra", "run.log"}:
            raise _killed_at_start_up(run)
        raise InputError(f"{run} is not a run folder: it has no .hydra/overrides.yaml")
    content = read_plain(file)
    if not isinstance(content, list) or not all(isinstance(item, str) for item in content):
        raise InputError(f"{file} is damaged: expected a list of overrides")
    if not (run / "result.json").exists() and set(_typed_by_hydra(run)) - set(content):
        raise _killed_at_start_up(run)
    known = choices()
    return [
        text
        for text in content
        for chosen in [_CHOICE.fullmatch(text)]
        if chosen and (all_of_them or chosen["name"] in known[chosen["group"]])
    ]


_ANY_GROUP = "|".join(GROUPS)
_CHOICE = re.compile(rf"(?P<group>{_ANY_GROUP})(@({_ANY_GROUP})(\.\w+)+)?=(?P<name>[\w-]+)")
"""`net=lip`, or `net@net.background=lip`: inside of a group, where it can reach nothing else"""


def _killed_at_start_up(run: Path) -> InputError:
    return InputError(
        f"{run} is not a run folder: it has no whole .hydra/overrides.yaml; a run that was killed "
        "that early has trained nothing: give the command that started it once more"
    )


def _typed_by_hydra(run: Path) -> list[str]:
    """The overrides in hydra.yaml, which is complete before overrides.yaml is begun."""
    file = run / ".hydra" / "hydra.yaml"
    node = read_plain(file) if file.is_file() else None
    for key in ("hydra", "overrides", "task"):
        node = node.get(key) if isinstance(node, dict) else None
    return [item for item in node if isinstance(item, str)] if isinstance(node, list) else []


_LAUNCHING = re.compile(
    r"hydra/(launcher|sweeper)=[\w-]+|hydra\.launcher\.n_jobs=\d+"
    r"|hydra\.sweeper\.((n_trials|n_jobs|seed)=\d+|direction=\w+)"
)
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
    content = read_plain(file)
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
