"""Measured expansion of a map: the largest |D(a) - D(b)|_G / |a - b|_G over pairs of states.

A measured ratio is a lower bound of the Lipschitz constant. It can refute nonexpansiveness but
cannot prove it. Directions a - b start at random. Power iteration or a Krylov space, on
G^{-1} J^T G J, then moves them towards the direction that D expands most.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bmo_cli.solver.fixed_point import FixedPointMap
from bmo_cli.solver.metric import Metric, rounding_of
from bmo_cli.solver.state import State, inner, subtract

_NOISE = 8
"""number of rounding errors of D(a) by which D(a) - D(b) may be wrong"""


@dataclass(frozen=True)
class Pair:
    """Two states and how a map changes their distance.

    Attributes:
        a, b: the states, batches of one problem.
        ratio: |D(a) - D(b)|_G / |a - b|_G; infinite where D(a) or D(b) is not finite.
        surely: the ratio minus the part that rounding may have added. Where G is nearly singular,
            this part is large. Only `surely` can refute nonexpansiveness.
        averaging: the least theta for which this pair allows D to be theta-averaged: with d = a - b
            and e = D(a) - D(b), |e|^2 + (1 - theta) / theta |d - e|^2 <= |d|^2 (Bauschke &
            Combettes, 2017, proposition 4.35). It is above 1 where the ratio is.
    """

    a: State
    b: State
    ratio: float
    surely: float
    averaging: float


def compare(mapping: FixedPointMap, a: State, b: State, k: int = 0) -> Pair:
    """The pair with the largest ratio among the problems of two batches of states.

    Args:
        mapping: D and G.
        a, b: states with all their blocks.
        k: iteration number of D, for schemes that change with it.
    """
    with torch.no_grad():
        return _worst(mapping.metric, a, b, mapping.D(a, k), mapping.D(b, k))


def worst_pair(
    mapping: FixedPointMap,
    points: State,
    *,
    turns: int = 30,
    radius: float | Tensor = 1.0,
    seed: int = 0,
    k: int = 0,
    direction: State | None = None,
) -> Pair:
    """The pair with the largest ratio among (a, a + d), a a point, d adversarial.

    A turn is a step d <- G^{-1} J^T G (D(a + d) - D(a)) of power iteration on G^{-1} J^T G J. It
    moves d towards the direction that D expands most near a + d. Every pair of the search counts,
    at its finite distance. Where D has no derivative, directions stay random.

    Args:
        mapping: D and G.
        points: states, blocks (B, ...), such as iterates of the map.
        turns: steps of the power iteration.
        radius: |d| (Euclidean) of the pairs, in units of |a| + 1; one for all problems, or (B,).
        seed: of the random directions.
        k: iteration number of D, for schemes that change with it.
        direction: the first d, a state with all blocks; None: random.
    """
    search = _Search(mapping, points, radius, k)
    draws = _random_directions(search.a, seed)
    d = search.resize(next(draws) if direction is None else direction)
    best: Pair | None = None
    for _ in range(turns):
        pair, turned = search.turn(d)
        best = pair if best is None or pair.surely > best.surely else best
        if pair.ratio == float("inf"):
            return pair
        if turned is None:
            d = search.resize(next(draws))
            continue
        gone = inner(turned, turned) == 0  # D is constant there: keep the old direction
        d = search.resize(_choose(gone, d, turned))
    assert best is not None
    return best


def krylov_pair(
    mapping: FixedPointMap,
    points: State,
    *,
    turns: int = 30,
    radius: float = 1.0,
    seed: int = 0,
    k: int = 0,
) -> Pair:
    """Like `worst_pair`, with the best direction of the Krylov space that the turns span.

    The convergence of power iteration depends on the ratio of the two largest expansion factors.
    Suppose D expands a single direction by 1 % and preserves thousands of others: 20 turns do not
    find that direction. The largest Ritz vector of the same number of products does. (Saad,
    Numerical Methods for Large Eigenvalue Problems, 2011, chapter 6; in the inner product of G.)

    Args:
        mapping, points, turns, radius, seed, k: as in `worst_pair`.
    """
    search = _Search(mapping, points, radius, k)
    metric = mapping.metric
    basis: list[State] = []
    products: list[State] = []
    v = next(_random_directions(search.a, seed))
    best: Pair | None = None
    for _ in range(turns):
        pair, turned = search.turn(search.resize(v))
        best = pair if best is None or pair.surely > best.surely else best
        size = metric.norm(v)
        unit = torch.isfinite(size) & (size > 0)  # False where the space is exhausted
        if turned is None or pair.ratio == float("inf") or not unit.all():
            break
        length = inner(v, v).sqrt()  # `turned` belongs to v over its length
        v, turned = _scale_each(v, 1 / size), _scale_each(turned, length / size)
        basis.append(v)
        products.append(turned)
        v = turned
        for _ in range(2):  # the second time removes the rounding error of the first
            for u in basis:
                share = inner(metric.apply(u), v)
                v = subtract(v, _scale_each(u, share))
    if basis and best is not None and best.ratio < float("inf"):
        pair, _ = search.turn(search.resize(_ritz_vector(metric, basis, products)))
        best = pair if pair.surely > best.surely else best
    assert best is not None
    return best


def constant_direction(points: State) -> State:
    """A state of ones.

    Blurs and gradients map constants very differently from noise, and a random direction has hardly
    any constant part.
    """
    return tuple(torch.ones_like(block) for block in points)


class _Search:
    """Pairs (a, a + d) at one batch of points.

    Args:
        mapping, points, radius, k: as in `worst_pair`.
    """

    def __init__(
        self, mapping: FixedPointMap, points: State, radius: float | Tensor, k: int
    ) -> None:
        self._mapping, self._k = mapping, k
        with torch.no_grad():
            self.a = mapping.lift(points)
            self._Da = mapping.D(self.a, k)
        self._size = radius * (inner(self.a, self.a).sqrt() + 1)

    def resize(self, d: State) -> State:
        """d scaled to the length of all pairs; 0 stays 0."""
        length = inner(d, d).sqrt()
        return _scale_each(d, torch.where(length > 0, self._size / length, 0.0))

    def turn(self, d: State) -> tuple[Pair, State | None]:
        """The pair (a + d, a), and G^{-1} J^T G (D(a + d) - D(a)); None: D has no derivative."""
        metric = self._mapping.metric
        moved = tuple((x + y).detach().requires_grad_() for x, y in zip(self.a, d, strict=True))
        with torch.enable_grad():
            D_moved = self._mapping.D(moved, self._k)
        with torch.no_grad():
            there = tuple(x.detach() for x in moved)
            pair = _worst(metric, there, self.a, tuple(x.detach() for x in D_moved), self._Da)
            weighted = metric.apply(subtract(tuple(x.detach() for x in D_moved), self._Da))
        ends = [(x, w) for x, w in zip(D_moved, weighted, strict=True) if x.requires_grad]
        if not ends:
            return pair, None
        outputs, cotangents = zip(*ends, strict=True)
        pulled = torch.autograd.grad(
            outputs, moved, cotangents, allow_unused=True, materialize_grads=True
        )
        with torch.no_grad():
            return pair, metric.solve(pulled)


def _random_directions(like: State, seed: int) -> Iterator[State]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield tuple(
            torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x) for x in like
        )


def _ritz_vector(metric: Metric, basis: list[State], products: list[State]) -> State:
    """The direction of the largest <v, B v>_G in the span of `basis`; `products` holds B v."""
    rows = [torch.stack([inner(metric.apply(u), w) for w in products], 1) for u in basis]
    gram = torch.stack(rows, 1).double()  # (B, m, m)
    _, vectors = torch.linalg.eigh((gram + gram.mT) / 2)
    weights = vectors[..., -1].to(basis[0][0])  # (B, m), of the largest eigenvalue
    parts = [_scale_each(u, weights[:, i]) for i, u in enumerate(basis)]
    return tuple(torch.stack(block).sum(0) for block in zip(*parts, strict=True))


def _worst(metric: Metric, a: State, b: State, Da: State, Db: State) -> Pair:
    d, e = subtract(a, b), subtract(Da, Db)
    weighted = metric.apply(d)
    before, after = inner(d, weighted), inner(e, metric.apply(e))
    left = subtract(d, e)
    moved = inner(left, metric.apply(left)).clamp_min(0)
    positive = before > rounding_of(d, weighted)  # else G may be indefinite there
    ratios = torch.where(positive, after / before, 0.0).clamp_min(0).sqrt()
    lost = ~torch.isfinite(after) | ~torch.isfinite(before)  # no ratio is known
    ratios = torch.where(lost, torch.inf, ratios)
    least = after.clamp_min(0).sqrt() - _NOISE * _rounding_noise(metric, Da)
    most = (before + rounding_of(d, weighted)).sqrt()
    sure = torch.where(lost, torch.inf, torch.where(positive, (least / most).clamp_min(0), 0.0))
    i = int(torch.where(torch.isnan(sure), -1.0, sure).argmax())
    slack = float(moved[i] + before[i] - after[i])
    averaging = float(moved[i]) / slack if slack > 0 else float("inf")
    if moved[i] <= 1e3 * torch.finfo(before.dtype).eps * before[i]:
        averaging = 0.0  # up to rounding, D is a translation on this pair
    pair = tuple(x[i : i + 1] for x in a), tuple(x[i : i + 1] for x in b)
    return Pair(*pair, float(ratios[i]), float(sure[i]), averaging)


def _rounding_noise(metric: Metric, Da: State) -> Tensor:
    """|r|_G of rounding errors r of D(a) with random signs, shape (B,)."""
    generator = torch.Generator().manual_seed(0)
    noise = tuple(
        torch.finfo(x.dtype).eps / 2 * x * torch.randn(x.shape, generator=generator).to(x)
        for x in Da
    )
    return inner(noise, metric.apply(noise)).clamp_min(0).sqrt()


def _choose(chosen: Tensor, u: State, v: State) -> State:
    """u for the problems where `chosen`, (B,), is true, v for the others."""
    return tuple(torch.where(_per_problem(chosen, a), a, b) for a, b in zip(u, v, strict=True))


def _scale_each(d: State, factor: Tensor) -> State:
    """d times `factor`, (B,)."""
    return tuple(x * _per_problem(factor, x) for x in d)


def _per_problem(values: Tensor, like: Tensor) -> Tensor:
    """Values of every problem, (B,), in a shape that broadcasts against `like`, (B, ...)."""
    return values.reshape(-1, *[1] * (like.dim() - 1))
