"""Overrides of a command line, read from Hydra's section of a configuration."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from bmo_cli.config.commands import relative_to_cwd
from bmo_cli.config.own_files import CONFIG_DIR_FLAGS, SEARCH_PATH

_COMMAND_LINE = "command-line"
"""Hydra's name of the provider of --config-dir."""


def list_overrides(overrides: Any) -> list[str]:
    """A list of overrides in Hydra's section, interpolations unresolved."""
    words: Any = OmegaConf.to_container(overrides, resolve=False)
    return list(words)


def own_config_words(hydra: Any) -> list[str]:
    """Flags and overrides with which another command finds the user's YAML files.

    Args:
        hydra: Hydra's section of the configuration.
    """
    folders = [s.path for s in hydra.runtime.config_sources if s.provider == _COMMAND_LINE]
    search = [
        word for word in list_overrides(hydra.overrides.hydra) if word.startswith(SEARCH_PATH)
    ]
    return [*(f"{CONFIG_DIR_FLAGS[0]}={relative_to_cwd(folder)}" for folder in folders), *search]
