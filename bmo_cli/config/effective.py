"""The configuration of a command: composed or recorded, resolved, checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from bmo_cli.config.keys import PLACES
from bmo_cli.config.paths import at_home, with_paths
from bmo_cli.config.schema import AnyConfig, check_config
from bmo_cli.config.snapshot import with_changes
from bmo_cli.errors import InputError


@dataclass(frozen=True)
class Checked:
    """The configuration of a command.

    Attributes:
        composed: with its interpolations, as a run's snapshot keeps it.
        config: resolved and checked.
    """

    composed: DictConfig
    config: AnyConfig


def checked_config(command: str, config: DictConfig, typed: Sequence[str]) -> Checked:
    """The configuration of a command, composed or recorded, with its checks passed.

    Args:
        command: one of `config.schema.SCHEMAS`.
        config: as Hydra composed it.
        typed: overrides of this command line, without those recorded in a run.

    Raises:
        InputError: something is missing, not allowed or out of its range.
    """
    if command == "certify":
        _refuse_changes(typed)
    elif command in ("eval", "restore"):
        _refuse_weights(typed)
    effective = _effective(command, config, typed)
    return Checked(effective, _resolved(command, effective))


_READING = ("data.workers", "data.cache_mib", "data.max_megapixels")
"""How photographs are read, not which."""


def _refuse_changes(typed: Sequence[str]) -> None:
    """A certificate is about a run as it was trained."""
    for text in typed:
        key = text.lstrip("+~").split("=", 1)[0]
        own = key.split(".")[0] in ("run", "certificate", "device", "plugins", "hydra")
        if not own and key not in PLACES and key not in _READING:
            raise InputError(
                f"'{text}' would change the run: a certificate is about the run as it was trained; "
                "certificate.*, device, plugins and where the data are (data.val=...) may be given"
            )


def _effective(command: str, config: DictConfig, typed: Sequence[str]) -> DictConfig:
    """The composed configuration; for a run that exists, its snapshot with what was typed."""
    try:
        keys = OmegaConf.missing_keys(config)
    except InterpolationKeyError as error:
        raise _dangling(error) from error
    missing = [key for key in keys if not key.startswith("hydra")]
    if missing:
        key = min(missing, key=lambda name: list(config).index(name.split(".")[0]))
        raise InputError(f"{key} is missing; give it as bmo {command} {key}=...")
    key = "resume" if command in ("train", "audit") else "run"
    run = config.get(key)
    if run is not None and not isinstance(run, str):
        raise InputError(f"'{key}' must be a run folder, got {run!r}")
    if run is None:
        return config
    return with_changes(Path(at_home(run)), config, typed, own_search=command != "certify")


def _resolved(command: str, config: DictConfig) -> AnyConfig:
    """The configuration without interpolations, as objects."""
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except InterpolationKeyError as error:
        raise _dangling(error) from error
    except OmegaConfBaseException as error:
        raise InputError(" ".join(str(error).split())) from error
    assert isinstance(plain, dict)
    return check_config(with_paths({str(key): value for key, value in plain.items()}), command)


def _dangling(error: InterpolationKeyError) -> InputError:
    """For a key that is taken from one that this configuration does not have."""
    source = re.search(r"'([\w.]+)' not found", str(error))
    wanted = f"'{source.group(1)}'" if source else "a key"
    return InputError(
        f"{error.full_key} is taken from {wanted}, which this configuration does not have; "
        f"choose another task, or give {error.full_key}=..."
    )


def _refuse_weights(typed: Sequence[str]) -> None:
    """A run that is trained has the weights of its checkpoint, whatever it began with."""
    for text in typed:
        key, _, value = text.lstrip("+~").partition("=")
        if key.endswith(".weights") and value != "null":
            raise InputError(
                f"'{text}' would change nothing: a run has the weights of its checkpoint; evaluate "
                f"others with bmo train hyper=none {key}=FILE"
            )
