"""Truncated reverse mode: only the last iterations are differentiated."""

from __future__ import annotations

import torch

from bmo_cli.config.checks import Count, Index, Memory, Positive, checked
from bmo_cli.gkm.scheme import GKM
from bmo_cli.hyper.base import Outcome
from bmo_cli.hyper.reverse import ReverseMode
from bmo_cli.solver.anderson import Anderson
from bmo_cli.solver.fixed_point import Status, iterate
from bmo_cli.solver.problem import Sample


@checked
class Truncated(ReverseMode):
    """K iterations of T, of which the last `last` are in the graph (Shaban et al., AISTATS 2019).

    The first K - M iterations may be accelerated, so that the last ones are near a fixed point.

    Exact for last >= K. For last = 1 it is the Jacobian-free one-step gradient (Fung et al., AAAI
    2022; Bolte et al., NeurIPS 2023): cheap, and biased by the rate of contraction.

    Args:
        last: M, number of differentiated iterations.
        anderson: memory of Anderson acceleration of the first K - M iterations; 0: none. A scheme
            that changes with the iteration is not accelerated.
        memory, memory_mib: see `ReverseMode`.
    """

    def __init__(
        self,
        *,
        last: Count = 1,
        anderson: Index = 0,
        memory: Memory = "auto",
        memory_mib: Positive | None = None,
    ) -> None:
        super().__init__(memory, memory_mib)
        self.last, self.anderson = last, anderson

    def objective(self, scheme: GKM, sample: Sample, iterations: int) -> Outcome:
        mapping = scheme.bind(sample.problem)
        loss = mapping.loss_on_state(sample.loss)
        u, first = sample.initial, max(iterations - self.last, 0)
        if first:
            acceleration = None
            if self.anderson and scheme.stationary:
                acceleration = Anderson(mapping.metric, memory=self.anderson, iterations=first)
            with torch.no_grad():
                begun = iterate(
                    mapping, u, iterations=first, acceleration=acceleration, watch="last"
                )
            if begun.status is Status.NONFINITE:
                return Outcome(torch.tensor(torch.nan), begun.residuals[-1], begun.status)
            u = begun.value
        ended = self._iterate(scheme, mapping, u, iterations - first, start=first)
        objective = loss.value(ended.value).mean() / loss.size
        return Outcome(objective, ended.residuals[-1], ended.status)

    def differentiated_iterations(self, iterations: int) -> int:
        return min(self.last, iterations)

    def check(self, scheme: GKM) -> tuple[str, ...]:
        stages, notes = len(scheme.stages), []
        if stages > self.last:
            notes.append(
                f"of the {stages} sets of weights only the last {self.last} are differentiated"
            )
        if self.anderson and not scheme.stationary:
            notes.append("hyper.anderson is not used: this scheme changes with the iteration")
        return tuple(notes)

    def accuracy(self, iterations: int) -> float | None:
        return super().accuracy(iterations) if self.last >= iterations else None
