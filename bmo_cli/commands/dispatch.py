"""The function that Hydra calls: check the configuration, run the command, record the result."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from bmo_cli.config.commands import format_command, relative_to_cwd
from bmo_cli.config.effective import CheckedConfig, resolve_and_check
from bmo_cli.config.names import NAMED, choice_name_or_none, read_recorded_choices
from bmo_cli.config.overrides import own_config_words
from bmo_cli.config.schema import AuditConfig, Config, RestoreConfig, TableConfig
from bmo_cli.config.snapshot import restore_weight_keys
from bmo_cli.errors import (
    InputError,
    Interrupted,
    RunLocked,
    convert_exits,
    escape_unprintable,
    explain_full_disk,
)
from bmo_cli.jobs.allocator import keep_freed_memory
from bmo_cli.jobs.failures import record_failure
from bmo_cli.results.result import RunResult
from bmo_cli.results.run import Run, RunSpec
from bmo_cli.results.run_folder import RunFolder

if TYPE_CHECKING:
    from bmo_cli.jobs.sweep_job import SweepJobs

log = logging.getLogger("bmo")


@dataclass
class Job:
    """A command as a function of the composed configuration: called once, or once a job of a sweep.

    It can be pickled before its first call, which launchers do for jobs in other processes.

    Attributes:
        command: one of `cli.COMMANDS`.
        typed: overrides of this command line, without those recorded in a run.
        started: whether a run has changed its folder.
    """

    command: str
    typed: tuple[str, ...]
    started: bool = field(default=False, init=False)
    _jobs: SweepJobs | None = field(default=None, init=False)

    def __call__(self, config: DictConfig) -> float | None:
        """Run the command.

        Args:
            config: as Hydra composed it.

        Returns:
            The validation score, where there is one; Hydra's sweepers optimise it. For a failed job
            of a sweep NaN, which a sweeper takes as a failed trial: Hydra would stop the sweep at
            an exception. The folder of the job records the reason.

        Raises:
            BmoError: what went wrong. The run folder then holds a result.json with the reason,
                except when a single run was refused before it started.
            SystemExit: a sweep received a request to stop.
        """
        keep_freed_memory()
        logging.raiseExceptions = False  # a closed pipe (`bmo train | head`) is no error
        sweeps = HydraConfig.get().mode == RunMode.MULTIRUN
        try:
            with convert_exits():
                result = self._run(config)
        except Interrupted as error:
            if not sweeps:
                raise
            print(f"bmo: {escape_unprintable(str(error))}", file=sys.stderr)
            raise SystemExit(error.exit_code) from error  # Hydra would continue after an exception
        except Exception:
            if not sweeps:
                raise
            return math.nan
        metrics: Mapping[str, float | None] = {} if result is None else result.metrics
        return next((value for key, value in metrics.items() if key.startswith("val/")), None)

    def finish(self) -> None:
        """Wait for the jobs of a sweep that still run.

        Raises:
            Interrupted: this process received a request to stop; every job has a checkpoint.
        """
        if self._jobs is not None:
            self._jobs.finish()

    def _run(self, config: DictConfig) -> RunResult | None:
        """The result; None for a command without a result, and for a job that still runs."""
        hydra = HydraConfig.get()
        if self.command == "restore":
            from bmo_cli.commands.restore import restore

            restore(cast(RestoreConfig, resolve_and_check("restore", config, self.typed).config))
            return None
        if self.command == "table":
            from bmo_cli.tables.make import make_table

            checked = cast(TableConfig, resolve_and_check("table", config, self.typed).config)
            make_table(checked, hydra.runtime.choices["table"], own_config_words(hydra))
            return None
        path, run, choices = Path(hydra.runtime.output_dir), None, dict[str, str | None]()
        try:
            if hydra.job.chdir:
                raise InputError("hydra.job.chdir=true moves every relative path; leave it out")
            checked_run = resolve_and_check(self.command, config, self.typed)
            choices = _collect_choices(hydra.runtime.choices, checked_run.existing, self.typed)
            run = Run(_build_spec(self.command, checked_run, choices, path))
            hint = _recovery_hint(self.command, run.plugins, path)
            with explain_full_disk(str(path), hint), convert_exits():
                result = self._dispatch(run)
        except Exception as error:
            started = self.started = run is not None and run.state != "prepared"
            if (started or hydra.mode != RunMode.RUN) and not isinstance(error, RunLocked):
                about = None if run is None else run.spec.about
                record_failure(path, error, choices, about=about, started=started)
            raise
        if result is not None:
            log.info("results in %s", relative_to_cwd(path))
        return result

    def _dispatch(self, run: Run[Any]) -> RunResult | None:
        """Call the command. Torch is imported here, after the configuration is checked."""
        if self.command == "train":
            return self._train(run)
        if self.command == "eval":
            from bmo_cli.commands.evaluate import evaluate_run

            result = evaluate_run(run)
        elif self.command == "certify":
            from bmo_cli.commands.certify import certify_run

            result = certify_run(run)
        else:
            from bmo_cli.commands.audit import audit

            result = audit(run)
        run.finish(result)
        return result

    def _train(self, run: Run[Config]) -> RunResult | None:
        hydra = HydraConfig.get()
        if hydra.mode == RunMode.MULTIRUN:
            from bmo_cli.jobs.sweep_job import SweepJobs

            if self._jobs is None:
                self._jobs = SweepJobs(hydra.launcher["_target_"], hydra.sweeper["_target_"])
            return self._jobs.run(run.spec)
        if run.config.train.devices > 1:
            from bmo_cli.jobs.elastic import train_on_devices

            return train_on_devices(run)
        from bmo_cli.training.run import train

        return train(run)


def _build_spec(
    command: str, checked: CheckedConfig, choices: Mapping[str, str | None], path: Path
) -> RunSpec[Config | AuditConfig]:
    config, snapshot = cast(Config | AuditConfig, checked.config), None
    existing = checked.existing
    if existing is not None:
        snapshot = OmegaConf.to_yaml(restore_weight_keys(checked.composed, Path(existing)))
    logging_config: Any = OmegaConf.to_container(HydraConfig.get().job_logging, resolve=True)
    about = existing if command in ("eval", "certify") else None
    return RunSpec(config, choices, path, logging_config, snapshot, about)


def _recovery_hint(command: str, plugins: Sequence[str], path: Path) -> str:
    """What the user does once there is room on the disk."""
    if command != "train":
        return "give the same command again"
    resume = format_command("train", plugins=plugins, resume=path)
    return f"go on with '{resume}'"


def _collect_choices(
    composed: Mapping[str, str], existing: str | None, typed: tuple[str, ...]
) -> dict[str, str | None]:
    """The choice of every group. An existing run keeps its choices where nothing else was typed.

    For a run that was killed before its first result.json, the choices are those that Hydra
    recorded; where these are missing too, those composed from its overrides.
    """
    chosen = {group: composed.get(group) for group in NAMED}
    if existing is None:
        return chosen
    result = RunFolder(Path(existing)).read_result()
    recorded: Mapping[str, object] = {} if result is None else result.choices
    if choice_name_or_none(recorded.get("task")) is None:
        recorded = read_recorded_choices(Path(existing)) or chosen
    new = {group for group in NAMED if any(text.startswith(f"{group}=") for text in typed)}
    return {g: chosen[g] if g in new else choice_name_or_none(recorded.get(g)) for g in NAMED}
