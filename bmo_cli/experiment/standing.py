"""Where a run folder stands, for what starts runs again: sweeps and tables."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from bmo_cli.experiment.checkpoint import has_last
from bmo_cli.experiment.provenance import source_hash
from bmo_cli.results.run_folder import RunFolder


def is_done(result: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether everything that the configuration asks for is there."""
    wanted = config.get("certify") and "certificate" not in result
    return result.get("status") == "ok" and not wanted


def goes_on(folder: RunFolder, config: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether a run that is not done goes on from its checkpoint, and if not, why it might have."""
    before = folder.read_result()
    if "identity" in before:  # trained and evaluated
        begun = bool(config.get("certify")) and "certificate" not in before
    else:
        begun = before.get("status") in ("interrupted", "running")
    if not begun or not has_last(folder.checkpoints):
        return False, ""
    if before.get("code") != source_hash():
        return False, "starts again: the code has changed since it stopped"
    return True, ""


def clear(folder: RunFolder) -> None:
    """Remove what a run that failed has left; its log and its configuration stay."""
    shutil.rmtree(folder.checkpoints, ignore_errors=True)
    shutil.rmtree(folder.images, ignore_errors=True)
    for name in ("result.json", "history.csv"):
        (folder.path / name).unlink(missing_ok=True)
