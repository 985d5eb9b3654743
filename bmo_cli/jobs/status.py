"""Where a run folder stands, for what starts runs again: sweeps and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bmo_cli.experiment.checkpoint import has_last
from bmo_cli.results.folders import make_unique
from bmo_cli.results.provenance import source_hash
from bmo_cli.results.run_folder import RunFolder


def is_done(result: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether everything that the configuration asks for is there."""
    wanted = config.get("certify") and "certificate" not in result
    return result.get("status") == "ok" and not wanted


def goes_on(folder: RunFolder, config: Mapping[str, Any]) -> bool:
    """Whether a run that is not done goes on from its checkpoint."""
    before = folder.read_result()
    if "identity" in before:  # trained and evaluated
        begun = bool(config.get("certify")) and "certificate" not in before
    else:
        begun = before.get("status") in ("interrupted", "running")
    return begun and has_last(folder.checkpoints)


def is_of_other_code(folder: RunFolder) -> bool:
    """Whether the code has changed since the run began."""
    return folder.read_result().get("code") != source_hash()


def set_aside(folder: RunFolder) -> None:
    """Move what an attempt that failed has left to `earlier/N`; log and configuration stay."""
    left = [folder.checkpoints, folder.images]
    left += [folder.path / name for name in ("result.json", "history.csv", "curves.png")]
    left = [entry for entry in left if entry.exists()]
    if not left:
        return
    count = len(list(folder.path.glob("earlier/*")))
    place = make_unique(folder.path / "earlier" / f"{count + 1}")
    for entry in left:
        entry.rename(place / entry.name)
