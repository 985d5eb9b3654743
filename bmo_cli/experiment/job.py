"""What Hydra calls: check the configuration, run the command, leave a result whatever happens."""

from __future__ import annotations

import logging
import shutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bmo_cli.config.schema import check_config
from bmo_cli.config.snapshot import with_changes
from bmo_cli.errors import BmoError, InputError, Interrupted
from bmo_cli.results.run_folder import RunFolder

log = logging.getLogger("bmo")


def run_job(command: str, config: DictConfig, typed: Sequence[str]) -> Any:
    """Run one command with a composed configuration.

    Args:
        command: train, eval or restore.
        config: as Hydra composed it.
        typed: overrides of this command line, without those recorded in a run.

    Returns:
        The result; in a sweep its validation score, which Hydra's sweepers optimise.

    Raises:
        BmoError: what went wrong. The run folder then holds a result.json that says so, except
            when a single run was refused before it began: then its folder is removed again.
    """
    if command == "restore":
        from bmo_cli.experiment.restore import restore

        return restore(_resolved(command, config, typed))
    hydra = HydraConfig.get()
    folder = RunFolder(Path(hydra.runtime.output_dir))
    try:
        plain = _resolved(command, config, typed)
        if command == "eval":
            from bmo_cli.experiment.evaluate import evaluate_run

            result = evaluate_run(plain, folder)
        else:
            from bmo_cli.experiment.train import train

            result = train(plain, dict(hydra.runtime.choices), folder)
    except Exception as error:
        single = hydra.mode == RunMode.RUN
        if isinstance(error, InputError) and single and config.get("resume") is None:
            _discard(folder.path)
        else:
            _record_failure(folder, error)
        raise
    folder.write_result(result)
    log.info("results in %s", _relative(folder.path))
    return result["metrics"].get("val/psnr")


def _resolved(command: str, config: DictConfig, typed: Sequence[str]) -> dict[str, Any]:
    """The plain, checked configuration."""
    missing = [key for key in OmegaConf.missing_keys(config) if not key.startswith("hydra")]
    if missing:
        key = min(missing, key=lambda name: list(config).index(name.split(".")[0]))
        raise InputError(f"{key} is missing; give it as bmo {command} {key}=...")
    try:
        if command in ("eval", "restore"):
            config = with_changes(Path(config.run), config, typed)
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise InputError(" ".join(str(error).split())) from error
    assert isinstance(plain, dict)
    checked: dict[str, Any] = {str(key): value for key, value in plain.items()}
    check_config(checked)
    return checked


def _record_failure(folder: RunFolder, error: Exception) -> None:
    """result.json with the reason, and the traceback in run.log."""
    status = "interrupted" if isinstance(error, Interrupted) else "failed"
    message = str(error) if isinstance(error, BmoError) else f"{type(error).__name__}: {error}"
    try:
        before = folder.read_result()
        folder.write_result({"metrics": {}, **before, "status": status, "message": message})
        if status == "failed":
            with (folder.path / "run.log").open("a", encoding="utf-8") as stream:
                stream.write("".join(traceback.format_exception(error)))
    except (OSError, InputError) as second:
        print(f"bmo: the failure could not be recorded: {second}", file=sys.stderr)


def _discard(path: Path) -> None:
    """Remove the folder that was made for this run a moment ago: nothing was computed."""
    logging.shutdown()
    shutil.rmtree(path, ignore_errors=True)
    for parent in (path.parent, path.parent.parent):
        try:
            if parent.name and not any(parent.iterdir()):
                parent.rmdir()
        except OSError:
            break


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
