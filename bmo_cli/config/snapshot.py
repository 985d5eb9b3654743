"""The configuration of a finished run, with what the user changes for an evaluation.

A run folder may come from a stranger: its YAML is only ever read as data, what it may instantiate
is checked like any other configuration, and plug-ins are never taken from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bmo_cli.config.locate import GROUPS
from bmo_cli.errors import InputError


def argument(overrides: Sequence[str], key: str) -> str | None:
    """Value of `key=...` among the command line's overrides."""
    values = [text.split("=", 1)[1] for text in overrides if text.startswith(f"{key}=")]
    return values[-1].strip("'\"") if values else None


def quoted(path: object) -> str:
    """A path as a value that Hydra's override grammar takes literally."""
    escaped = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def recorded_overrides(run: Path) -> list[str]:
    """What was typed when the run was made, without plug-ins and Hydra's own settings."""
    file = run / ".hydra" / "overrides.yaml"
    if not run.is_dir():
        raise InputError(f"no run folder {run}; expected a folder that 'bmo train' wrote")
    if not file.is_file():
        raise InputError(f"{run} is not a run folder: it has no .hydra/overrides.yaml")
    content = _read(file)
    if not isinstance(content, list) or not all(isinstance(item, str) for item in content):
        raise InputError(f"{file} is damaged: expected a list of overrides")
    return [text for text in content if not _own(text).startswith(("hydra", "plugins", "resume"))]


def _own(override: str) -> str:
    return override.lstrip("+~").split("=", 1)[0]


def combine(recorded: Sequence[str], typed: Sequence[str]) -> list[str]:
    """Recorded overrides first, then the typed ones; a key typed again replaces the recorded."""
    keys = {_own(text) for text in typed}
    return [text for text in recorded if _own(text) not in keys] + list(typed)


def with_changes(run: Path, composed: DictConfig, typed: Sequence[str]) -> DictConfig:
    """The run's own snapshot, changed only where the user typed something.

    Args:
        run: run folder.
        composed: today's composition of the recorded and the typed overrides.
        typed: overrides of this command line; a group choice replaces the whole group.
    """
    file = run / ".hydra" / "config.yaml"
    content = _read(file)
    if not isinstance(content, dict):
        raise InputError(f"{file} is damaged: expected a mapping")
    snapshot = OmegaConf.create(content)
    try:
        for key in composed:
            if key not in snapshot or key == "plugins":
                snapshot[key] = composed[key]
        for text in typed:
            key = _own(text)
            if key in ("experiment", "debug"):
                raise InputError(f"'{key}' cannot change a run that is trained; name single keys")
            if key not in GROUPS and not key.startswith("hydra"):
                OmegaConf.update(
                    snapshot, key, OmegaConf.select(composed, key), merge=False, force_add=True
                )
            elif key in GROUPS:
                snapshot[key] = composed[key]
    except OmegaConfBaseException as error:
        raise InputError(f"{file} is damaged: {' '.join(str(error).split())}") from error
    return snapshot


def _read(file: Path) -> object:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        detail = " ".join(str(error).split())
        raise InputError(f"{file} cannot be read: {detail}") from error
