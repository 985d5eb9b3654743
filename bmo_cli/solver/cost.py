"""What an iteration costs, counted where it happens."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from bmo_cli.solver.state import State

_COUNTING = threading.Lock()


@dataclass
class Cost:
    """Counters of what is computed, see `GKM.using`.

    Attributes:
        evaluations: of D (as many as of T).
        vjps: vector-Jacobian products with D, one for every time that a gradient was pulled
            back through one evaluation.
    """

    evaluations: int = 0
    vjps: int = 0

    def count(self, Du: State) -> State:
        """D(u) unchanged; counts it now, and every gradient that passes it later."""
        with _COUNTING:
            self.evaluations += 1
        if not any(block.requires_grad for block in Du):
            return Du
        counted: State = _Passage.apply(self, *Du)  # type: ignore[no-untyped-call]
        return counted


class _Passage(torch.autograd.Function):
    """The identity on a state; its backward pass counts."""

    @staticmethod
    def forward(ctx: Any, cost: Cost, *blocks: Tensor) -> State:
        ctx.cost = cost
        return tuple(block.view_as(block) for block in blocks)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        with _COUNTING:
            ctx.cost.vjps += 1
        return (None, *gradients)


class SavedBytes:
    """Context that counts the memory which autograd keeps for the backward pass.

    Attributes:
        total: bytes of distinct storages saved so far.
    """

    def __init__(self) -> None:
        self.total = 0
        self._seen: set[int] = set()
        self._kept: list[Tensor] = []
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def __enter__(self) -> SavedBytes:
        self._hooks.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hooks.__exit__(kind, error, trace)
        self._kept.clear()

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self._kept.append(tensor.detach())  # so that no address is used twice
            self.total += storage.nbytes()
        return tensor.detach()  # a result of the graph itself would keep the graph alive for ever
