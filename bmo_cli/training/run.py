"""`bmo train`: build, train, evaluate the best checkpoint, write the run folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from bmo_cli.config.commands import format_command
from bmo_cli.config.schema import Config, to_plain
from bmo_cli.errors import Interrupted
from bmo_cli.experiment.build import describe_device
from bmo_cli.experiment.certificate_report import hash_run_files, write_certificate
from bmo_cli.experiment.checkpoint import count_parameters, load_checkpoint
from bmo_cli.experiment.inputs import hash_weights
from bmo_cli.experiment.plugins import hash_plugins, names_plugins
from bmo_cli.experiment.scorecard import evaluate_test
from bmo_cli.experiment.signals import StopRequest
from bmo_cli.results.figures import curves
from bmo_cli.results.provenance import git_state, peak_rss_mib, source_hash, versions
from bmo_cli.results.result import RunResult, Score, Testing, Training
from bmo_cli.results.run import Run, TrainSpec
from bmo_cli.results.run_folder import RunFolder
from bmo_cli.tasks.task import Task
from bmo_cli.training.convergence_check import check_convergence
from bmo_cli.training.distributed import SINGLE_PROCESS, ProcessGroup
from bmo_cli.training.prepare import TrainingSetup, prepare
from bmo_cli.training.trainer import Trainer
from bmo_cli.verification.predictions import gradient_decay

log = logging.getLogger("bmo")
History = Sequence[Mapping[str, float]]


@names_plugins
def train(run: Run[Config], process_group: ProcessGroup = SINGLE_PROCESS) -> RunResult:
    """Train a run and evaluate it. With `certify=true`, certify it.

    Args:
        run: prepared.
        process_group: processes that share the batch. This is the first; see `assist`.

    Returns:
        The content of result.json, which is written.

    Raises:
        RunLocked: another process works in this folder.
        InputError: an input cannot be used; the state of the run is still `prepared`.
        Interrupted: this process received a request to stop; the run has a checkpoint.
        DivergenceError: the loss or an iterate became non-finite.
    """
    with run.folder.claimed():
        setup = prepare(run.spec, process_group)
        first = _build_initial_result(setup, run)
        _announce(run.spec.choices, first, run.folder)
        run.start(first)  # a run that is killed after this resumes from its last checkpoint
        try:
            result = _train_and_test(setup, run, first)
            if run.config.certify:
                run.write(result)  # a failure of the certificate keeps the trained result
                result = _certify(setup, run, result)
            run.finish(result)
        finally:
            setup.logger.close((run.written or first).content())
    return result


@names_plugins
def assist(spec: TrainSpec, process_group: ProcessGroup) -> None:
    """Differentiate this process's part of every batch; the first process does the rest.

    Args:
        spec: as for `train`; nothing is written.
        process_group: processes that share the batch.
    """
    setup = prepare(spec, process_group)
    with StopRequest() as stop:
        Trainer(setup, spec, stop).run()


def _build_initial_result(setup: TrainingSetup, run: Run[Config]) -> RunResult:
    """The result before the first step."""
    experiment, config = setup.experiment, run.config
    before = run.folder.read_result()
    return RunResult(
        status="running",
        choices=run.spec.choices,
        seed=config.seed,
        metric=_describe_score(experiment.task),
        parameters=count_parameters(experiment.omega),
        versions=versions(),
        git=git_state(),
        code=source_hash(),
        device=describe_device(experiment.device),
        devices=setup.process_group.count,
        nonexpansive=experiment.nonexpansive,
        notes=experiment.notes,
        data=experiment.task.fingerprints(),
        plugins=hash_plugins(config.plugins),
        weights=hash_weights(to_plain(config)) or (before.weights if before else None) or {},
        steps=setup.progress.step,
        train_seconds=setup.progress.seconds,
        trained_in=before.trained_in if before else None,
    )


def _describe_score(task: Task) -> Score:
    return Score(task.metric, task.unit, task.larger_is_better, dict(task.columns))


def _announce(choices: Mapping[str, str | None], result: RunResult, folder: RunFolder) -> None:
    log.info(
        "%s: %s, %s + %s (%d parameters) on %s -> %s",
        *(choices.get(group) for group in ("task", "hyper", "gkm", "net")),
        result.parameters,
        result.device,
        folder.path,
    )
    if result.trained_in is not None:
        log.info("the training is that of %s", result.trained_in)
    for note in result.notes or ():
        log.info("note: %s", note)


def _train_and_test(setup: TrainingSetup, run: Run[Config], result: RunResult) -> RunResult:
    progress, earlier = setup.progress, setup.progress.seconds
    with StopRequest() as stop:
        trainer = Trainer(setup, run.spec, stop)
        try:
            trainer.run()
        finally:  # progress is recorded, however the run ends
            result = result.including(_build_training(setup))
            run.write(result)
        if run.config.profile:
            spent = sum(trainer.profile.seconds.values())
            log.info(trainer.profile.describe(max(spent, progress.seconds - earlier)))
            result = replace(result, profile=trainer.profile.seconds)
        history = run.folder.read_history()
        _draw_curves(history, setup.experiment.task, run.folder)
        if trainer.stopping:
            again = format_command("train", plugins=run.config.plugins, resume=run.spec.path)
            raise Interrupted(
                f"stopped after step {progress.step}, which is saved; go on with '{again}'",
                exit_code=stop.exit_code,
            )
        result = replace(result, best_step=progress.best_step)
        run.write(result)  # training has ended, whatever becomes of the test
        load_checkpoint(trainer.best, setup.experiment.omega)
        result = result.including(_evaluate_test_split(setup, run, stop))
        if stop.signal is None:
            _remark_on_convergence(setup, run.config, trainer)
    result = result.including(_summarize_training(setup, history, trainer))
    for flag, count in trainer.flags.items():
        if flag not in trainer.logged_flags:
            log.warning("%s%s", flag, f" ({count} steps)" if count > 1 else "")
    return replace(
        result, status="ok", peak_rss_mib=peak_rss_mib(), identity=hash_run_files(run.folder)
    )


def _remark_on_convergence(setup: TrainingSetup, config: Config, trainer: Trainer) -> None:
    remark = check_convergence(setup.experiment, config.train.iterations)
    if remark is not None:
        trainer.flags[remark] = 1


def _build_training(setup: TrainingSetup) -> Training:
    """Progress of training, for result.json."""
    progress = setup.progress
    return Training(
        steps=progress.step,
        train_seconds=progress.seconds,
        evaluations=progress.evaluations,
        products=progress.products,
    )


def _summarize_training(setup: TrainingSetup, history: History, trainer: Trainer) -> Training:
    """The outcome of training, for result.json."""
    progress = setup.progress
    metrics = {f"val/{setup.experiment.task.metric}": progress.best}
    if history:
        gradients = [row["hypergrad_norm"] for row in history]
        metrics["train/loss"] = history[-1]["loss"]
        metrics["train/gradient"] = gradients[-1]
        metrics["train/gradient_fall"] = gradient_decay(gradients)
    return replace(
        _build_training(setup),
        best_step=progress.best_step,
        metrics=metrics,
        flags=trainer.flags,
    )


def _draw_curves(history: History, task: Task, folder: RunFolder) -> None:
    curves(history, f"{task.metric} {task.unit}".strip(), folder.path / "curves.png")


def _evaluate_test_split(setup: TrainingSetup, run: Run[Config], stop: StopRequest) -> Testing:
    """Evaluate the best checkpoint on the test split, unless eval.test=false."""
    experiment, config, step = setup.experiment, run.config, setup.progress.best_step
    if not config.eval.test:
        log.info("eval.test=false: the checkpoint of step %d is not tested", step)
        task = experiment.task
        return Testing(protocol=task.protocol, data=task.fingerprints())
    log.info("evaluating the checkpoint of step %d on the test split", step)
    again = format_command("eval", plugins=config.plugins, run=run.spec.path)
    return evaluate_test(experiment, config.eval, run.folder, again, stop)


def _certify(setup: TrainingSetup, run: Run[Config], result: RunResult) -> RunResult:
    folder = run.folder
    try:
        part = write_certificate(
            setup.experiment, run.config, folder.read_history(), folder, shown="line"
        )
    except KeyboardInterrupt as error:
        again = format_command("train", plugins=run.config.plugins, resume=folder.path)
        raise Interrupted(
            "stopped during certification; training and evaluation are saved, make the "
            f"certificate with '{again}'"
        ) from error
    return result.including(part)
