"""The status of a run folder: finished, resumable, or to be run. Sweeps and tables use it."""

from __future__ import annotations

from bmo_cli.config.schema import AnyConfig, Config
from bmo_cli.experiment.checkpoint import has_last
from bmo_cli.results.folders import make_unique
from bmo_cli.results.provenance import source_hash
from bmo_cli.results.result import RunResult
from bmo_cli.results.run_folder import RunFolder


def is_done(result: RunResult, config: AnyConfig) -> bool:
    """Whether the run is finished, with everything that the configuration asks for."""
    return result.status == "ok" and not _lacks_certificate(result, config)


def _lacks_certificate(result: RunResult, config: AnyConfig) -> bool:
    return isinstance(config, Config) and config.certify and result.certificate is None


def can_resume(folder: RunFolder, config: AnyConfig) -> bool:
    """Whether an unfinished run can resume from a checkpoint."""
    before = folder.read_result()
    if before is None:
        return False
    if before.identity is not None:  # trained and evaluated
        begun = _lacks_certificate(before, config)
    else:
        trained = before.best_step is not None  # what failed is the test
        begun = trained or before.status in ("interrupted", "running")
    return begun and has_last(folder.checkpoints)


def code_has_changed(folder: RunFolder) -> bool:
    """Whether the code has changed since the run started."""
    result = folder.read_result()
    return result is None or result.code != source_hash()


def move_failed_attempt(folder: RunFolder) -> None:
    """Move the files of a failed attempt to `earlier/N`. Log and configuration stay."""
    left = [folder.checkpoints, folder.images]
    left += [folder.path / name for name in ("result.json", "history.csv", "curves.png")]
    left = [entry for entry in left if entry.exists()]
    if not left:
        return
    count = len(list(folder.path.glob("earlier/*")))
    place = make_unique(folder.path / "earlier" / f"{count + 1}").path
    for entry in left:
        entry.rename(place / entry.name)
