"""`hydra/sweeper=search`: Optuna's TPE suggests values of a sweep by the validation score.

Suggested values are written to search.json before their trials run. Trial n depends on the seed, on
n and on the trials before it alone: a resumed search suggests the same values. A failed trial is
recorded as failed, and the search continues.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from bmo_cli.config.checks import Count, Seed, check
from bmo_cli.config.commands import format_command, relative_to_cwd
from bmo_cli.config.overrides import own_config_words
from bmo_cli.errors import InputError
from bmo_cli.jobs.dimension import Dimension
from bmo_cli.results.files import write_atomically
from bmo_cli.results.result import RunResult

log = logging.getLogger("bmo")

RECORD = "search.json"


class _Job(Protocol):
    """The task function. With `jobs=N`, jobs still run when the launcher has returned."""

    def finish(self) -> None:
        """Wait for the jobs that still run."""


class Search(Sweeper):
    """A study of Optuna, driven by asking and telling.

    Args:
        n_trials: number of all trials, including those of earlier sessions.
        direction: maximize or minimize; None: as the task's metric.
        seed: of the suggestions.
        n_jobs: number of trials that are suggested together.
    """

    def __init__(self, n_trials: int, direction: str | None, seed: int, n_jobs: int) -> None:
        self._count, self._direction, self._seed, self._together = n_trials, direction, seed, n_jobs
        self._trials: list[dict[str, Any]] = []

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from hydra.core.plugins import Plugins

        self._config: DictConfig = config
        self._job = cast(_Job, task_function)
        self._context = hydra_context
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self._folder = Path(str(config.hydra.sweep.dir))

    def sweep(self, arguments: list[str]) -> None:
        """Run the trials that are not done, and report the best one."""
        parser = OverridesParser.create(config_loader=self._context.config_loader)
        self._fixed, self._space = split_search_space(parser.parse_overrides(arguments))
        self._study = _create_study()
        recorded = self._read_record()
        self._count = max(self._count, len(recorded))  # recorded trials are never dropped
        together = max(self._together, self._config.jobs)
        for first in range(0, self._count, together):
            numbers = range(first, min(first + together, self._count))
            trials = [self._suggest(n, recorded.get(n)) for n in numbers]
            self._write()
            folders = self._launch(numbers)
            for number, trial, folder in zip(numbers, trials, folders, strict=True):
                self._tell(number, trial, folder)
            self._write()
        self._report()

    def _suggest(self, number: int, values: Mapping[str, Any] | None) -> Any:
        """Start a trial of the study. A recorded trial keeps its values."""
        self._study.sampler = _create_sampler(self._seed, number)
        if values is not None:
            self._study.enqueue_trial(dict(values))
        trial = self._study.ask()
        chosen = {d.key: d.suggest(trial) for d in self._space}
        self._trials.append({"number": number, "values": chosen, "state": "begun", "score": None})
        return trial

    def _trial_overrides(self, number: int) -> list[str]:
        values = self._trials[number]["values"]
        return [*self._fixed, *(f"{d.key}={d.text(values[d.key])}" for d in self._space)]

    def _launch(self, numbers: range) -> list[Path]:
        """Run these trials, and return their folders."""
        returns = self._launcher.launch([self._trial_overrides(n) for n in numbers], numbers.start)
        self._job.finish()
        return [_job_folder(returned) for returned in returns]

    def _tell(self, number: int, trial: Any, folder: Path) -> None:
        from optuna.trial import TrialState

        name, score, larger_is_better = _read_validation(folder)
        place = os.path.relpath(folder, self._folder)
        record = self._trials[number] | {"folder": place, "metric": name}
        if score is None:
            self._study.tell(trial, state=TrialState.FAIL)
            log.info("trial %d of %d failed", number, self._count)
            self._trials[number] = record | {"state": "failed"}
            return
        maximize = larger_is_better if self._direction is None else self._direction == "maximize"
        self._study.tell(trial, score if maximize else -score)
        self._trials[number] = record | {"state": "done", "score": score}
        best = self._trials[self._best()]
        log.info("trial %d of %d: %s", number, self._count, _format_score(self._trials[number]))
        log.info("best so far: trial %d, %s", best["number"], _format_score(best))

    def _best(self) -> int:
        """Number of the best trial. At least one trial must be done."""
        return int(self._study.best_trial.number)

    def _report(self) -> None:
        done = [trial for trial in self._trials if trial["state"] == "done"]
        if not done:
            log.warning("no trial of the search has a score")
            return
        number = self._best()
        best, failed = self._trials[number], len(self._trials) - len(done)
        again = format_command(
            "train", *own_config_words(self._config.hydra), *self._trial_overrides(number)
        )
        log.info(
            "the best of %d trials%s is trial %d, %s: %s\nin %s; train it again with '%s'",
            *(
                len(self._trials),
                f" ({failed} failed)" if failed else "",
                number,
                _format_score(best),
            ),
            " ".join(f"{d.key}={d.text(best['values'][d.key])}" for d in self._space),
            *(relative_to_cwd((self._folder / best["folder"]).absolute()), again),
        )

    def _read_record(self) -> dict[int, dict[str, Any]]:
        """Values of the trials that an earlier session started, by number.

        Raises:
            InputError: the record is damaged, or belongs to another search.
        """
        file = self._folder / RECORD
        if not file.is_file():
            return {}
        try:
            trials = json.loads(file.read_text(encoding="utf-8"))["trials"]
            return {
                int(trial["number"]): {
                    d.key: d.require_valid(trial["values"][d.key]) for d in self._space
                }
                for trial in trials
            }
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{file} is damaged, or of another search: {error}") from error

    def _write(self) -> None:
        done = any(trial["state"] == "done" for trial in self._trials)
        content = {"best": self._best() if done else None, "trials": self._trials}
        write_atomically(self._folder / RECORD, json.dumps(content, indent=2).encode())


def split_search_space(overrides: Sequence[Override]) -> tuple[list[str], list[Dimension]]:
    """The overrides that all trials share, and the dimensions of the search.

    Raises:
        InputError: there is no dimension, or the limits of one are not valid.
    """
    searched = {item.get_key_element(): item for item in overrides if item.is_sweep_override()}
    if not searched:
        raise InputError(
            "the search has no key to choose values for; example: optim.lr=interval(1e-4,1e-2)"
        )
    fixed = [
        f"{item.get_key_element()}={item.get_value_element_as_str()}"
        for item in overrides
        if not item.is_sweep_override()
    ]
    return fixed, [Dimension.of(item) for item in searched.values()]


def check_search(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Check the settings of a search before it starts.

    Args:
        config: of the sweep, with Hydra's section.
        overrides: of the command line.

    Raises:
        InputError: a setting is not valid, or Optuna is not installed.
    """
    sweeper = config.hydra.sweeper
    check(sweeper.n_trials, Count, "hydra.sweeper.n_trials")
    check(sweeper.n_jobs, Count, "hydra.sweeper.n_jobs")
    check(sweeper.seed, Seed, "hydra.sweeper.seed")
    if sweeper.direction not in (None, "maximize", "minimize"):
        raise InputError(
            f"hydra.sweeper.direction must be maximize or minimize (or null), got "
            f"{sweeper.direction!r}"
        )
    if config.hydra.job.config_name != "train":
        raise InputError("hydra/sweeper=search is for bmo train: it needs validation scores")
    split_search_space(overrides)
    if importlib.util.find_spec("optuna") is None:
        raise InputError("hydra/sweeper=search needs a package: pip install 'bmo-cli[optuna]'")


def _job_folder(returned: JobReturn) -> Path:
    """Folder of a job that Hydra has run."""
    assert returned.hydra_cfg is not None
    return Path(returned.hydra_cfg.hydra.runtime.output_dir)


def _create_study() -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="maximize")


def _create_sampler(seed: int, number: int) -> Any:
    from optuna.samplers import TPESampler

    return TPESampler(seed=int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))


def _read_validation(folder: Path) -> tuple[str, float | None, bool]:
    """Name and value of the validation score of a run, and whether larger is better.

    The value is None for a failed run.
    """
    result = RunResult.read_tolerantly(folder)
    if result is None or result.metric is None:
        return "val/None", None, True
    name = f"val/{result.metric.name}"
    value = result.metrics.get(name) if result.status == "ok" else None
    known = value is not None and math.isfinite(value)
    return name, value if known else None, result.metric.larger_is_better


def _format_score(trial: Mapping[str, Any]) -> str:
    return f"{trial['metric']} {trial['score']:.5g}"
