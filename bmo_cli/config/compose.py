"""Compose configurations of `bmo train` inside another command, such as `bmo table`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from bmo_cli.config.messages import explain_hydra_error
from bmo_cli.config.names import NAMED
from bmo_cli.config.paths import expand_paths
from bmo_cli.config.schema import Config, check_config
from bmo_cli.config.typed import quote_override
from bmo_cli.errors import InputError


@dataclass(frozen=True)
class ComposedConfig:
    """A configuration of `bmo train`.

    Attributes:
        config: resolved and checked.
        choices: the chosen option of every group of `config.names.NAMED`.
        text: the configuration as YAML, with its interpolations.
    """

    config: Config
    choices: dict[str, str | None]
    text: str


def compose(overrides: Sequence[str]) -> ComposedConfig:
    """Compose the configuration of `bmo train` with these overrides.

    The search path for YAML files is that of the running command.

    Args:
        overrides: as on the command line.

    Raises:
        InputError: an override is not valid; the message names it.
    """
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    overrides = [quote_override(word) for word in overrides]
    try:
        config = hydra.compose_config(
            "train", overrides, run_mode=RunMode.RUN, with_log_configuration=False
        )
        choices = {group: config.hydra.runtime.choices.get(group) for group in NAMED}
        with open_dict(config):
            del config["hydra"]
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        message = explain_hydra_error(error, overrides, "train")
        raise InputError(f"{' '.join(overrides)}: {message}") from error
    assert isinstance(plain, dict)
    checked = check_config(expand_paths({str(key): value for key, value in plain.items()}))
    return ComposedConfig(checked, choices, OmegaConf.to_yaml(config))
