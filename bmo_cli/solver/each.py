"""The fixed-point loop for a batch whose problems stop independently.

A problem stops when its own residual is small. Its result therefore does not depend on the other
problems of the batch. Once a share of the batch has stopped, the loop continues with the remaining
problems only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bmo_cli.solver.fixed_point import FixedPointMap, Status, step
from bmo_cli.solver.state import State

_SHARE = 0.1  # share of stopped problems at which the remaining ones are bound anew


@dataclass(frozen=True)
class Ends:
    """The states at which the problems stopped.

    Attributes:
        value: the last states; where an iterate became non-finite, those before it.
        status: why the loop ended.
        iterations: evaluations of T that led to `value`, (B,).
        residuals: |D(u) - u|_G / |u|_G at `value`, (B,).
    """

    value: State
    status: Status
    iterations: Tensor
    residuals: Tensor


def iterate_each(
    bind: Callable[[Tensor], FixedPointMap],
    initial: State,
    *,
    iterations: int,
    tolerance: float,
) -> Ends:
    """Iterate T on every problem until its residual is at most `tolerance`.

    Args:
        bind: T at some problems of the batch, given by their indices, (n,).
        initial: u^0 of the batch, or only the blocks that the problems themselves have.
        iterations: largest number of steps, >= 1.
        tolerance: > 0.
    """
    left = torch.arange(len(initial[0]), device=initial[0].device)
    mapping = bind(left)
    u = mapping.lift(initial)
    value = tuple(block.clone() for block in u)
    counts = torch.zeros_like(left)
    residuals = torch.full(left.shape, torch.nan, dtype=u[0].dtype, device=left.device)
    waiting = torch.ones_like(left, dtype=torch.bool)  # problems that are still iterated
    for k in range(iterations + 1):
        Du = mapping.D(u, k)
        current_residuals = mapping.residual(u, Du)
        lost = (
            waiting & ~torch.isfinite(current_residuals) & (k < iterations)
        )  # the last D(u) is not an iterate
        ends = waiting if k == iterations else waiting & ((current_residuals <= tolerance) | lost)
        if ends.any():
            rows = left[ends]
            for whole, block in zip(value, u, strict=True):
                whole[rows] = block[ends]
            counts[rows], residuals[rows] = k, current_residuals[ends]
            waiting = waiting & ~ends
        if lost.any():
            return Ends(value, Status.NONFINITE, counts, residuals)
        if not waiting.any():
            reached = bool((residuals <= tolerance).all())
            status = Status.CONVERGED if reached else Status.ITERATIONS
            return Ends(value, status, counts, residuals)
        if (~waiting).sum() >= _SHARE * len(waiting):
            left = left[waiting]
            u, Du = (tuple(block[waiting] for block in state) for state in (u, Du))
            waiting = waiting[waiting]
            mapping = bind(left)
        u = step(mapping, u, Du, k)
    raise AssertionError("every problem ends at the last iteration")
