"""What an iteration costs, counted where it happens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bmo_cli.solver.state import State


@dataclass
class Cost:
    """Counters of one scheme.

    Attributes:
        evaluations: of D (as many as of T).
        products: vector-Jacobian products with D, one for every time that a gradient was pulled
            back through one evaluation.
    """

    evaluations: int = 0
    products: int = 0

    def count(self, image: State) -> State:
        """D(u) unchanged; counts it now, and every gradient that passes it later."""
        self.evaluations += 1
        if not any(block.requires_grad for block in image):
            return image
        counted: State = _Passage.apply(self, *image)  # type: ignore[no-untyped-call]
        return counted


class _Passage(torch.autograd.Function):
    """The identity on a state; its backward pass counts."""

    @staticmethod
    def forward(ctx: Any, cost: Cost, *blocks: Tensor) -> State:
        ctx.cost = cost
        return tuple(block.view_as(block) for block in blocks)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.cost.products += 1
        return (None, *gradients)
