"""The hyper-gradient of a batch, divided among threads and adapted to the available memory."""

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
    """Computes the hyper-gradient of a batch in the `grad` of the parameters.

    Args:
        hyper, scheme: hyper-optimiser and scheme.
        parameters: omega, in the order of the optimiser.
        iterations: K.
        precision: of networks, a key of `PRECISIONS`.
        compiled: whether networks are compiled, see `compile`.
        penalty: weight of the penalty on the network's expansion. Above 0, batches are not divided.
        threads: threads that share a batch.
        profile: clock.
        seed: together with the number of the step the seed of the networks' random numbers, so that
            a resumed run is deterministic.
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
        """The outcome of a batch. If it is not finite, no gradient is computed.

        Args:
            sample: the batch.
            scale: scaling of the objective, for precisions in which small gradients vanish.
            step: number of the hyper-training step.
            cost: counts evaluations and vector-Jacobian products; None: nothing is counted.

        Raises:
            InputError: the loss does not depend on any parameter.
            OutOfMemory: memory ran out, although as little as possible is stored.
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
        """Decide what reverse mode stores, and compile the networks. Weights do not change.

        Args:
            sample: a batch of the size of training.
            free: bytes of free memory; None: not known.
            sharing: number of processes that share this memory.

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
        """Compile the networks, or log why they are not compiled.

        A compiled network cannot be differentiated twice, and compilation needs a compiler. Whether
        it works is tested on a batch.
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
        with self.profile.measure("forward"):
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
        with self.profile.measure("backward"):
            if threads.count == 1:
                torch.autograd.backward(scale(objectives[0]))
                return merged
            own = {id(p) for p in scheme.parameters()}
            shared = any(id(p) not in own for p in self.parameters)  # all parts share the task

            def differentiate(value: Tensor) -> tuple[Tensor | None, ...]:
                return torch.autograd.grad(
                    scale(value), self.parameters, retain_graph=shared, allow_unused=True
                )

            by_part = threads.run(differentiate, objectives)
            for p, gradients in zip(self.parameters, zip(*by_part, strict=True), strict=True):
                present = [g for g in gradients if g is not None]
                p.grad = sum(present[1:], present[0]) / len(by_part) if present else None
        return merged


def _merge_outcomes(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of a batch, merged from the outcomes of its equal parts."""
    objective = torch.stack([outcome.objective.detach() for outcome in outcomes]).mean()
    lost = any(outcome.status is Status.NONFINITE for outcome in outcomes)
    return Outcome(
        objective,
        max(outcome.residual for outcome in outcomes),
        Status.NONFINITE if lost else outcomes[0].status,
        tuple(dict.fromkeys(flag for outcome in outcomes for flag in outcome.flags)),
    )
