"""What was typed on the present command line, as far as Hydra does not hand it on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from bmo_cli.config.commands import here
from bmo_cli.config.own_files import CONFIG_DIR_FLAGS

_COMMAND_LINE = "command-line"
"""Hydra's name of where --config-dir comes from"""
_SEARCH_PATH = "hydra.searchpath="


@dataclass
class Invocation:
    """The present command line; the command sets it before it calls Hydra.

    Attributes:
        typed: overrides, without those recorded in a run or a sweep.
        dry_run: whether the jobs of a sweep are only listed.
        resumed: folder of the sweep that goes on.
    """

    typed: tuple[str, ...] = ()
    dry_run: bool = False
    resumed: Path | None = None


present = Invocation()
"""Hydra makes its callbacks itself, and gives them no more than the configuration."""


def own_files(hydra: Any) -> list[str]:
    """Flags and overrides with which another command finds YAML files of the user's own.

    Args:
        hydra: Hydra's section of the configuration.
    """
    folders = [s.path for s in hydra.runtime.config_sources if s.provider == _COMMAND_LINE]
    search = [word for word in written(hydra.overrides.hydra) if word.startswith(_SEARCH_PATH)]
    return [*(f"{CONFIG_DIR_FLAGS[0]}={here(folder)}" for folder in folders), *search]


def written(overrides: Any) -> list[str]:
    """Overrides in a configuration of Hydra as they were typed, interpolations unresolved."""
    words: Any = OmegaConf.to_container(overrides, resolve=False)
    return list(words)
