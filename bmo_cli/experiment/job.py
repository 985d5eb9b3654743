"""What Hydra calls: check the configuration, run the command, leave a result whatever happens."""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from bmo_cli.config.commands import command as printed_command
from bmo_cli.config.commands import here
from bmo_cli.config.keys import PLACES
from bmo_cli.config.names import NAMED, plain_name, recorded_names
from bmo_cli.config.paths import at_home, with_paths
from bmo_cli.config.schema import check_config
from bmo_cli.config.snapshot import with_changes, with_recorded_weights
from bmo_cli.errors import (
    BmoError,
    Busy,
    DiskFull,
    InputError,
    Interrupted,
    Killed,
    OutOfMemory,
    disk_full_in_one_line,
    exits_as_errors,
    of_the_machine,
    printable,
)
from bmo_cli.experiment.allocator import keep_freed_memory
from bmo_cli.experiment.callbacks import discard
from bmo_cli.experiment.invocation import own_files
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
        from bmo_cli.experiment.restore import restore

        return restore(checked_config(command, config, typed)[1])
    if command == "table":
        from bmo_cli.experiment.table import make_table

        name = hydra.runtime.choices["table"]
        return make_table(_plain(command, config), name, own_files(hydra))
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
        if (begun or hydra.mode != RunMode.RUN) and not isinstance(error, Busy):
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
        from bmo_cli.experiment.evaluate import evaluate_run

        return evaluate_run(config, names, folder, begin)
    if command == "certify":
        from bmo_cli.experiment.certify import certify_run

        return certify_run(config, names, folder, begin)
    if command == "audit":
        from bmo_cli.experiment.audit import audit

        return audit(config, names, folder, begin)
    hydra = HydraConfig.get()
    written: Any = OmegaConf.to_container(hydra.job_logging, resolve=True)
    if hydra.mode == RunMode.MULTIRUN:
        if config.get("jobs", 1) == 1:
            from bmo_cli.experiment.sweep_job import run_sweep_job

            return run_sweep_job(config, names, folder, written)
        from bmo_cli.experiment.beside import beside, require_places

        require_places(config, hydra.launcher["_target_"], hydra.sweeper["_target_"])
        beside.start(config, names, folder, written, record_failure)
        return None
    if config["train"].get("devices", 1) > 1:
        from bmo_cli.experiment.parallel import train_on_devices

        return train_on_devices(config, names, folder, written, snapshot, begin)
    from bmo_cli.experiment.train import train

    return train(config, names, folder, begin)


def checked_config(
    command: str, config: DictConfig, typed: Sequence[str]
) -> tuple[DictConfig, dict[str, Any]]:
    """The configuration of a command, as it is composed and as plain data that passed its checks.

    Args:
        command, config, typed: see `run_job`.

    Raises:
        InputError: something is missing, not allowed or out of its range.
    """
    if command == "certify":
        _refuse_changes(typed)
    elif command in ("eval", "restore"):
        _refuse_weights(typed)
    effective = _effective(command, config, typed)
    return effective, _plain(command, effective)


_READING = ("data.workers", "data.cache_mib", "data.max_megapixels")
"""How photographs are read, not which."""


def _refuse_changes(typed: Sequence[str]) -> None:
    """A certificate is about a run as it was trained."""
    for text in typed:
        key = text.lstrip("+~").split("=", 1)[0]
        own = key.split(".")[0] in ("run", "certificate", "device", "plugins", "hydra")
        if not own and key not in PLACES and key not in _READING:
            raise InputError(
                f"'{text}' would change the run: a certificate is about the run as it was trained; "
                "certificate.*, device, plugins and where the data are (data.val=...) may be given"
            )


def _refuse_weights(typed: Sequence[str]) -> None:
    """A run that is trained has the weights of its checkpoint, whatever it began with."""
    for text in typed:
        key, _, value = text.lstrip("+~").partition("=")
        if key.endswith(".weights") and value != "null":
            raise InputError(
                f"'{text}' would change nothing: a run has the weights of its checkpoint; evaluate "
                f"others with bmo train hyper=none {key}=FILE"
            )


def _effective(command: str, config: DictConfig, typed: Sequence[str]) -> DictConfig:
    """The composed configuration; for a run that exists, its snapshot with what was typed."""
    try:
        keys = OmegaConf.missing_keys(config)
    except InterpolationKeyError as error:
        raise _dangling(error) from error
    missing = [key for key in keys if not key.startswith("hydra")]
    if missing:
        key = min(missing, key=lambda name: list(config).index(name.split(".")[0]))
        raise InputError(f"{key} is missing; give it as bmo {command} {key}=...")
    key = "resume" if command in ("train", "audit") else "run"
    run = config.get(key)
    if run is not None and not isinstance(run, str):
        raise InputError(f"'{key}' must be a run folder, got {run!r}")
    if run is None:
        return config
    return with_changes(Path(at_home(run)), config, typed, own_search=command != "certify")


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


def _plain(command: str, config: DictConfig) -> dict[str, Any]:
    """The resolved, checked configuration."""
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except InterpolationKeyError as error:
        raise _dangling(error) from error
    except OmegaConfBaseException as error:
        raise InputError(" ".join(str(error).split())) from error
    assert isinstance(plain, dict)
    checked = with_paths({str(key): value for key, value in plain.items()})
    check_config(checked, command)
    return checked


def _dangling(error: InterpolationKeyError) -> InputError:
    """For a key that is taken from one that this configuration does not have."""
    source = re.search(r"'([\w.]+)' not found", str(error))
    wanted = f"'{source.group(1)}'" if source else "a key"
    return InputError(
        f"{error.full_key} is taken from {wanted}, which this configuration does not have; "
        f"choose another task, or give {error.full_key}=..."
    )


def record_failure(
    folder: RunFolder,
    error: BaseException,
    names: Mapping[str, str | None],
    *,
    begun: bool = False,
) -> None:
    """result.json with the reason, and the traceback in run.log.

    A job of a sweep that was refused before it went on stays what it was.
    """
    error = of_the_machine(error)
    goes_on = isinstance(error, Interrupted | Killed | DiskFull | OutOfMemory)
    status = "interrupted" if goes_on else "failed"
    message = str(error) if isinstance(error, BmoError) else f"{type(error).__name__}: {error}"
    try:
        before = folder.read_result()
        if not begun and before.get("status") in ("ok", "interrupted"):
            if isinstance(error, Interrupted):
                return
            print(f"bmo: {folder.path} stays as it was: {printable(message)}", file=sys.stderr)
            return
        folder.write_result(
            {"metrics": {}, **names, **before, "status": status, "message": message}
        )
        if not isinstance(error, Interrupted | DiskFull):
            with (folder.path / "run.log").open("a", encoding="utf-8") as stream:
                stream.write("".join(traceback.format_exception(error)))
    except (OSError, InputError) as second:
        if isinstance(error, DiskFull):  # no room for that either
            return
        print(f"bmo: the failure could not be recorded: {second}", file=sys.stderr)
