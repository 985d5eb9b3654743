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


@dataclass(frozen=True)
class NullSpace:
    """Near-null space of I - dD/du.

    Attributes:
        dimension: number of singular values at most the threshold, the mean of the problems.
        unknowns: n.
    """

    dimension: float
    unknowns: int


def near_null_space(
    mapping: FixedPointMap, u: State, *, k: int = 0, threshold: float = 1e-3
) -> NullSpace:
    """Count the small singular values of I - dD/du, with n vector-Jacobian products.

    Args:
        mapping: D.
        u: state with all its blocks, such as the end of an iteration.
        k: iteration number of D, for schemes that change with it.
        threshold: largest singular value (Euclidean) that counts as 0.

    Raises:
        InputError: n is larger than `MAX_UNKNOWNS`.
    """
    sizes = [block[0].numel() for block in u]
    n = sum(sizes)
    if n > MAX_UNKNOWNS:
        raise InputError(
            f"eval.null_space decomposes an n x n matrix, and a state has n = {n} entries, more "
            f"than {MAX_UNKNOWNS}; use smaller test images (data.eval_crop)"
        )
    moved = tuple(block.detach().requires_grad_() for block in u)
    with torch.enable_grad():
        value = mapping.D(moved, k)
    rows = [
        row
        for block, size in zip(value, sizes, strict=True)
        for row in _jacobian_rows(block, size, moved)
    ]
    jacobian = torch.stack(rows, 1).double()  # (B, n, n)
    values = torch.linalg.svdvals(torch.eye(n, dtype=torch.float64, device=u[0].device) - jacobian)
    return NullSpace(float((values <= threshold).sum(1).double().mean()), n)


def _jacobian_rows(block: Tensor, size: int, u: State) -> list[Tensor]:
    """The derivatives of every entry of a block of D(u), (B, n) each."""
    batch = block.shape[0]
    if not block.requires_grad:  # D does not depend on u there
        return [torch.cat([a.new_zeros(batch, a[0].numel()) for a in u], 1)] * size
    rows = []
    for i in range(size):
        weight = torch.zeros(batch, size, dtype=block.dtype, device=block.device)
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
