"""Safeguarded Anderson acceleration of the averaged iteration (type II).

The method keeps the last m residuals f_i = T(u_i) - u_i and computes their affine combination of
least norm. The next point is the same combination of the T(u_i). (Anderson, J. ACM 1965; Walker &
Ni, SIAM J. Numer. Anal. 2011.)

Safeguard: an accelerated point whose residual does not decrease is rejected. The iteration then
continues from the last averaged step, with an empty memory. The accepted residuals therefore
decrease whenever those of T do.

Shape legend: B problems, n entries of a state, m points in memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bmo_cli.solver.metric import Metric
from bmo_cli.solver.state import State, binary_scale, scale, subtract


class Anderson:
    """An `Acceleration` for `solver.fixed_point.iterate`. An object serves one solve.

    Args:
        metric: G; residuals are compared in its norm.
        memory: m, number of earlier points that are combined, >= 1.
        iterations: number of iterations of the solve. The last step is not accelerated, because no
            later iteration would check it.
    """

    def __init__(self, metric: Metric, *, memory: int, iterations: int) -> None:
        self._metric, self._memory, self._last = metric, memory, iterations - 1
        self._points: list[tuple[Tensor, Tensor]] = []
        self._accelerated = False
        self._best = torch.inf
        self._averaged: State = ()

    def accelerate(self, k: int, u: State, averaged: State) -> State:
        """u^{k+1}, given u^k and T(u^k)."""
        step = subtract(averaged, u)
        size = binary_scale(step)
        norm = size * float(self._metric.norm(scale(step, 1 / size)).square().sum().sqrt())
        if self._accelerated and not norm < self._best:
            self._points.clear()
            self._accelerated = False
            return self._averaged
        self._best, self._averaged = norm, averaged
        self._points.append((_flat(averaged), _flat(step)))
        del self._points[: -self._memory - 1]
        self._accelerated = len(self._points) > 1 and k < self._last
        if not self._accelerated:
            return averaged
        correction = _unflat(self._correction(), averaged)
        return subtract(averaged, correction)

    def _correction(self) -> Tensor:
        """Difference of the newest T(u_i) and the least-squares combination, (B, n)."""
        values, steps = (torch.stack(rows, 1) for rows in zip(*self._points, strict=True))
        steps = steps / binary_scale((steps,))  # the weights do not depend on the scale
        newest = steps[:, -1:]
        step_changes, value_changes = newest - steps[:, :-1], values[:, -1:] - values[:, :-1]
        gram = step_changes @ step_changes.mT
        kind = torch.finfo(gram.dtype)
        size = gram.diagonal(dim1=1, dim2=2).amax(1)[:, None, None]
        damping = (10 * kind.eps * size).clamp_min(kind.tiny)
        identity = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
        weights = torch.linalg.solve(gram + damping * identity, step_changes @ newest.mT)
        correction: Tensor = weights.mT @ value_changes
        return correction[:, 0]


def _flat(u: State) -> Tensor:
    return torch.cat([block.flatten(1) for block in u], 1)


def _unflat(vector: Tensor, like: State) -> State:
    parts = torch.split(vector, [block[0].numel() for block in like], 1)
    return tuple(part.reshape(block.shape) for part, block in zip(parts, like, strict=True))
