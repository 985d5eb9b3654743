"""How far a map stretches: the largest measured |D(a) - D(b)|_G / |a - b|_G.

A measured ratio is a lower bound of the Lipschitz constant; it can refute nonexpansiveness, never
prove it. Pairs are random, and then turned towards the worst by power iteration.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bmo_cli.solver.fixed_point import FixedPointMap
from bmo_cli.solver.metric import Metric
from bmo_cli.solver.state import State, inner, subtract


@dataclass(frozen=True)
class Pair:
    """Two states and what a map does to their distance.

    Attributes:
        a, b: the states, batches of one problem.
        ratio: |D(a) - D(b)|_G / |a - b|_G; infinite where an image is not finite.
        averaging: the least theta for which this pair allows D to be theta-averaged: with d = a - b
            and e = D(a) - D(b), |e|^2 + (1 - theta) / theta |d - e|^2 <= |d|^2 (Bauschke &
            Combettes, 2017, proposition 4.35). Above 1 where the ratio is.
    """

    a: State
    b: State
    ratio: float
    averaging: float


def compare(mapping: FixedPointMap, a: State, b: State, k: int = 0) -> Pair:
    """The pair with the largest ratio among the problems of two batches of states.

    Args:
        mapping: D and G.
        a, b: states with all their blocks.
        k: iteration whose D is meant, for schemes that change along it.
    """
    with torch.no_grad():
        return _worst(mapping.metric, a, b, mapping.D(a, k), mapping.D(b, k))


def worst_pair(
    mapping: FixedPointMap,
    points: State,
    *,
    turns: int = 30,
    radius: float = 1.0,
    seed: int = 0,
    k: int = 0,
) -> Pair:
    """The pair with the largest ratio among (a, a + d), a a point, d random and then adversarial.

    A turn replaces d by the direction that stretches most near a + d: a step
    d <- G^{-1} J^T G (D(a + d) - D(a)) of power iteration on G^{-1} J^T G J. Every pair met on the
    way counts, at its true finite distance.

    Args:
        mapping: D and G.
        points: states, blocks (B, ...), iterates of the map where they should be typical.
        turns: of the power iteration.
        radius: |d| (Euclidean) of the pairs, in units of |a| + 1.
        seed: of the random directions.
        k: iteration whose D is meant, for schemes that change along it.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        a = mapping.lift(points)
        metric, start = mapping.metric, mapping.D(a, k)
    draw = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x) for x in a]
    size = radius * (inner(a, a).sqrt() + 1)
    best: Pair | None = None
    d = _resized(tuple(draw), size)
    for _ in range(turns):
        moved = tuple((x + y).detach().requires_grad_() for x, y in zip(a, d, strict=True))
        with torch.enable_grad():
            image = mapping.D(moved, k)
        stretched = subtract(tuple(x.detach() for x in image), start)
        with torch.no_grad():
            pair = _worst(metric, tuple(x.detach() for x in moved), a, image, start)
            best = pair if best is None or pair.ratio > best.ratio else best
            if pair.ratio == float("inf"):
                return pair
            weighted = metric.apply(stretched)
        pulled = torch.autograd.grad(
            image, moved, weighted, allow_unused=True, materialize_grads=True
        )
        with torch.no_grad():
            turned = metric.solve(pulled)
            gone = inner(turned, turned) == 0  # D is constant there: the old direction is as good
            d = _resized(_where(gone, d, turned), size)
    assert best is not None
    return best


def largest_ratio(
    mapping: FixedPointMap, points: State, *, turns: int = 30, radius: float = 1.0, seed: int = 0
) -> float:
    """The ratio of `worst_pair`."""
    return worst_pair(mapping, points, turns=turns, radius=radius, seed=seed).ratio


def _worst(metric: Metric, a: State, b: State, image_a: State, image_b: State) -> Pair:
    d, e = subtract(a, b), tuple(x.detach() for x in subtract(image_a, image_b))
    weighted = metric.apply(d)
    before, after = inner(d, weighted), inner(e, metric.apply(e))
    left = subtract(d, e)
    moved = inner(left, metric.apply(left)).clamp_min(0)
    scale = (inner(d, d) * inner(weighted, weighted)).sqrt()
    positive = before > 1e-12 * scale  # a broken condition makes G indefinite
    ratios = torch.where(positive, after / before, 0.0).clamp_min(0).sqrt()
    lost = ~torch.isfinite(after) | ~torch.isfinite(before)  # no ratio of such images is known
    ratios = torch.where(lost, torch.inf, ratios)
    i = int(ratios.argmax())
    slack = float(moved[i] + before[i] - after[i])
    averaging = float(moved[i]) / slack if slack > 0 else float("inf")
    if moved[i] <= 1e3 * torch.finfo(before.dtype).eps * before[i]:
        averaging = 0.0  # the identity on this pair, up to rounding
    return Pair(
        tuple(x[i : i + 1] for x in a), tuple(x[i : i + 1] for x in b), float(ratios[i]), averaging
    )


def _where(chosen: Tensor, u: State, v: State) -> State:
    """u for the problems that `chosen`, (B,), names, v for the others."""
    return tuple(
        torch.where(chosen.reshape(-1, *[1] * (a.dim() - 1)), a, b)
        for a, b in zip(u, v, strict=True)
    )


def _resized(d: State, size: Tensor) -> State:
    """d scaled to Euclidean norms `size`, (B,)."""
    factor = size / inner(d, d).sqrt().clamp_min(torch.finfo(d[0].dtype).tiny)
    return tuple(x * factor.reshape(-1, *[1] * (x.dim() - 1)) for x in d)
