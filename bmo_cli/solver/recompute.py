"""Checkpointed reverse mode through the iteration: it keeps iterates instead of graphs.

The loop runs outside any graph and keeps every m-th iterate. The backward sweep visits the segments
between them from the last to the first. It computes a segment again from its first iterate, now
with the graph, and pulls the cotangent back through it:

    memory  K / m iterates + m graphs of an iteration,     time  one more evaluation of D each

(Griewank & Walther, Evaluating Derivatives, 2008, chapter 12). The arithmetic equals that of the
loop, and so does the gradient. The graph of the last segment is kept from the start, because the
backward sweep needs it first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bmo_cli.solver.fixed_point import FixedPointMap, Solution, Status, UpdateRule, iterate, step
from bmo_cli.solver.state import State, detach


def iterate_lean(
    mapping: FixedPointMap,
    initial: State,
    *,
    iterations: int,
    segment: int,
    parameters: Iterable[Tensor] = (),
    update: UpdateRule | None = None,
    start: int = 0,
) -> Solution:
    """`fixed_point.iterate` with `watch="last"`, in less memory; differentiable once.

    Args:
        mapping, initial, iterations, start: as in `iterate`.
        segment: m, number of iterations whose graph exists at a time, >= 1.
        parameters: leaves that iterations may depend on. Those of the last segment are found in its
            graph; weights that only earlier iterations use must be given.
        update: as in `iterate`. It must not keep a memory, because iterations are repeated.
    """
    if segment >= iterations or not torch.is_grad_enabled():
        return iterate(
            mapping, initial, iterations=iterations, update=update, start=start, watch="last"
        )
    stop = start + iterations
    starts = sorted({start, *range(stop - segment, start, -segment)})  # the first may be shorter
    first = mapping.lift(initial)
    # One allocation: many small ones between temporary tensors would fragment the memory.
    kept = tuple(block.new_empty((len(starts), *block.shape)) for block in first)
    u = detach(first)
    with torch.no_grad():
        for i, (begin_at, end_at) in enumerate(itertools.pairwise([*starts, starts[-1]])):
            for whole, block in zip(kept, u, strict=True):
                whole[i] = block
            u = _run(mapping, update, u, range(begin_at, end_at))
    begin = _leaves(u)
    last = iterate(
        mapping, begin, iterations=segment, update=update, start=starts[-1], watch="last"
    )
    if last.status is Status.NONFINITE:
        return last
    known = {id(p): p for p in (*_variables(last.value), *parameters) if p.requires_grad}
    omega = [p for p in known.values() if all(p is not block for block in begin)]
    sweep = _Sweep(mapping, update, [*starts, stop], _Graph(begin, last.value), omega)
    value: State = _Recomputed.apply(  # type: ignore[no-untyped-call]
        sweep, kept, *first, *omega
    )
    return Solution(value, last.status, iterations, last.residuals)


@dataclass(frozen=True)
class _Graph:
    """A segment with its graph: the leaves at its beginning and the states at its end."""

    begin: State
    end: State


@dataclass
class _Sweep:
    """The data of the backward sweep.

    Attributes:
        mapping, update: of the iteration.
        bounds: numbers of the iterations with which segments begin, and of the one after the last.
        last: graph of the last segment; None once it was used.
        omega: leaves that iterations depend on.
    """

    mapping: FixedPointMap
    update: UpdateRule | None
    bounds: list[int]
    last: _Graph | None
    omega: list[Tensor]

    def pull(
        self, kept: State, cotangent: State, *, to_first: bool
    ) -> tuple[State | None, list[Tensor | None]]:
        """Gradients with respect to u^0, if `to_first`, and to omega.

        Args:
            kept: the states with which segments begin, blocks (number of segments, B, ...).
            cotangent: of u^K.
            to_first: whether u^0 depends on anything.
        """
        total: list[Tensor | None] = [None] * len(self.omega)
        for i in reversed(range(len(kept[0]))):
            wanted, state = i > 0 or to_first, tuple(whole[i] for whole in kept)
            graph, self.last = self.last or self._graph(i, state, wanted), None
            blocks = graph.begin if wanted else ()
            pulled = _pull(graph.end, (*blocks, *self.omega), cotangent)
            del graph
            for j, gradient in enumerate(pulled[len(blocks) :]):
                total[j] = _add(total[j], gradient)
            if not wanted:
                return None, total
            cotangent = tuple(
                torch.zeros_like(block) if gradient is None else gradient
                for block, gradient in zip(state, pulled, strict=False)
            )
        return cotangent, total

    def _graph(self, i: int, state: State, wanted: bool) -> _Graph:
        """Segment number i, computed again with its graph."""
        begin = _leaves(state) if wanted else state
        numbers = range(self.bounds[i], self.bounds[i + 1])
        with torch.enable_grad():
            return _Graph(begin, _run(self.mapping, self.update, begin, numbers))


class _Recomputed(torch.autograd.Function):
    """u^K as a function of u^0 and omega; its backward pass is the sweep."""

    @staticmethod
    def forward(ctx: Any, sweep: _Sweep, kept: State, *tensors: Tensor) -> State:
        ctx.sweep = sweep
        ctx.save_for_backward(*kept)
        assert sweep.last is not None
        return tuple(block.detach().view_as(block) for block in sweep.last.end)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *cotangent: Tensor) -> tuple[Any, ...]:
        blocks = len(cotangent)
        to_first = any(ctx.needs_input_grad[2 : blocks + 2])
        first, omega = ctx.sweep.pull(ctx.saved_tensors, cotangent, to_first=to_first)
        return (None, None, *(first or (None,) * blocks), *omega)


def _run(mapping: FixedPointMap, update: UpdateRule | None, u: State, numbers: range) -> State:
    """The iterations with these numbers, without residuals."""
    for k in numbers:
        u = step(mapping, u, mapping.D(u, k), k, update)
    return u


def _leaves(u: State) -> State:
    return tuple(block.detach().requires_grad_() for block in u)


def _pull(outputs: State, inputs: Sequence[Tensor], cotangent: State) -> tuple[Tensor | None, ...]:
    """Vector-Jacobian product with a segment.

    The graph is retained, because its part that all iterations share (constants of the binding) is
    differentiated in every segment. The part of the segment is freed with its last reference.
    """
    reached = [(a, b) for a, b in zip(outputs, cotangent, strict=True) if a.requires_grad]
    if not reached or not inputs:
        return (None,) * len(inputs)
    ends, weights = zip(*reached, strict=True)
    return torch.autograd.grad(ends, inputs, weights, retain_graph=True, allow_unused=True)


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _variables(outputs: State) -> list[Tensor]:
    """All leaves that a graph depends on."""
    stack: list[Any] = [block.grad_fn for block in outputs if block.grad_fn is not None]
    visited, variables = set(stack), []
    while stack:
        node = stack.pop()
        if hasattr(node, "variable"):
            variables.append(node.variable)
        for following, _ in node.next_functions:
            if following is not None and following not in visited:
                visited.add(following)
                stack.append(following)
    return variables
