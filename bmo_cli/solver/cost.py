"""Cost of a computation: evaluations of D, vector-Jacobian products, saved bytes."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bmo_cli.solver.state import State

_COUNTING = threading.Lock()


@dataclass
class Cost:
    """Counters of the evaluations of a scheme, see `GKM.using`.

    Attributes:
        evaluations: number of evaluations of D, which equals that of T.
        vjps: number of vector-Jacobian products with D. Each backward pass through one evaluation
            counts as one.
    """

    evaluations: int = 0
    vjps: int = 0

    def count(self, Du: State) -> State:
        """Return D(u) unchanged; count it now, and each backward pass through it later."""
        with _COUNTING:
            self.evaluations += 1
        if not any(block.requires_grad for block in Du):
            return Du
        counted: State = _CountedIdentity.apply(self, *Du)  # type: ignore[no-untyped-call]
        return counted


class _CountedIdentity(torch.autograd.Function):
    """The identity on a state. Its backward pass increments the counter."""

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
    """Context that counts the bytes which autograd saves for the backward pass.

    Attributes:
        total: bytes of all distinct storages that were saved so far.
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
            self._kept.append(tensor.detach())  # keeps its address from being used again
            self.total += storage.nbytes()
        return tensor.detach()  # an output of the graph would keep the graph alive


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context that follows the bytes of the tensors that are made in it and still exist.

    It sees what a backward pass holds for a while and autograd does not save.

    Attributes:
        peak: largest number of bytes at a time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._now = 0
        self._known: dict[int, weakref.ref[object]] = {}

    def __torch_dispatch__(  # type: ignore[no-untyped-def]
        self, function, types, arguments=(), keywords=None
    ):
        out = function(*arguments, **(keywords or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._follow(tensor.untyped_storage())
        return out

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage.data_ptr(), storage.nbytes()
        if key in self._known or size == 0:
            return

        def end(_: object) -> None:
            if self._known.pop(key, None) is not None:
                self._now -= size

        self._known[key] = weakref.ref(storage, end)
        self._now += size
        self.peak = max(self.peak, self._now)
