"""Prepare a training run: build, load and check everything. Nothing is written."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace

from torch.optim import Optimizer

from bmo_cli.config.commands import format_command
from bmo_cli.config.schema import Config, to_plain
from bmo_cli.config.snapshot import require_weights
from bmo_cli.errors import InputError
from bmo_cli.experiment.behaviour import observe_training_mode, require_map, require_map_on_split
from bmo_cli.experiment.build import Experiment, build, instantiate
from bmo_cli.experiment.checkpoint import (
    BEST,
    DamagedCheckpoint,
    Progress,
    has_last,
    load_last,
    read_checkpoint,
)
from bmo_cli.experiment.inputs import hash_weights, list_changed_inputs
from bmo_cli.experiment.plugins import hash_plugins
from bmo_cli.hyper.memory import free_memory
from bmo_cli.loggers.logger import Logger, SafeLogger
from bmo_cli.results.result import RunResult
from bmo_cli.results.run import TrainSpec
from bmo_cli.results.run_folder import RunFolder
from bmo_cli.solver.problem import Sample
from bmo_cli.tasks.task import Task
from bmo_cli.training.distributed import ProcessGroup
from bmo_cli.training.hypergradient import HyperGradient
from bmo_cli.training.optimizer import build_optimizer
from bmo_cli.training.precision import SLOW, bfloat16_slowdown
from bmo_cli.training.threads import CpuThreads
from bmo_cli.training.timer import Profile, Untimed

log = logging.getLogger("bmo")


@dataclass(frozen=True)
class TrainingSetup:
    """The objects of a training run, and where training starts.

    Attributes:
        experiment: on its device.
        optimizer: over omega; None for a hyper-optimiser that does not train.
        progress: empty, or that of the checkpoint from which the run resumes.
        gradient: computes hyper-gradients of batches.
        logger: receives every row of the history.
        process_group: processes that share the batch.
    """

    experiment: Experiment
    optimizer: Optimizer | None
    progress: Progress
    gradient: HyperGradient
    logger: SafeLogger
    process_group: ProcessGroup


def prepare(spec: TrainSpec, process_group: ProcessGroup) -> TrainingSetup:
    """Build a run, and check everything that can be checked before training.

    Args:
        spec: of the run.
        process_group: processes that share the batch, including this one.

    Raises:
        InputError: an input cannot be used, or parts do not fit together.
    """
    config, folder = spec.config, spec.folder
    experiment = build(config)
    task = experiment.task
    task.prepare(["train", "val", "test"] if config.eval.test else ["train", "val"])
    recorded = folder.read_result() if config.resume is not None else None
    if recorded is not None:
        _require_same_inputs(recorded, spec, task)
    logger = Logger()
    if process_group.first and config.logger is not None:
        logger = instantiate(config.logger, "logger", config.plugins, Logger)
    optimizer = None
    if experiment.hyper.trains:
        optimizer = build_optimizer(
            config.optim, config.plugins, experiment.omega, config.train.numerical_lr_factor
        )
    progress = Progress()
    if config.resume is not None:
        progress = _resume(spec, recorded, experiment, optimizer)
    _require_network_where_needed(config, experiment)
    config, experiment = _avoid_slow_bfloat16(config, experiment, process_group)
    first = process_group.select_part(_draw_first_sample(experiment, config.train.batch))
    _require_images(experiment, first)
    require_map_on_split(experiment, "val")
    threads = _choose_threads(experiment, first, process_group)
    gradient = _build_gradient(experiment, optimizer, config, threads, process_group)
    if experiment.hyper.trains:
        sharing = process_group.count if experiment.device.type == "cpu" else 1
        gradient.prepare(first, free_memory(experiment.device), sharing)
    process_group.maximum(0.0)  # nothing is written before every process has passed its checks
    return TrainingSetup(
        experiment, optimizer, progress, gradient, SafeLogger(logger), process_group
    )


def _resume(
    spec: TrainSpec, recorded: RunResult | None, experiment: Experiment, optimizer: Optimizer | None
) -> Progress:
    """Load the checkpoint from which a run resumes. A run without one starts from the beginning."""
    folder = spec.folder
    if not _has_begun(folder, recorded):
        require_weights(folder.path, to_plain(spec.config))
        log.info("the run was stopped before its first checkpoint: starting from the beginning")
        return Progress()
    progress = load_last(folder.checkpoints, experiment.omega, optimizer)
    _check_best(folder, progress)
    _require_something_left(spec, recorded, progress.step)
    log.info("going on after step %d", progress.step)
    return progress


def _has_begun(folder: RunFolder, recorded: RunResult | None) -> bool:
    """Whether there is a checkpoint, or the result says that there must be one."""
    if has_last(folder.checkpoints):
        return True
    if recorded is None:
        return False
    return recorded.status not in ("running", "interrupted") or (recorded.steps or 0) > 0


def _require_something_left(spec: TrainSpec, recorded: RunResult | None, done: int) -> None:
    """Refuse to resume a finished run. A run with all steps may still lack its evaluation.

    Raises:
        InputError: steps, evaluation and the requested certificate are done.
    """
    steps = spec.config.train.steps
    if recorded is None or recorded.identity is None or steps is None or done < steps:
        return
    if recorded.certificate is not None or not spec.config.certify:
        certify = format_command("certify", plugins=spec.config.plugins, run=spec.path)
        raise InputError(
            f"nothing left to do: {done} of {steps} steps are done; go further with train.steps=N, "
            f"or ask whether it converges with '{certify}'"
        )


def _check_best(folder: RunFolder, progress: Progress) -> None:
    """Forget the best score if its checkpoint is damaged, so that a new one is written."""
    try:
        read_checkpoint(folder.checkpoints / BEST)
    except DamagedCheckpoint as error:
        log.warning("%s; the best one from now on takes its place", error)
        progress.best = math.nan


def _require_same_inputs(recorded: RunResult, spec: TrainSpec, task: Task) -> None:
    """Require the inputs with which the run started: others would make another experiment.

    Raises:
        InputError: inputs differ; the message names them.
    """
    others = list_changed_inputs(recorded.data or {}, task.fingerprints())
    if recorded.weights is not None:
        for key, digest in hash_weights(to_plain(spec.config)).items():
            if recorded.weights.get(key) != digest:
                others.append(key)
    before = recorded.plugins or {}
    for name, digest in hash_plugins(spec.config.plugins).items():
        if before.get(name, digest) != digest:
            others.append(f"plug-in {name}")
    if others:
        raise InputError(
            f"{spec.path} began with other inputs than are found now ({', '.join(others)}); "
            "put those back, or start a new run with these"
        )


def _require_network_where_needed(config: Config, experiment: Experiment) -> None:
    """Refuse keys about networks where there is no network, and fp16 without CUDA."""
    if config.precision == "fp16" and experiment.device.type != "cuda":
        raise InputError(
            f"precision=fp16 is for CUDA devices, and this is {experiment.device}; use "
            "precision=bf16 or fp32"
        )
    if experiment.scheme.net is not None:
        return
    if config.precision != "fp32":
        chosen = config.precision
        raise InputError(f"precision={chosen} is about a network, but net=none; use precision=fp32")
    if config.compile:
        raise InputError("compile=true is about a network, but net=none; use compile=false")
    if config.train.penalty:
        raise InputError("train.penalty is about a network, but net=none; use train.penalty=0")


def _avoid_slow_bfloat16(
    config: Config, experiment: Experiment, process_group: ProcessGroup
) -> tuple[Config, Experiment]:
    """Configuration and experiment, with float32 and a note where bfloat16 would be slow."""
    if config.precision != "bf16" or experiment.device.type != "cpu":
        return config, experiment
    slowdown = process_group.maximum(bfloat16_slowdown())
    if slowdown <= SLOW:
        return config, experiment
    note = (
        f"precision=bf16 is not used: this processor takes {slowdown:.1f} times as long for a "
        "convolution in bfloat16 as in float32; the networks train in fp32"
    )
    return replace(config, precision="fp32"), replace(experiment, notes=(*experiment.notes, note))


def _draw_first_sample(experiment: Experiment, batch: int) -> Sample:
    """The batch of the first step.

    Raises:
        InputError: the unknowns of a batch do not fit into memory.
    """
    task, free = experiment.task, free_memory(experiment.device)
    single = next(iter(task.samples(range(1), 1)))
    size = sum(block.numel() * block.element_size() for block in single.initial)
    if free is not None and batch * size > free:
        raise InputError(
            f"train.batch={batch}: the unknowns of a batch take {batch * size / 2**30:.3g} GiB, "
            f"more than the {free / 2**30:.3g} GiB of memory that are free; use a smaller one"
        )
    return next(iter(task.samples(range(1), batch)))


def _require_images(experiment: Experiment, sample: Sample) -> None:
    """Refuse a network if the unknown of the task is no image."""
    net, shape = experiment.scheme.net, tuple(sample.initial[0].shape)
    if net is not None and len(shape) != 4:
        raise InputError(
            f"{type(net).__name__} works on images (B, C, H, W), but the unknown of this "
            f"task has shape {shape}; use net=none"
        )


def _choose_threads(
    experiment: Experiment, sample: Sample, process_group: ProcessGroup
) -> CpuThreads:
    """The threads that share a batch; one thread if the network does not allow divided batches.

    Raises:
        InputError: an operator or a network does not fit the task's problems, or is no map.
    """
    scheme, threads = experiment.scheme, CpuThreads.of(sample)
    if not experiment.hyper.trains:
        require_map(scheme, sample.problem, sample.initial)
        return threads
    observe_training_mode(scheme, sample)
    if scheme.behaviour.divisible or threads.count * process_group.count == 1:
        return threads
    what = f"in training {scheme.title} {scheme.behaviour}"
    if process_group.count > 1:
        log.info("%s: every device does so on its part of a batch", what)
    else:
        log.info("%s: batches are not divided among threads", what)
    return CpuThreads()


def _build_gradient(
    experiment: Experiment,
    optimizer: Optimizer | None,
    config: Config,
    threads: CpuThreads,
    process_group: ProcessGroup,
) -> HyperGradient:
    groups = [] if optimizer is None else optimizer.param_groups
    clock = Profile if config.profile else Untimed
    return HyperGradient(
        experiment.hyper,
        experiment.scheme,
        [p for group in groups for p in group["params"]],
        iterations=config.train.iterations,
        precision=config.precision,
        compiled=config.compile,
        penalty=config.train.penalty,
        threads=threads,
        profile=clock(experiment.device),
        seed=(config.seed, process_group.index),
    )
