"""The configuration of a command: composed or read from a run folder, then resolved and checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from bmo_cli.config.keys import PLACES
from bmo_cli.config.paths import expand_home, expand_paths
from bmo_cli.config.schema import AnyConfig, Config, EvalConfig, check_config
from bmo_cli.config.snapshot import apply_changes
from bmo_cli.errors import InputError


@dataclass(frozen=True)
class CheckedConfig:
    """The configuration of a command.

    Attributes:
        composed: with its interpolations, as in the snapshot of a run.
        config: resolved and checked.
    """

    composed: DictConfig
    config: AnyConfig

    @property
    def existing(self) -> str | None:
        """Folder of the existing run that the command reads or resumes; None for a new run."""
        if isinstance(self.config, EvalConfig):
            return self.config.run
        return self.config.resume if isinstance(self.config, Config) else None


def resolve_and_check(command: str, config: DictConfig, typed: Sequence[str]) -> CheckedConfig:
    """Resolve and check the configuration of a command.

    A command about an existing run takes the snapshot of the run, with the typed changes.

    Args:
        command: one of `config.schema.SCHEMAS`.
        config: as Hydra composed it.
        typed: overrides of this command line, without those recorded in a run.

    Raises:
        InputError: a key is missing, not allowed or out of its range.
    """
    if command == "certify":
        _refuse_changes(typed)
    elif command in ("eval", "restore"):
        _refuse_weights(typed)
    effective = _apply_to_snapshot(command, config, typed)
    return CheckedConfig(effective, _resolve(command, effective))


_READ_KEYS = ("data.workers", "data.cache_mib", "data.max_megapixels")
"""Keys that say how photographs are read, not which ones."""


def _refuse_changes(typed: Sequence[str]) -> None:
    """Refuse overrides that change the run: a certificate describes the run as it was trained."""
    for text in typed:
        key = text.lstrip("+~").split("=", 1)[0]
        own = key.split(".")[0] in ("run", "certificate", "device", "plugins", "hydra")
        if not own and key not in PLACES and key not in _READ_KEYS:
            raise InputError(
                f"'{text}' would change the run: a certificate is about the run as it was trained; "
                "certificate.*, device, plugins and where the data are (data.val=...) may be given"
            )


def _apply_to_snapshot(command: str, config: DictConfig, typed: Sequence[str]) -> DictConfig:
    """The composed configuration; for an existing run, its snapshot with the typed overrides."""
    try:
        keys = OmegaConf.missing_keys(config)
    except InterpolationKeyError as error:
        raise _missing_source_error(error) from error
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
    return apply_changes(Path(expand_home(run)), config, typed, own_search=command != "certify")


def _resolve(command: str, config: DictConfig) -> AnyConfig:
    """The configuration without interpolations, as objects."""
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except InterpolationKeyError as error:
        raise _missing_source_error(error) from error
    except OmegaConfBaseException as error:
        raise InputError(" ".join(str(error).split())) from error
    assert isinstance(plain, dict)
    return check_config(expand_paths({str(key): value for key, value in plain.items()}), command)


def _missing_source_error(error: InterpolationKeyError) -> InputError:
    """The error of a key that refers to another key which this configuration does not have."""
    source = re.search(r"'([\w.]+)' not found", str(error))
    wanted = f"'{source.group(1)}'" if source else "a key"
    return InputError(
        f"{error.full_key} is taken from {wanted}, which this configuration does not have; "
        f"choose another task, or give {error.full_key}=..."
    )


def _refuse_weights(typed: Sequence[str]) -> None:
    """Refuse weights for a trained run, which has the weights of its checkpoint."""
    for text in typed:
        key, _, value = text.lstrip("+~").partition("=")
        if key.endswith(".weights") and value != "null":
            raise InputError(
                f"'{text}' would change nothing: a run has the weights of its checkpoint; evaluate "
                f"others with bmo train hyper=none {key}=FILE"
            )
