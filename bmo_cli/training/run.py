"""`bmo train`: build, train, evaluate the best checkpoint, leave a complete run folder."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch.optim import Optimizer

from bmo_cli.config.commands import command
from bmo_cli.config.snapshot import require_weights
from bmo_cli.errors import InputError, Interrupted
from bmo_cli.experiment.behaviour import observe, require_map, require_map_of
from bmo_cli.experiment.build import (
    Experiment,
    build,
    describe_device,
    instantiate,
)
from bmo_cli.experiment.certificate_report import run_identity, write_certificate
from bmo_cli.experiment.checkpoint import (
    BEST,
    Damaged,
    Progress,
    has_last,
    load_checkpoint,
    load_last,
    parameter_count,
    read_checkpoint,
)
from bmo_cli.experiment.evaluation import Settings, evaluate
from bmo_cli.experiment.inputs import differing, weights_of
from bmo_cli.experiment.plugins import names_plugins, plugin_contents
from bmo_cli.experiment.scorecard import evaluate_test
from bmo_cli.experiment.signals import StopRequest
from bmo_cli.hyper.memory import free_memory
from bmo_cli.loggers.logger import Logger, SafeLogger
from bmo_cli.metrics import mean
from bmo_cli.results.figures import curves
from bmo_cli.results.provenance import git_state, peak_rss_mib, source_hash, versions
from bmo_cli.results.run_folder import RunFolder
from bmo_cli.solver.problem import Sample
from bmo_cli.tasks.task import Task
from bmo_cli.training.distributed import SINGLE_PROCESS, ProcessGroup
from bmo_cli.training.hypergradient import HyperGradient
from bmo_cli.training.optimizer import build_optimizer
from bmo_cli.training.precision import SLOW, bfloat16_slowdown
from bmo_cli.training.progress import Console
from bmo_cli.training.threads import CpuThreads
from bmo_cli.training.timer import Profile, Untimed
from bmo_cli.training.trainer import Trainer
from bmo_cli.verification.predictions import gradient_decay

log = logging.getLogger("bmo")


@names_plugins
def train(
    config: Mapping[str, Any],
    names: Mapping[str, str | None],
    folder: RunFolder,
    begin: Callable[[], None] = lambda: None,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> dict[str, Any]:
    """Run one experiment.

    Args:
        config: resolved configuration that passed `config.schema.check_config`.
        names: chosen option of every group, for the result.
        folder: of the run.
        begin: called when everything is built and loaded, before anything is written.
        process_group: processes that share the batch, of which this is the first; see `assist`.

    Returns:
        The content of result.json.

    Raises:
        InputError: another process works in this folder, or something cannot be used.
    """
    with folder.claimed():
        prepared = _prepared(config, folder, process_group)
        begin()
        result: dict[str, Any] = {}
        try:
            _train(prepared, config, names, folder, process_group, result)
        finally:
            prepared.logger.close(result)
        return result


def _train(
    prepared: _Prepared,
    config: Mapping[str, Any],
    names: Mapping[str, str | None],
    folder: RunFolder,
    process_group: ProcessGroup,
    result: dict[str, Any],
) -> None:
    """Fill `result`, which holds what is known however this ends."""
    experiment, progress = prepared.experiment, prepared.progress
    task = experiment.task
    result |= {
        "status": "running",
        "message": "",
        "metrics": {},
        **names,
        "seed": config["seed"],
        "metric": _described(task),
        "parameters": parameter_count(experiment.omega),
        "versions": versions(),
        "git": git_state(),
        "code": source_hash(),
        "device": describe_device(experiment.device),
        "devices": process_group.count,
    }
    result |= {"nonexpansive": experiment.nonexpansive, "notes": experiment.notes}
    result |= {"data": task.fingerprints(), "plugins": plugin_contents(config["plugins"])}
    result["weights"] = weights_of(config) or folder.read_result().get("weights") or {}
    log.info(
        "%s: %s, %s + %s (%d parameters) on %s -> %s",
        *(names.get(key) for key in ("task", "hyper", "gkm", "net")),
        result["parameters"],
        result["device"],
        folder.path,
    )
    for note in experiment.notes:
        log.info("note: %s", note)
    result |= {"steps": progress.step, "train_seconds": progress.seconds}
    folder.write_result(result)  # what is killed from here on goes on from its last checkpoint
    earlier = progress.seconds
    with StopRequest() as stop:
        try:
            trainer = _fit(prepared, config, folder, stop, process_group)
        finally:  # what is known is on disk, however the run ends
            result |= {"steps": progress.step, "train_seconds": progress.seconds}
            result["evaluations"], result["products"] = progress.evaluations, progress.products
            folder.write_result(result)
        if config.get("profile"):
            spent = sum(trainer.profile.seconds.values())
            log.info(trainer.profile.words(max(spent, progress.seconds - earlier)))
            result["profile"] = trainer.profile.seconds
        history = folder.read_history()
        curves(history, f"{task.metric} {task.unit}".strip(), folder.path / "curves.png")
        if trainer.stopping:
            again = command("train", plugins=config["plugins"], resume=folder.path)
            raise Interrupted(
                f"stopped after step {progress.step}, which is saved; go on with '{again}'",
                exit_code=stop.exit_code,
            )
        load_checkpoint(trainer.best, experiment.omega)
        if config["eval"].get("test", True):
            log.info("evaluating the checkpoint of step %d on the test split", progress.best_step)
            again = command("eval", plugins=config["plugins"], run=folder.path)
            result |= evaluate_test(experiment, config["eval"], folder, again, stop)
        else:
            log.info("eval.test=false: the checkpoint of step %d is not tested", progress.best_step)
            result |= {"images": {}, "protocol": task.protocol, "data": task.fingerprints()}
            result |= {"flags": {}}
    result["metrics"][f"val/{task.metric}"] = progress.best
    if history:
        result["metrics"]["train/loss"] = history[-1]["loss"]
        result["metrics"]["train/gradient_fall"] = gradient_decay(
            [row["hypergrad_norm"] for row in history]
        )
    result["best_step"] = progress.best_step
    result["flags"] = {**trainer.flags, **result["flags"]}
    for flag, count in trainer.flags.items():
        if flag not in trainer.said:
            log.warning("%s%s", flag, f" ({count} steps)" if count > 1 else "")
    result |= {"status": "ok", "peak_rss_mib": peak_rss_mib(), "identity": run_identity(folder)}
    if config.get("certify"):
        folder.write_result(result)  # a certificate that fails does not undo the training
        try:
            found = write_certificate(experiment, config, history, folder)
        except KeyboardInterrupt as error:
            again = command("train", plugins=config["plugins"], resume=folder.path)
            raise Interrupted(
                "stopped during certification; training and evaluation are saved, make the "
                f"certificate with '{again}'"
            ) from error
        result["metrics"] |= found["metrics"]
        result |= {"certificate": found["certificate"], "message": found["message"]}


@names_plugins
def assist(config: Mapping[str, Any], folder: RunFolder, process_group: ProcessGroup) -> None:
    """Differentiate this process's part of every batch; the first process does the rest.

    Args:
        config, folder: as for `train`; nothing is written.
        process_group: processes that share the batch.
    """
    prepared = _prepared(config, folder, process_group)
    with StopRequest() as stop:
        _fit(prepared, config, folder, stop, process_group)


@dataclass(frozen=True)
class _Prepared:
    """Everything built, loaded and checked, and where training starts."""

    experiment: Experiment
    optimizer: Optimizer | None
    progress: Progress
    gradient: HyperGradient
    logger: SafeLogger


def _prepared(
    config: Mapping[str, Any], folder: RunFolder, process_group: ProcessGroup
) -> _Prepared:
    experiment = build(config)
    task = experiment.task
    task.prepare(["train", "val", "test"] if config["eval"].get("test", True) else ["train", "val"])
    if config["resume"] is not None:
        _require_inputs(folder, config, task)
    logger = Logger()
    if process_group.first and config.get("logger"):
        logger = instantiate(config["logger"], "logger", config["plugins"], Logger)
    optimizer = None
    if experiment.hyper.trains:
        optimizer = build_optimizer(
            config["optim"], config["plugins"], experiment.omega, config["train"]["numerical_lr"]
        )
    progress = Progress()
    if config["resume"] is not None:
        if _has_begun(folder):
            progress = load_last(folder.checkpoints, experiment.omega, optimizer)
            _require_whole_best(folder, progress)
            _require_something_left(folder, config, progress.step)
            log.info("going on after step %d", progress.step)
        else:
            require_weights(folder.path, config)
            log.info("the run was stopped before its first checkpoint: starting from the beginning")
    if config.get("precision") == "fp16" and experiment.device.type != "cuda":
        raise InputError(
            f"precision=fp16 is for CUDA devices, and this is {experiment.device}; use "
            "precision=bf16 or fp32"
        )
    for key, plain in (("precision", "fp32"), ("compile", False)):
        if config.get(key, plain) != plain and experiment.scheme.net is None:
            chosen, usual = f"{config[key]}".lower(), f"{plain}".lower()
            raise InputError(f"{key}={chosen} is about a network, but net=none; use {key}={usual}")
    if config["train"].get("penalty") and experiment.scheme.net is None:
        raise InputError("train.penalty is about a network, but net=none; use train.penalty=0")
    config, experiment = _in_usable_precision(config, experiment, process_group)
    first = process_group.part(_first_sample(experiment, config["train"]["batch"]))
    _require_images(experiment, first)
    require_map_of(experiment, "val")
    gradient = _gradient(
        experiment, optimizer, config, _shared(experiment, first, process_group), process_group
    )
    if experiment.hyper.trains:
        sharing = process_group.count if experiment.device.type == "cpu" else 1
        gradient.prepare(first, free_memory(experiment.device), sharing)
    process_group.largest(0.0)  # nothing is written before every process has passed its checks
    return _Prepared(experiment, optimizer, progress, gradient, SafeLogger(logger))


def _in_usable_precision(
    config: Mapping[str, Any], experiment: Experiment, process_group: ProcessGroup
) -> tuple[Mapping[str, Any], Experiment]:
    """The same, with float32 and a note where bfloat16 would be slow."""
    if config.get("precision") != "bf16" or experiment.device.type != "cpu":
        return config, experiment
    slowdown = process_group.largest(bfloat16_slowdown())
    if slowdown <= SLOW:
        return config, experiment
    note = (
        f"precision=bf16 is not used: this processor takes {slowdown:.1f} times as long for a "
        "convolution in bfloat16 as in float32; the networks train in fp32"
    )
    return {**config, "precision": "fp32"}, replace(experiment, notes=(*experiment.notes, note))


def _require_whole_best(folder: RunFolder, progress: Progress) -> None:
    """Where the best checkpoint is damaged, the best validation from now on counts."""
    try:
        read_checkpoint(folder.checkpoints / BEST)
    except Damaged as error:
        log.warning("%s; the best one from now on takes its place", error)
        progress.best = math.nan


def _require_inputs(folder: RunFolder, config: Mapping[str, Any], task: Task) -> None:
    """A run goes on with what it began with: another input would make another experiment.

    Raises:
        InputError: naming what was exchanged.
    """
    recorded = folder.read_result()
    others = differing(recorded.get("data", {}), task.fingerprints())
    known = recorded.get("weights")
    for key, digest in weights_of(config).items():
        if isinstance(known, Mapping) and known.get(key) != digest:
            others.append(key)
    before = recorded.get("plugins")
    for name, digest in plugin_contents(config["plugins"]).items():
        if isinstance(before, Mapping) and before.get(name, digest) != digest:
            others.append(f"plug-in {name}")
    if others:
        raise InputError(
            f"{folder.path} began with other inputs than are found now ({', '.join(others)}); "
            "put those back, or start a new run with these"
        )


def _has_begun(folder: RunFolder) -> bool:
    """Whether there is, or ought to be, a checkpoint."""
    result = folder.read_result()
    stopped = result.get("status", "running") in ("running", "interrupted")
    return has_last(folder.checkpoints) or not stopped or result.get("steps", 0) > 0


def _require_something_left(folder: RunFolder, config: Mapping[str, Any], done: int) -> None:
    """A run that has had all its steps may lack its evaluation or its certificate.

    Raises:
        InputError: it lacks nothing.
    """
    steps, result = config["train"]["steps"], folder.read_result()
    certified = not config.get("certify") or "certificate" in result
    if steps is not None and done >= steps and "identity" in result and certified:
        certify = command("certify", plugins=config["plugins"], run=folder.path)
        raise InputError(
            f"nothing left to do: {done} of {steps} steps are done; go further with train.steps=N, "
            f"or ask whether it converges with '{certify}'"
        )


def _first_sample(experiment: Experiment, batch: int) -> Sample:
    """The batch of the first step.

    Raises:
        InputError: its unknowns alone do not fit into memory.
    """
    task, free = experiment.task, free_memory(experiment.device)
    one = next(iter(task.samples(range(1), 1)))
    size = sum(part.numel() * part.element_size() for part in one.initial)
    if free is not None and batch * size > free:
        raise InputError(
            f"train.batch={batch}: the unknowns of a batch take {batch * size / 2**30:.3g} GiB, "
            f"more than the {free / 2**30:.3g} GiB of memory that are free; use a smaller one"
        )
    return next(iter(task.samples(range(1), batch)))


def _require_images(experiment: Experiment, sample: Sample) -> None:
    """Refuse a network where the task's unknown is no image."""
    net, shape = experiment.scheme.net, tuple(sample.initial[0].shape)
    if net is not None and len(shape) != 4:
        raise InputError(
            f"{type(net).__name__} works on images (B, C, H, W), but the unknown of this "
            f"task has shape {shape}; use net=none"
        )


def _shared(experiment: Experiment, sample: Sample, process_group: ProcessGroup) -> CpuThreads:
    """The threads that share a batch; one, where a network does not let batches be divided.

    Raises:
        InputError: an operator or a network does not fit the task's problems, or is no map.
    """
    scheme, threads = experiment.scheme, CpuThreads.of(sample)
    if not experiment.hyper.trains:
        require_map(scheme, sample.problem, sample.initial)
        return threads
    observe(scheme, sample)
    if scheme.behaviour.divisible or threads.count * process_group.count == 1:
        return threads
    what = f"in training {scheme.title} {scheme.behaviour}"
    if process_group.count > 1:
        log.info("%s: every device does so on its part of a batch", what)
    else:
        log.info("%s: batches are not divided among threads", what)
    return CpuThreads()


def _described(task: Task) -> dict[str, Any]:
    """What readers of result.json need in order to compare its scores."""
    return {
        "name": task.metric,
        "unit": task.unit,
        "larger_is_better": task.larger_is_better,
        "formats": dict(task.columns),
    }


def _show(task: Task) -> Callable[[float], str]:
    """The validation score as text."""
    layout = task.columns.get(task.metric, ".4g")
    return lambda score: f"{score:{layout}} {task.unit}".strip()


def _gradient(
    experiment: Experiment,
    optimizer: Optimizer | None,
    config: Mapping[str, Any],
    threads: CpuThreads,
    process_group: ProcessGroup,
) -> HyperGradient:
    groups = [] if optimizer is None else optimizer.param_groups
    clock = Profile if config.get("profile") else Untimed
    return HyperGradient(
        experiment.hyper,
        experiment.scheme,
        [p for group in groups for p in group["params"]],
        iterations=config["train"]["iterations"],
        precision=config.get("precision", "fp32"),
        compiled=config.get("compile", False),
        penalty=config["train"].get("penalty", 0.0),
        threads=threads,
        profile=clock(experiment.device),
        seed=(config["seed"], process_group.index),
    )


def _fit(
    prepared: _Prepared,
    config: Mapping[str, Any],
    folder: RunFolder,
    stop: StopRequest,
    process_group: ProcessGroup,
) -> Trainer:
    experiment, progress = prepared.experiment, prepared.progress
    task, settings = experiment.task, config["train"]

    def validate() -> float:
        scores = evaluate(experiment.scheme, task, "val", Settings.of(config["eval"]))
        return mean([row[task.metric] for row in scores.values()])

    console = Console(settings["steps"], progress.step, _show(task), quiet=not process_group.first)
    trainer = Trainer(
        experiment,
        prepared.optimizer,
        settings,
        folder,
        validate,
        console,
        stop,
        progress,
        process_group,
        prepared.gradient,
        prepared.logger,
    )
    prepared.logger.open(folder, config, folder.read_history(), task.metric)
    try:
        trainer.run()
    finally:
        console.close()
    return trainer
