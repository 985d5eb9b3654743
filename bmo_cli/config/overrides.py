"""Overrides of a command line as Hydra's section of a configuration keeps them."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from bmo_cli.config.commands import here
from bmo_cli.config.own_files import CONFIG_DIR_FLAGS, SEARCH_PATH

_COMMAND_LINE = "command-line"
"""Hydra's name of where --config-dir comes from"""


def as_typed(overrides: Any) -> list[str]:
    """A list of overrides in Hydra's section, interpolations unresolved."""
    words: Any = OmegaConf.to_container(overrides, resolve=False)
    return list(words)


def own_files(hydra: Any) -> list[str]:
    """Flags and overrides with which another command finds YAML files of the user's own.

    Args:
        hydra: Hydra's section of the configuration.
    """
    folders = [s.path for s in hydra.runtime.config_sources if s.provider == _COMMAND_LINE]
    search = [word for word in as_typed(hydra.overrides.hydra) if word.startswith(SEARCH_PATH)]
    return [*(f"{CONFIG_DIR_FLAGS[0]}={here(folder)}" for folder in folders), *search]
