"""The outer loop: hyper-training steps, validation, checkpoints.

omega <- Proj_Omega( omega - eta_t * grad phi_K(omega) )        (any torch optimiser)
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import torch
from torch.optim import Optimizer

from bmo_cli.config.schema import Config, to_plain
from bmo_cli.errors import DivergenceError
from bmo_cli.experiment.checkpoint import BEST, all_finite, save_checkpoint, save_last
from bmo_cli.experiment.evaluation import Settings, evaluate
from bmo_cli.experiment.signals import StopRequest
from bmo_cli.metrics import mean
from bmo_cli.results.run import TrainSpec
from bmo_cli.results.run_folder import History
from bmo_cli.solver.cost import Cost
from bmo_cli.solver.fixed_point import Status
from bmo_cli.solver.problem import Sample
from bmo_cli.tasks.task import Task
from bmo_cli.training.distributed import clock
from bmo_cli.training.gradient_check import GradientCheck
from bmo_cli.training.prepare import TrainingSetup
from bmo_cli.training.progress import Console

log = logging.getLogger("bmo")


class Trainer:
    """Trains one experiment.

    Args:
        prepared: the objects of the run, and where to start.
        spec: of the run.
        stop: when it holds a signal, training ends after the step.

    Attributes:
        flags: remarks of training steps, with their counts.
        logged_flags: flags that were logged when they occurred.
        stopping: whether training ended because a process received a request to stop.
        profile: clock of the parts of a step.
    """

    def __init__(self, prepared: TrainingSetup, spec: TrainSpec, stop: StopRequest) -> None:
        self.experiment, self.optimizer = prepared.experiment, prepared.optimizer
        self.progress, self.process_group = prepared.progress, prepared.process_group
        self.settings, self.stop = spec.config.train, stop
        self.folder, self.logger = spec.folder, prepared.logger
        self._gradient, self.profile = prepared.gradient, prepared.gradient.profile
        self._validation = _validation_settings(spec.config)
        groups = [] if self.optimizer is None else self.optimizer.param_groups
        self._parameters = [p for group in groups for p in group["params"]]
        self._base_lr = [group["lr"] for group in groups]
        self._lr = math.nan
        self._scaler = torch.amp.GradScaler(
            self.experiment.device.type,
            enabled=self._gradient.execution.precision is torch.float16,
        )
        if self.progress.scaler:
            self._scaler.load_state_dict(self.progress.scaler)
        self.flags = Counter(self.progress.flags)
        self.logged_flags: set[str] = set()
        self._check_gradients = GradientCheck(self.experiment)
        self.stopping = False
        task, first = self.experiment.task, self.process_group.first
        self._console = Console(
            self.settings.steps, self.progress.step, _build_score_format(task), quiet=not first
        )
        if first:
            self._history = History(self.folder, task.metric, keep_until=self.progress.step)
        rows = self.folder.read_history()
        self.logger.open(self.folder, to_plain(spec.config), rows, task.metric)

    def run(self) -> None:
        """Train until the last step, the last minute or a stop request.

        Raises:
            DivergenceError: loss, iterate or hyper-gradient became non-finite. The checkpoints of
                the last validation before it are kept.
        """
        try:
            self._run()
        finally:
            self._console.close()

    def _run(self) -> None:
        settings, progress, experiment = self.settings, self.progress, self.experiment
        last = settings.steps if settings.steps is not None else 10**9
        last = last if experiment.hyper.trains else 0
        if progress.step == 0:
            self._save(self._validate())
        started = clock(self.process_group) - progress.seconds
        samples = experiment.task.samples(range(progress.step, last), settings.batch)
        while progress.step < last and self._fraction_done() < 1 and not self._must_stop():
            with self.profile.measure("data"):
                sample = self.process_group.select_part(next(samples))
            progress.window.append(self._step(sample))
            progress.step += 1
            self.profile.steps += 1
            self._console.advance()
            progress.seconds = clock(self.process_group) - started
            ends = progress.step == last or self._fraction_done() >= 1
            if ends or progress.step % settings.validate_every == 0:
                score = self._validate()
                self._record_row(score)  # before the checkpoint, which must not lack its row
                self._save(score)
            elif progress.step % settings.log_every == 0:
                self._record_row(math.nan)
        if settings.steps is not None and progress.step < last and self._fraction_done() >= 1:
            self.flags[
                f"train.max_minutes={settings.max_minutes} ended the run at step "
                f"{progress.step} of {last}, before the learning rate had come down"
            ] += 1
        if self.stopping and self.process_group.first and all_finite(experiment.omega):
            save_last(self.folder.checkpoints, experiment.omega, progress, self.optimizer)

    @property
    def best(self) -> Path:
        """Checkpoint with the best validation score."""
        return self.folder.checkpoints / BEST

    def _must_stop(self) -> bool:
        """Whether any process received a request to stop. All then stop after the same step."""
        self.stopping = self.process_group.maximum(float(self.stop.signal is not None)) > 0
        return self.stopping

    def _step(self, sample: Sample) -> tuple[float, float, float]:
        """One hyper-training step.

        Returns:
            Loss, norm of the hyper-gradient and residual.
        """
        experiment, optimizer = self.experiment, self.optimizer
        assert optimizer is not None
        for group, base in zip(optimizer.param_groups, self._base_lr, strict=True):
            group["lr"] = base * self._learning_rate_factor()
        self._lr = optimizer.param_groups[0]["lr"]
        experiment.hyper.begin_step(self._fraction_done())
        cost = Cost()
        while True:
            try:
                outcome = self._gradient(sample, self._scaler.scale, self.progress.step, cost)
            except DivergenceError as error:
                self._raise_divergence(str(error), "a learned step size grows")
            if outcome.status is Status.NONFINITE or not torch.isfinite(outcome.objective):
                self._raise_divergence(
                    "the loss or an iterate became non-finite", "the iteration expands"
                )
            for remark in self._check_gradients():
                self.flags[remark] = 1
                self.logged_flags.add(remark)
                log.warning(remark)
            with self.profile.measure("optimiser"):
                norm = self._descend(optimizer)
            if math.isfinite(norm):
                break
        self.progress.evaluations += cost.evaluations // self._gradient.threads.count
        self.progress.products += cost.vjps // self._gradient.threads.count
        self.progress.scaler = self._scaler.state_dict()
        self.flags.update(self.process_group.gather_flags(outcome.flags))
        self.progress.flags = dict(self.flags)
        experiment.scheme.project_()
        (loss,) = self.process_group.mean([outcome.objective.item()])
        return loss, norm, self.process_group.maximum(outcome.residual)

    def _descend(self, optimizer: Optimizer) -> float:
        """One step of the optimiser, which is skipped where fp16 overflowed.

        Returns:
            The norm of the hyper-gradient.
        """
        self.process_group.average_gradients(self._parameters)
        if self._scaler.is_enabled():
            self._scaler.unscale_(optimizer)
        limit = self.settings.clip if self.settings.clip is not None else math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, limit))
        if not math.isfinite(norm) and self._scaler.get_scale() <= 1:  # always 1 without fp16
            self._raise_divergence(
                "the hyper-gradient became non-finite", "it explodes through K steps"
            )
        if math.isfinite(norm):
            self._scaler.step(optimizer)
            self._scaler.update()
        else:
            self._scaler.update(self._scaler.get_scale() / 2)
        return norm

    def _raise_divergence(self, what: str, cause: str) -> NoReturn:
        step = self.progress.step + 1
        raise DivergenceError(
            f"step {step}: {what}; likely cause: {cause} or the learning rate is too large; try a "
            "smaller optim.lr, train.clip, train.iterations, or net=lip. The checkpoints of the "
            "last good validation are kept"
        )

    def _fraction_done(self) -> float:
        """The fraction of the run that is done: by steps if they are given, 1 once time is up."""
        steps, by_time = self.settings.steps, self._time_fraction()
        if steps is None:
            return by_time
        return 1.0 if by_time >= 1 else self.progress.step / steps

    def _time_fraction(self) -> float:
        """The fraction of `max_minutes` that is over, 0 without such a limit."""
        minutes = self.settings.max_minutes
        return self.progress.seconds / (60 * minutes) if minutes is not None else 0.0

    def _learning_rate_factor(self) -> float:
        """The factor of the learning rate at this step."""
        return learning_rate_factor(
            self.settings.schedule,
            self._fraction_done(),
            self.progress.step,
            self.settings.warmup,
        )

    def _validate(self) -> float:
        """Compute the mean validation score."""
        if not all_finite(self.experiment.omega):
            self._raise_divergence(
                "a weight became non-finite", "the hyper-gradient is not clipped"
            )
        try:
            with self.profile.measure("validation"):
                return self.process_group.broadcast_from_first(self._mean_score)
        except DivergenceError as error:
            step = self.progress.step
            raise DivergenceError(f"validation after step {step}: {error}") from error

    def _mean_score(self) -> float:
        scheme, task = self.experiment.scheme, self.experiment.task
        scores = evaluate(scheme, task, "val", self._validation)
        return mean([row[task.metric] for row in scores.values()])

    def _save(self, score: float) -> None:
        """Write the last checkpoint, and the best one if the validation score has improved."""
        with self.profile.measure("writing"):
            self._write(score)

    def _write(self, score: float) -> None:
        progress = self.progress
        if self._is_better(score, progress.best):
            progress.best, progress.best_step = score, progress.step
            if self.process_group.first:
                save_checkpoint(self.best, self.experiment.omega, progress)
        if self.process_group.first:
            save_last(self.folder.checkpoints, self.experiment.omega, progress, self.optimizer)

    def _is_better(self, score: float, best: float) -> bool:
        task = self.experiment.task
        if not task.selects or math.isnan(best):
            return True
        return score > best if task.larger_is_better else score < best

    def _record_row(self, score: float) -> None:
        """Write a row of history.csv: averages since the last row."""
        columns = list(zip(*self.progress.window, strict=True))
        loss, norm, residual = (sum(column) / len(column) for column in columns)
        self.progress.window.clear()
        if not self.process_group.first:
            return
        row = {
            "step": self.progress.step,
            "seconds": self.progress.seconds,
            "loss": loss,
            "val": score,
            "hypergrad_norm": norm,
            "residual": residual,
            "lr": self._lr,
        }
        self._history.add(row)
        self.logger.row(row)
        done = max(self._fraction_done(), self._time_fraction())  # whichever limit ends the run
        self._console.show_row(row, done, self.settings.steps)


def _validation_settings(config: Config) -> Settings:
    """The settings of the test, with the iterations of a validation."""
    tested = Settings.of(config.eval)
    return replace(tested, iterations=config.train.validate_iterations or tested.iterations)


def _build_score_format(task: Task) -> Callable[[float], str]:
    """A function that formats the validation score of a task."""
    layout = task.columns.get(task.metric, ".4g")
    return lambda score: f"{score:{layout}} {task.unit}".strip()


def learning_rate_factor(schedule: str, fraction: float, step: int, warmup: int) -> float:
    """The factor of the learning rate.

    Args:
        schedule: constant; linear to 0; cosine, (1 + cos(pi f)) / 2 (Loshchilov & Hutter, SGDR,
            ICLR 2017, without restarts).
        fraction: f, the fraction of the run that is done, in [0, 1].
        step: number of hyper-training steps done.
        warmup: number of steps of linear rise.
    """
    rise = min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0
    if schedule == "cosine":
        return rise * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))
    return rise * (1 - min(fraction, 1.0)) if schedule == "linear" else rise
