"""States: tuples of blocks, and their arithmetic.

Shape legend: B problems in a batch. A state is a tuple of tensors, one per block (u; or u and a
multiplier; ...), each of shape (B, ...). Scalars per problem have shape (B,).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

State = tuple[Tensor, ...]


def step_towards(u: State, v: State, length: float) -> State:
    """u + length * (v - u), block by block; v itself for length 1."""
    if length == 1:
        return v
    return tuple(a + length * (b - a) for a, b in zip(u, v, strict=True))


def subtract(u: State, v: State) -> State:
    """u - v."""
    return tuple(a - b for a, b in zip(u, v, strict=True))


def scale(u: State, factor: float | Tensor) -> State:
    """factor * u; `factor` is a number, or a tensor that broadcasts against every block."""
    return tuple(a * factor for a in u)


def inner(u: State, v: State) -> Tensor:
    """`<u, v>` for each problem, shape (B,)."""
    products = [(a * b).flatten(1).sum(1) for a, b in zip(u, v, strict=True)]
    return torch.stack(products).sum(0)


def detach(u: State) -> State:
    """The same values outside any graph."""
    return tuple(a.detach() for a in u)


def binary_scale(u: State) -> float:
    """The power of two at or below the largest absolute entry of u; 1 for 0 and non-finite u.

    Division by it is exact, and squares of the result neither overflow nor underflow. It is at
    least the smallest normal number, so that its reciprocal is finite.
    """
    largest = max(float(a.abs().max()) for a in u)
    if largest == 0 or not math.isfinite(largest):
        return 1.0
    below = math.ldexp(1.0, math.frexp(largest)[1] - 1)
    return max(below, torch.finfo(u[0].dtype).tiny)
