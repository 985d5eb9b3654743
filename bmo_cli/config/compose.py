"""Configurations of other runs, composed inside a command that runs several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from bmo_cli.config.messages import one_line
from bmo_cli.config.names import NAMED
from bmo_cli.config.paths import with_paths
from bmo_cli.config.schema import Config, check_config
from bmo_cli.config.typed import with_quotes
from bmo_cli.errors import InputError


@dataclass(frozen=True)
class Composed:
    """A configuration of `bmo train`.

    Attributes:
        config: resolved and checked.
        choices: chosen option of every group of `config.names.NAMED`.
        text: as YAML, with its interpolations.
    """

    config: Config
    choices: dict[str, str | None]
    text: str


def compose(overrides: Sequence[str]) -> Composed:
    """What `bmo train` with these overrides would run, under the search path of this command.

    Args:
        overrides: as on the command line.

    Raises:
        InputError: naming the override that does not fit.
    """
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    overrides = [with_quotes(word) for word in overrides]
    try:
        config = hydra.compose_config(
            "train", overrides, run_mode=RunMode.RUN, with_log_configuration=False
        )
        choices = {group: config.hydra.runtime.choices.get(group) for group in NAMED}
        with open_dict(config):
            del config["hydra"]
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        message = one_line(error, overrides, "train")
        raise InputError(f"{' '.join(overrides)}: {message}") from error
    assert isinstance(plain, dict)
    checked = check_config(with_paths({str(key): value for key, value in plain.items()}))
    return Composed(checked, choices, OmegaConf.to_yaml(config))
