"""The hyper-gradient of a batch: in parts where there are cores, in the memory that there is."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from bmo_cli.errors import BmoError, InputError, OutOfMemory, is_out_of_memory
from bmo_cli.gkm.scheme import GKM
from bmo_cli.hyper.base import HyperOptimizer, Outcome
from bmo_cli.hyper.penalty import expansion
from bmo_cli.nets.execution import Execution
from bmo_cli.nets.mode import fixed_seed, preserved_state, training_mode
from bmo_cli.solver.cost import Cost
from bmo_cli.solver.fixed_point import Status
from bmo_cli.solver.problem import Sample
from bmo_cli.training.threads import CpuThreads
from bmo_cli.training.timer import Profile, Untimed

log = logging.getLogger("bmo")

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def _keep_scale(objective: Tensor) -> Tensor:
    return objective


class HyperGradient:
    """Puts the hyper-gradient of a batch into the parameters' `grad`.

    Args:
        hyper, scheme: what is differentiated.
        parameters: omega, as the optimiser has it.
        iterations: K.
        precision: of networks, a key of `PRECISIONS`.
        compiled: whether networks are compiled, see `compile`.
        penalty: weight of the network's expansion; with one, batches are not divided.
        threads: threads that share a batch.
        profile: clock.
        seed: what the networks' random numbers start from, with the number of the step: a resumed
            run has those of the uninterrupted one.
    """

    def __init__(
        self,
        hyper: HyperOptimizer,
        scheme: GKM,
        parameters: Sequence[Tensor],
        *,
        iterations: int,
        precision: str = "fp32",
        compiled: bool = False,
        penalty: float = 0.0,
        threads: CpuThreads | None = None,
        profile: Profile | None = None,
        seed: Sequence[int] = (0,),
    ) -> None:
        self.hyper, self.scheme, self.parameters = hyper, scheme, parameters
        self.iterations = iterations
        self.execution = Execution(PRECISIONS[precision], compiled)
        self.penalty = penalty
        self.threads = CpuThreads() if threads is None or penalty else threads
        self.profile = Untimed(torch.device("cpu")) if profile is None else profile
        self.seed = tuple(seed)

    def __call__(
        self,
        sample: Sample,
        scale: Callable[[Tensor], Tensor] = _keep_scale,
        step: int = 0,
        cost: Cost | None = None,
    ) -> Outcome:
        """The outcome of a batch; no gradient is written where it is not finite.

        Args:
            sample: the batch.
            scale: of the objective, for precisions in which small gradients vanish.
            step: number of the hyper-training step.
            cost: counts what is computed; None: nothing does.

        Raises:
            InputError: nothing that is learned reaches the loss.
            OutOfMemory: memory ran out, and there is nothing less to keep.
        """
        device = sample.initial[0].device
        while True:
            for p in self.parameters:
                p.grad = None
            try:
                with training_mode(self.scheme), fixed_seed([*self.seed, step], device):
                    return self._differentiate(sample, scale, cost)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            if not self.hyper.reduce_memory():
                raise OutOfMemory(
                    "memory ran out; use hyper.memory=states, a smaller train.batch or smaller "
                    "samples (data.crop)"
                )
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            log.info("memory ran out; keeping less from now on")

    def prepare(self, sample: Sample, free: int | None, sharing: int = 1) -> None:
        """Decide what to keep and compile the networks, before training and without a trace of it.

        Args:
            sample: a batch like those to come.
            free: bytes that may be taken; None: not known.
            sharing: processes that take them at the same time.

        Raises:
            InputError: the hyper-gradient would not fit.
        """
        part, device = self.threads.parts(sample)[0], sample.initial[0].device
        with preserved_state(self.scheme, device):
            self.hyper.plan(self.scheme, part, self.iterations, free, self.threads.count * sharing)
        if self.execution.compiled:
            with preserved_state(self.scheme, device):
                self.warm_up(sample)

    def warm_up(self, sample: Sample) -> None:
        """Compile the networks, or say why they stay as they are written.

        What is compiled cannot be differentiated twice, and needs a compiler: whether it works is
        found out by trying.
        """
        if not self.execution.compiled:
            return
        net = self.scheme.net
        why = "a guided network is not compiled" if net is not None and net.guided else None
        if why is None:
            try:
                self(sample)
            except BmoError:
                raise
            except Exception as error:
                why = next(iter(str(error).splitlines()), type(error).__name__)
            finally:
                for p in self.parameters:
                    p.grad = None
        if why is not None:
            log.info("compile=true is not used: %s", why)
            self.execution = replace(self.execution, compiled=False)

    def _differentiate(
        self, sample: Sample, scale: Callable[[Tensor], Tensor], cost: Cost | None
    ) -> Outcome:
        threads, iterations = self.threads, self.iterations
        scheme = self.scheme.using(execution=self.execution, cost=cost)
        with self.profile.part("forward"):
            outcomes = threads.run(
                lambda part: self.hyper.objective(scheme, part, iterations), threads.parts(sample)
            )
        merged = _merge_outcomes(outcomes)
        if merged.status is Status.NONFINITE or not torch.isfinite(merged.objective):
            return merged
        objectives = [outcome.objective for outcome in outcomes]
        if not all(objective.requires_grad for objective in objectives):
            raise InputError(
                f"no gradient of the loss reaches anything that is learned: {scheme.title} "
                "is cut off from the graph (detach, no_grad, .data, NumPy)"
            )
        if self.penalty:
            objectives[0] = objectives[0] + self.penalty * expansion(
                self.scheme.using(cost=cost), sample, iterations
            )
        with self.profile.part("backward"):
            if threads.count == 1:
                torch.autograd.backward(scale(objectives[0]))
                return merged
            own = {id(p) for p in scheme.parameters()}
            shared = any(id(p) not in own for p in self.parameters)  # parts have the task in common

            def pull(value: Tensor) -> tuple[Tensor | None, ...]:
                return torch.autograd.grad(
                    scale(value), self.parameters, retain_graph=shared, allow_unused=True
                )

            found = threads.run(pull, objectives)
            for p, gradients in zip(self.parameters, zip(*found, strict=True), strict=True):
                there = [g for g in gradients if g is not None]
                p.grad = sum(there[1:], there[0]) / len(found) if there else None
        return merged


def _merge_outcomes(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of a batch from those of its equal parts."""
    objective = torch.stack([outcome.objective.detach() for outcome in outcomes]).mean()
    lost = any(outcome.status is Status.NONFINITE for outcome in outcomes)
    return Outcome(
        objective,
        max(outcome.residual for outcome in outcomes),
        Status.NONFINITE if lost else outcomes[0].status,
        tuple(dict.fromkeys(flag for outcome in outcomes for flag in outcome.flags)),
    )
