"""The near-null space of I - dD/du at a fixed point: how far Fix T is from a single point.

Where D is differentiable at u = D(u), directions v with (dD/du) v = v are those in which, to first
order, further fixed points lie. Singular values of I - dD/du near 0 belong to directions in which T
hardly moves: K iterations leave them about where they started.

Shape legend: B problems, n entries of a state.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bmo_cli.errors import InputError
from bmo_cli.solver.fixed_point import FixedPointMap
from bmo_cli.solver.state import State

MAX_UNKNOWNS = 4096
"""entries of a state up to which the n x n matrix is computed"""
THRESHOLD = 1e-3
"""largest singular value (Euclidean) that counts as 0"""


@dataclass(frozen=True)
class NullSpace:
    """Near-null space of I - dD/du.

    Attributes:
        dimension: number of singular values at most the threshold, the mean of the problems.
        unknowns: n.
    """

    dimension: float
    unknowns: int


def near_null_space(mapping: FixedPointMap, u: State) -> NullSpace:
    """Count the small singular values of I - dD/du, with n vector-Jacobian products.

    The whole state counts, with its multipliers and auxiliary variables.

    Args:
        mapping: D, the same in every iteration.
        u: a fixed point with all its blocks.

    Raises:
        InputError: n is larger than `MAX_UNKNOWNS`, D is cut off from the graph, or its derivative
            is not finite.
    """
    sizes = require_few_unknowns(u)
    moved = tuple(block.detach().requires_grad_() for block in u)
    with torch.enable_grad():
        value = mapping.D(moved, 0)
    _require_graph_or_constant(mapping, u, value)
    rows = [
        row
        for block, size in zip(value, sizes, strict=True)
        for row in _jacobian_rows(block, size, moved)
    ]
    jacobian = torch.stack(rows, 1).cpu().double()  # (B, n, n)
    if not torch.isfinite(jacobian).all():
        raise InputError("eval.null_space: the derivative of D is not finite where T ends")
    identity = torch.eye(sum(sizes), dtype=torch.float64)
    small = torch.linalg.svdvals(identity - jacobian) <= THRESHOLD
    return NullSpace(float(small.sum(1).double().mean()), sum(sizes))


def _require_graph_or_constant(mapping: FixedPointMap, u: State, value: State) -> None:
    """Refuse blocks of D(u) that depend on u outside of the graph; others are constant."""
    with torch.no_grad():
        elsewhere = mapping.D(tuple(1.1 * block + 0.1 for block in u), 0)
    for block, other in zip(value, elsewhere, strict=True):
        if not block.requires_grad and not torch.equal(block, other):
            raise InputError(
                "eval.null_space needs the derivative of D, which is cut off from the graph "
                "(detach, no_grad, .data, NumPy)"
            )


def require_few_unknowns(u: State) -> list[int]:
    """The entries of every block of a state.

    Raises:
        InputError: they are more than `MAX_UNKNOWNS` together.
    """
    sizes = [block[0].numel() for block in u]
    if sum(sizes) > MAX_UNKNOWNS:
        raise InputError(
            f"eval.null_space decomposes an n x n matrix, and a state has n = {sum(sizes)} "
            f"entries, more than {MAX_UNKNOWNS}; use smaller test images (data.eval_crop)"
        )
    return sizes


def _jacobian_rows(block: Tensor, size: int, u: State) -> list[Tensor]:
    """The derivatives of every entry of a block of D(u), (B, n) each."""
    if not block.requires_grad:
        return [torch.cat([torch.zeros_like(a).flatten(1) for a in u], 1)] * size
    rows = []
    for i in range(size):
        weight = torch.zeros(len(block), size, dtype=block.dtype, device=block.device)
        weight[:, i] = 1
        pulled = torch.autograd.grad(
            block,
            u,
            weight.reshape(block.shape),
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        rows.append(torch.cat([a.flatten(1) for a in pulled], 1))
    return rows
