"""Reverse mode, which hyper-optimisers that differentiate through iterations share.

How much of the graph they keep trades time for memory. The gradient is the same.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bmo_cli.config.checks import Memory
from bmo_cli.errors import InputError
from bmo_cli.gkm.scheme import GKM
from bmo_cli.hyper.base import HyperOptimizer
from bmo_cli.hyper.memory import MIB, free_memory, in_words
from bmo_cli.nets.mode import preserved_state
from bmo_cli.solver.cost import LiveBytes, SavedBytes
from bmo_cli.solver.fixed_point import FixedPointMap, Solution, UpdateRule, iterate
from bmo_cli.solver.problem import Loss, Sample
from bmo_cli.solver.recompute import iterate_lean
from bmo_cli.solver.state import State

log = logging.getLogger("bmo")

_PACKING = 1.6  # factor on segments, which are freed and allocated again: the largest measured one
_WORKING = 1.5  # memory of gradients, in graphs of an iteration: the largest measured one
_SHARE = 0.8  # share of the free memory that is used


@dataclass(frozen=True)
class Need:
    """Bytes that a hyper-gradient takes.

    Attributes:
        state: bytes of one iterate.
        iteration: bytes of the graph of one iteration.
        working: bytes of its backward pass, and of everything that exists once.
    """

    state: int
    iteration: int
    working: int

    def for_parts(self, parts: int) -> Need:
        """The need of several parts at the same time."""
        return Need(parts * self.state, parts * self.iteration, parts * self.working)

    def total(self, iterations: int, segment: int) -> int:
        """Bytes where every `segment`-th iterate is kept; at `iterations`: the whole graph."""
        states = math.ceil(iterations / segment) - 1
        graphs = self.iteration * (_PACKING * segment if segment < iterations else iterations)
        return math.ceil(states * self.state + graphs + self.working)

    def longest_segment(self, iterations: int, budget: float) -> int | None:
        """The longest segment that fits, which repeats the fewest iterations; None: none fits.

        With ceil(K / m) <= K / m + 1, m is at most the larger root of
        graph m^2 - left m + state K = 0.
        """
        if self.total(iterations, iterations) <= budget:
            return iterations
        left = budget - self.working
        graph = max(_PACKING * self.iteration, 1)
        discriminant = left**2 - 4 * graph * self.state * iterations
        root = (left + math.sqrt(max(discriminant, 0.0))) / (2 * graph)
        near = (min(int(root) + 1, iterations), int(root), 1)
        return next((m for m in near if m >= 1 and self.total(iterations, m) <= budget), None)


class ReverseMode(HyperOptimizer):
    """Base of methods that differentiate through the iteration.

    Args:
        memory: `full` keeps the graph of every iteration. `states` keeps only the iterates, and
            repeats each iteration in the backward sweep. `segments` keeps every m-th iterate, m the
            square root of K. `auto` uses the longest segments that fit.
        memory_mib: MiB that `auto` may use; None: 0.8 of the free memory.
    """

    def __init__(self, memory: Memory = "auto", memory_mib: float | None = None) -> None:
        self.memory, self.memory_mib = memory, memory_mib
        self._segments: dict[tuple[object, ...], int] = {}
        self._repeats = True

    def plan(
        self, scheme: GKM, sample: Sample, iterations: int, free: int | None, parts: int = 1
    ) -> None:
        with SavedBytes() as bound:
            mapping = scheme.bind(sample.problem)
        update = self._update_rule(mapping, mapping.loss_on_state(sample.loss))
        kept = self.differentiated_iterations(iterations)
        need = measure_need(mapping, sample.initial, update, scheme.parameters())
        need = replace(need, working=need.working + bound.total).for_parts(parts)
        key = _key(kept, mapping.lift(sample.initial))
        self._segments[key] = self._choose_segment(scheme, need, kept, free)

    def reduce_memory(self) -> bool:
        if (
            not self._repeats
            or self.memory != "auto"
            or max(self._segments.values(), default=1) == 1
        ):
            return False
        self._segments = {key: max(1, m // 2) for key, m in self._segments.items()}
        return True

    def _update_rule(self, mapping: FixedPointMap, loss: Loss) -> UpdateRule | None:
        """Computes u^{k+1} from u^k and T(u^k); None: u^{k+1} = T(u^k)."""
        return None

    def _iterate(
        self,
        scheme: GKM,
        mapping: FixedPointMap,
        initial: State,
        iterations: int,
        *,
        update: UpdateRule | None = None,
        start: int = 0,
    ) -> Solution:
        """`iterate` with the segments that were planned; without a plan they are chosen now."""
        initial = mapping.lift(initial)
        key = _key(iterations, initial)
        if key not in self._segments and torch.is_grad_enabled():
            device = initial[0].device
            with preserved_state(scheme, device):
                need = measure_need(mapping, initial, update, scheme.parameters())
            self._segments[key] = self._choose_segment(
                scheme, need, iterations, free_memory(device)
            )
        return iterate_lean(
            mapping,
            initial,
            iterations=iterations,
            segment=self._segments.get(key, iterations),
            parameters=scheme.parameters(),
            update=update,
            start=start,
        )

    def _choose_segment(self, scheme: GKM, need: Need, iterations: int, free: int | None) -> int:
        """m, the number of iterations whose graph exists at a time.

        Raises:
            InputError: the requested mode does not fit, or none fits; or iterations would be
                repeated that give other values each time.
        """
        self._repeats = scheme.behaviour.repeatable
        segment = self._fitting_segment(need, iterations, free)
        if self._repeats or segment == iterations:
            return segment
        takes = in_words(need.total(iterations, iterations))
        raise InputError(
            f"in training {scheme.title} {scheme.behaviour}, so that iterations cannot be "
            f"repeated, as hyper.memory={self.memory} would do; use hyper.memory=full, which takes "
            f"about {takes}, or hyper=truncated"
        )

    def _fitting_segment(self, need: Need, iterations: int, free: int | None) -> int:
        """m, as the memory allows.

        Raises:
            InputError: the requested mode does not fit, or none fits.
        """
        wanted = {
            "full": iterations,
            "segments": math.ceil(math.sqrt(iterations)),
            "states": 1,
        }.get(self.memory)
        budget = math.inf if free is None else free
        if wanted is None:
            given = self.memory_mib
            budget = _SHARE * budget if given is None else min(given * MIB, budget)
        segment = need.longest_segment(iterations, budget) if wanted is None else wanted
        if segment is not None and need.total(iterations, segment) <= budget:
            if wanted is None and segment < iterations and self._repeats:
                _log_segments(need, iterations, segment, budget)
            return segment
        lean = need.total(iterations, 1)
        takes = f"train.iterations={iterations} needs about "
        smaller = "a smaller train.batch, smaller samples (data.crop) or a smaller network"
        if wanted is not None and lean <= budget:
            raise InputError(
                f"{takes}{in_words(need.total(iterations, wanted))} for the hyper-gradient with "
                f"hyper.memory={self.memory}, and {in_words(budget)} are free; use "
                f"hyper.memory=auto (states: {in_words(lean)}), hyper=truncated, or {smaller}"
            )
        if free is None or lean <= _SHARE * free:
            raise InputError(
                f"hyper.memory_mib={self.memory_mib:g} is too small: {takes}{in_words(lean)} where "
                f"nothing but the iterates is kept; use hyper.memory_mib={math.ceil(lean / MIB)}, "
                f"or {smaller}"
            )
        raise InputError(
            f"{takes}{in_words(lean)} for the hyper-gradient where nothing but the iterates is "
            f"kept, and {in_words(free)} are free; use hyper=implicit, hyper=truncated, or "
            f"{smaller}"
        )


def _log_segments(need: Need, iterations: int, segment: int, budget: float) -> None:
    log.info(
        "memory: the graph of %d iterations takes %s, and there are %s; %s, and what lies between "
        "is repeated in the backward sweep (%s)",
        iterations,
        in_words(need.total(iterations, iterations)),
        in_words(budget),
        "the iterates alone are kept" if segment == 1 else f"every {segment}th iterate is kept",
        in_words(need.total(iterations, segment)),
    )


def measure_need(
    mapping: FixedPointMap,
    initial: State,
    update: UpdateRule | None,
    parameters: Iterable[Tensor],
) -> Need:
    """Memory that the second of two iterations adds. The first also saves what all share.

    Args:
        mapping: D and G at the problem.
        initial: u^0.
        update: see `iterate`.
        parameters: learned, for the backward pass of the second iteration.
    """
    with torch.enable_grad(), SavedBytes() as saved:
        u = tuple(block.detach().requires_grad_() for block in mapping.lift(initial))
        between = iterate(mapping, u, iterations=1, update=update).value
        first = saved.total
        end = iterate(mapping, between, iterations=1, update=update, start=1).value
        iteration = saved.total - first
    backward = _measure_backward(end, (*between, *parameters))
    shared = max(first - iteration, 0)
    working = shared + max(math.ceil(_WORKING * iteration), backward)
    return Need(sum(_size(block) for block in u), iteration, working)


def _measure_backward(end: State, inputs: Iterable[Tensor]) -> int:
    """Bytes that the backward pass from `end` to `inputs` holds at a time, its results included."""
    outputs = [block for block in end if block.requires_grad]
    wanted = [value for value in inputs if value.requires_grad]
    if not outputs or not wanted:
        return 0
    with LiveBytes() as live:
        torch.autograd.grad(
            outputs,
            wanted,
            [torch.ones_like(block) for block in outputs],
            allow_unused=True,
            retain_graph=True,  # the iterations to come share a part of it
        )
    peak: int = live.peak
    return peak


def _key(iterations: int, u: State) -> tuple[object, ...]:
    return (iterations, *((block.shape, block.dtype, block.device) for block in u))


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
