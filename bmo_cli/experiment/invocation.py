"""What of the present command line another command needs to find the same files."""

from __future__ import annotations

from typing import Any

from bmo_cli.config.commands import here
from bmo_cli.config.own_files import CONFIG_DIR_FLAGS

_COMMAND_LINE = "command-line"
"""Hydra's name of where --config-dir comes from"""


def own_files(hydra: Any) -> list[str]:
    """Flags and overrides that lead to YAML files of the user's own.

    Args:
        hydra: Hydra's section of the configuration.
    """
    folders = [s.path for s in hydra.runtime.config_sources if s.provider == _COMMAND_LINE]
    search = [word for word in hydra.overrides.hydra if word.startswith("hydra.searchpath=")]
    return [*(f"{CONFIG_DIR_FLAGS[0]}={here(folder)}" for folder in folders), *search]
