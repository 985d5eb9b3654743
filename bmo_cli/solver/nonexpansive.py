"""How far a map stretches: the largest measured |D(a) - D(b)|_G / |a - b|_G.

A measured ratio is a lower bound of the Lipschitz constant; it can refute nonexpansiveness, never
prove it. Pairs are random, and then turned towards the worst by power iteration.
"""

from __future__ import annotations

import torch

from bmo_cli.solver.fixed_point import FixedPointMap
from bmo_cli.solver.state import State, inner, subtract


def largest_ratio(
    mapping: FixedPointMap, points: State, *, turns: int = 30, radius: float = 1.0, seed: int = 0
) -> float:
    """Largest ratio over pairs (a, a + d) with a a point, d random and then adversarial.

    A turn replaces d by D(a + d) - D(a), then by the direction that stretches most near a: a step
    d <- G^{-1} J^T G (D(a + d) - D(a)) of power iteration on G^{-1} J^T G J. Every pair met on the
    way counts, at its true finite distance.

    Args:
        mapping: D and G.
        points: states, blocks (B, ...), iterates of the map where they should be typical.
        turns: of the power iteration.
        radius: |d| (Euclidean) of the first pairs, in units of |a| + 1.
        seed: of the random directions.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        a = mapping.lift(points)
        metric, start = mapping.metric, mapping.D(a, 0)
    draw = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x) for x in a]
    size = radius * (inner(a, a).sqrt() + 1)
    best = 0.0
    d = _resized(tuple(draw), size)
    for _ in range(turns):
        moved = tuple((x + y).detach().requires_grad_() for x, y in zip(a, d, strict=True))
        with torch.enable_grad():
            image = mapping.D(moved, 0)
        stretched = subtract(tuple(x.detach() for x in image), start)
        with torch.no_grad():
            before, after = inner(d, metric.apply(d)), inner(stretched, metric.apply(stretched))
            weight = metric.apply(d)
            scale = (inner(d, d) * inner(weight, weight)).sqrt()
            positive = before > 1e-12 * scale  # a broken condition makes G indefinite
            ratios = torch.where(positive, after / before, 0.0).clamp_min(0).sqrt()
            best = max(best, float(ratios.max()))
            weighted = metric.apply(stretched)
        pulled = torch.autograd.grad(
            image, moved, weighted, allow_unused=True, materialize_grads=True
        )
        with torch.no_grad():
            d = _resized(metric.solve(pulled), size)
    return best


def _resized(d: State, size: torch.Tensor) -> State:
    """d scaled to Euclidean norms `size`, (B,)."""
    factor = size / inner(d, d).sqrt().clamp_min(torch.finfo(d[0].dtype).tiny)
    return tuple(x * factor.reshape(-1, *[1] * (x.dim() - 1)) for x in d)
