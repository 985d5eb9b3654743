"""What Hydra calls: check the configuration, run the command, leave a result whatever happens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from bmo_cli.config.commands import command as printed_command
from bmo_cli.config.commands import here
from bmo_cli.config.effective import checked_config, plain_config
from bmo_cli.config.names import NAMED, plain_name, recorded_names
from bmo_cli.config.snapshot import with_recorded_weights
from bmo_cli.errors import (
    InputError,
    RunLocked,
    disk_full_in_one_line,
    exits_as_errors,
)
from bmo_cli.jobs.allocator import keep_freed_memory
from bmo_cli.jobs.failures import record_failure
from bmo_cli.jobs.invocation import own_files
from bmo_cli.results.folders import discard
from bmo_cli.results.run_folder import RunFolder

log = logging.getLogger("bmo")


def run_job(command: str, config: DictConfig, typed: Sequence[str]) -> Any:
    """Run one command with a composed configuration.

    Args:
        command: one of `cli.COMMANDS`.
        config: as Hydra composed it.
        typed: overrides of this command line, without those recorded in a run.

    Returns:
        The result; in a sweep its validation score, which Hydra's sweepers optimise.

    Raises:
        BmoError: what went wrong. The run folder then holds a result.json that says so, except
            when a single run was refused before it began: then the folder made for it is removed,
            and that of a resumed run is as it was.
    """
    keep_freed_memory()
    logging.raiseExceptions = False  # a reader that went away (`bmo train | head`) is no error
    hydra = HydraConfig.get()
    if command == "restore":
        from bmo_cli.commands.restore import restore

        return restore(checked_config(command, config, typed)[1])
    if command == "table":
        from bmo_cli.tables.make import make_table

        name = hydra.runtime.choices["table"]
        return make_table(plain_config(command, config), name, own_files(hydra))
    folder = RunFolder(Path(hydra.runtime.output_dir))
    begun, names = False, dict[str, str | None]()
    again = "give the same command again"
    try:
        if hydra.job.chdir:
            raise InputError("hydra.job.chdir=true would move every relative path; leave it out")
        effective, plain = checked_config(command, config, typed)
        existing = plain.get("run") or plain.get("resume")
        names = _names(dict(hydra.runtime.choices), existing, typed)
        if command in ("eval", "certify"):
            names["run"] = existing  # a result about a run, also where it fails
        snapshot = None
        if existing is not None:
            snapshot = OmegaConf.to_yaml(with_recorded_weights(effective, Path(existing)))
        if command == "train":
            resume = printed_command("train", plugins=plain["plugins"], resume=folder.path)
            again = f"go on with '{resume}'"

        def begin() -> None:
            """Everything is checked and loaded: from here on the folder is the run's."""
            nonlocal begun
            begun = True
            folder.write_snapshot(snapshot)

        with disk_full_in_one_line(str(folder.path), again), exits_as_errors():
            result = _run(command, plain, names, folder, snapshot, begin)
            if result is None:
                return None
            folder.write_result(result)
    except Exception as error:
        if (begun or hydra.mode != RunMode.RUN) and not isinstance(error, RunLocked):
            record_failure(folder, error, names, begun=begun)
        elif hydra.mode == RunMode.RUN:
            logging.shutdown()
            discard(folder.path)
        raise
    log.info("results in %s", here(folder.path))
    return next((v for k, v in result["metrics"].items() if k.startswith("val/")), None)


def _run(
    command: str,
    config: dict[str, Any],
    names: Mapping[str, str | None],
    folder: RunFolder,
    snapshot: str | None,
    begin: Callable[[], None],
) -> dict[str, Any] | None:
    """The command itself; None where it goes on in another process.

    It imports torch only now, when the configuration is known to be good.
    """
    if command == "eval":
        from bmo_cli.commands.evaluate import evaluate_run

        return evaluate_run(config, names, folder, begin)
    if command == "certify":
        from bmo_cli.commands.certify import certify_run

        return certify_run(config, names, folder, begin)
    if command == "audit":
        from bmo_cli.commands.audit import audit

        return audit(config, names, folder, begin)
    hydra = HydraConfig.get()
    written: Any = OmegaConf.to_container(hydra.job_logging, resolve=True)
    if hydra.mode == RunMode.MULTIRUN:
        if config.get("jobs", 1) == 1:
            from bmo_cli.jobs.sweep_job import run_sweep_job

            return run_sweep_job(config, names, folder, written)
        from bmo_cli.jobs.pool import job_pool, require_places

        require_places(config, hydra.launcher["_target_"], hydra.sweeper["_target_"])
        job_pool.start(config, names, folder, written, record_failure)
        return None
    if config["train"].get("devices", 1) > 1:
        from bmo_cli.jobs.elastic import train_on_devices

        return train_on_devices(config, names, folder, written, snapshot, begin)
    from bmo_cli.training.run import train

    return train(config, names, folder, begin)


def _names(choices: dict[str, str], run: str | None, typed: Sequence[str]) -> dict[str, str | None]:
    """Chosen option of every group; of a run that exists its own, where nothing else was typed.

    A run that was killed before its first result.json is known by what Hydra recorded, and by what
    was composed from its overrides where even that is missing.
    """
    composed = {group: choices.get(group) for group in NAMED}
    if run is None:
        return composed
    recorded: Mapping[str, Any] = RunFolder(Path(run)).read_result()
    if plain_name(recorded.get("task")) is None:
        recorded = recorded_names(Path(run)) or composed
    new = {group for group in NAMED if any(text.startswith(f"{group}=") for text in typed)}
    return {g: composed[g] if g in new else plain_name(recorded.get(g)) for g in NAMED}
