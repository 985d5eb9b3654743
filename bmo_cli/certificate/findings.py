"""What is stated about a scheme, one finding each: the theory's assumptions and predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bmo_cli.certificate.horizon import Trajectory
from bmo_cli.gkm.scheme import GKM
from bmo_cli.nets.network import LayerBound
from bmo_cli.solver.metric import Metric
from bmo_cli.solver.nonexpansive import Pair
from bmo_cli.solver.problem import Loss, Sample
from bmo_cli.solver.state import State, inner, subtract

Verdict = Literal["holds", "violated", "not verifiable", "not used", "several"]

PROVED = 1e-6
"""how far above 1 a bound computed in float32 may lie"""
MEASURED = 1e-4
"""how far above 1 a ratio measured in float32 may lie"""


@dataclass(frozen=True)
class Finding:
    """One assumption or prediction of the theory.

    Attributes:
        name: what is stated.
        verdict: whether it is true of this run.
        number: that the verdict rests on; None: there is none.
        meaning: a line that says why, and what it is good for.
    """

    name: str
    verdict: Verdict
    number: float | None
    meaning: str


@dataclass(frozen=True)
class Bound:
    """An upper bound of the Lipschitz constant of D in G.

    Attributes:
        value: None: none can be computed.
        why: where it comes from, or why there is none.
        layers: of the network.
    """

    value: float | None
    why: str
    layers: tuple[LayerBound, ...] = ()

    @property
    def proves(self) -> bool:
        """Whether D is nonexpansive by this bound."""
        return self.value is not None and self.value <= 1 + PROVED


def nonexpansive(bound: Bound, pairs: Mapping[str, Pair]) -> Finding:
    """A bound proves it, a pair refutes it."""
    name = "D is nonexpansive in G"
    kind, pair = max(pairs.items(), key=lambda item: item[1].ratio)
    expands = pair.ratio > 1 + MEASURED
    if bound.proves and expands:
        return Finding(
            name,
            "violated",
            pair.ratio,
            f"the bound made from the weights is {bound.value:.7f}, but a measured pair ({kind}) "
            "is pushed apart: the network does not compute what it declares",
        )
    if bound.proves:
        return Finding(name, "holds", bound.value, f"proved by a bound: {bound.why}")
    if expands:
        return Finding(
            name,
            "violated",
            pair.ratio,
            f"two states ({kind}) are pushed apart by this factor: iterates may drift or diverge",
        )
    why = bound.why if bound.value is None else f"the bound is only {bound.value:.3g}"
    return Finding(
        name, "not verifiable", pair.ratio, f"no measured pair is pushed apart, but {why}"
    )


def breaks_promise(scheme: GKM, pair: Pair) -> bool:
    """Whether a pair of the network alone is above the bound that the network declares."""
    found = None if scheme.net is None else scheme.net.bound()
    declared = math.inf if found is None else found.value
    if scheme.net is not None and scheme.net.nonexpansive:
        declared = min(declared, 1.0)
    return pair.ratio > declared * (1 + MEASURED)


def promise(scheme: GKM, pair: Pair) -> Finding:
    """The network alone, in the Euclidean norm."""
    net = scheme.net
    assert net is not None
    name, found = "the network alone is nonexpansive", net.bound()
    if breaks_promise(scheme, pair):
        declared = "1" if net.nonexpansive or found is None else f"{found.value:.7g}"
        text = f"a measured pair contradicts the bound {declared} of {type(net).__name__}"
        return Finding(name, "violated", pair.ratio, text)
    if found is not None and found.value <= 1 + PROVED:
        return Finding(name, "holds", found.value, f"bound from the weights: {found.how}")
    if pair.ratio > 1 + MEASURED:
        text = "a measured pair is pushed apart by this factor"
        return Finding(name, "violated", pair.ratio, text)
    text = "no measured pair is pushed apart, and no bound proves that none is"
    return Finding(name, "not verifiable", pair.ratio, text)


def averaged(scheme: GKM, bound: Bound, pairs: Mapping[str, Pair]) -> Finding:
    """By alpha < 1, or because D itself is averaged."""
    name, alpha, net = "T is averaged", scheme.alpha, scheme.net
    theta = alpha * max(pair.averaging for pair in pairs.values())
    if max(pair.ratio for pair in pairs.values()) > 1 + MEASURED:
        return Finding(name, "violated", theta, "D is not nonexpansive")
    if not bound.proves:
        text = "no bound proves D nonexpansive; the pairs measured allow this constant, at least"
        return Finding(name, "not verifiable", theta, text)
    if alpha < 1:
        text = "T = (1 - alpha) I + alpha D with this alpha and D nonexpansive"
        return Finding(name, "holds", alpha, text)
    if scheme.operator.averaged and (net is None or net.averaged):
        if theta > 1 - MEASURED:
            text = "declared averaged, but a measured pair allows no constant below 1"
            return Finding(name, "violated", theta, text)
        text = "a composition of averaged maps is averaged; the pairs measured allow this constant"
        return Finding(name, "holds", theta, text)
    if scheme.operator.converges_undamped and net is None:
        operator = type(scheme.operator).__name__
        text = f"not averaged on all states, but {operator} converges undamped by its own theory"
        return Finding(name, "not used", theta, text)
    return Finding(name, "not verifiable", theta, "undamped, and D is only nonexpansive")


def positive(metric: Metric) -> Finding:
    """lambda_min(G) > 0 at the trained omega."""
    declared = float(metric.smallest_eigenvalue)
    verdict: Verdict = "holds" if declared > 0 else "violated"
    return Finding(
        "G is positive definite",
        verdict,
        declared,
        "lambda_min(G) > 0: |.|_G is a norm, and step sizes are inside their condition",
    )


def convex(declared: bool) -> Finding:
    """What the task declares."""
    if declared:
        return Finding(
            "the problems are convex",
            "holds",
            None,
            "declared by the task, not checked: f, g and h are convex",
        )
    return Finding(
        "the problems are convex",
        "violated",
        None,
        "declared by the task: operators promise nothing, iterations may find local solutions",
    )


def step(share: float | None, sample: Sample | None, metric: Metric) -> Finding:
    """The condition on the aggregation step, and L_l against measured gradients."""
    name = "0 < s < lambda_min(G) / L_l"
    if share is None:
        return Finding(name, "not used", None, "nothing is aggregated by this hyper-optimiser")
    limit = float(metric.smallest_eigenvalue)
    if sample is None:
        return Finding(name, "not verifiable", share, "no training data at hand for L_l")
    declared, measured = float(sample.loss.lipschitz), _smoothness(sample)
    ok = measured <= declared * (1 + 1e-3) and 0 < share < 1 and limit > 0
    return Finding(
        name,
        "holds" if ok else "violated",
        share,
        f"s as a share of the limit; lambda_min(G) = {limit:.5g}, L_l = {declared:.3g} "
        f"(measured {measured:.3g}) for the unnormalised loss",
    )


def _smoothness(sample: Sample) -> float:
    """Largest |grad l(u) - grad l(v)| / |u - v| over random pairs."""
    generator = torch.Generator().manual_seed(0)

    def draw() -> State:
        return tuple(
            (b + torch.randn(b.shape, generator=generator, dtype=torch.float64).to(b)).detach()
            for b in sample.initial
        )

    def gradient(loss: Loss, u: State) -> State:
        return tuple(block.detach() for block in loss.grad(u))

    largest = 0.0
    for _ in range(5):
        u, v = draw(), draw()
        up = subtract(gradient(sample.loss, u), gradient(sample.loss, v))
        gap = subtract(u, v)
        ratio: Tensor = (inner(up, up) / inner(gap, gap)).sqrt()
        largest = max(largest, float(ratio.max()))
    return largest


def residual(trajectories: Mapping[str, Trajectory], tolerance: float) -> Finding:
    """What the residual does far beyond K."""
    name, slowest = "the residual goes to 0 from every start", _slowest(trajectories, tolerance)
    found = trajectories[slowest]
    behaviour, met, done = found.behaviour(tolerance), found.met(tolerance), len(found.residuals)
    last = found.residuals[-1] if found.residuals else math.nan
    rate = f", about {found.rate:.3f} an iteration" if math.isfinite(found.rate) else ""
    if behaviour == "converged" and met is not None:
        text = f"at most {tolerance:g} after {met} iterations from {slowest}, the slowest{rate}"
        return Finding(name, "holds", last, text)
    if behaviour == "converged":
        text = f"after {done} iterations from {slowest} the step is {found.share:.0e} of the first"
        return Finding(name, "holds", last, text)
    if behaviour == "converging":
        text = (
            f"from {slowest} still falling after {done} iterations{rate}: follow it longer with a "
            "larger certificate.horizon"
        )
        return Finding(name, "not verifiable", last, text)
    least = min(found.residuals)
    return Finding(
        name,
        "violated",
        last,
        f"from {slowest} it {behaviour} within {done} iterations (least {least:.1e})",
    )


def solvable(searched: Sequence[Trajectory], tolerance: float) -> Finding:
    """Whether an iterate was met that is a fixed point, up to the tolerance.

    Args:
        searched: from the task's start, one a problem.
        tolerance: of the residual.
    """
    name = "T has a fixed point"
    finite = all(trajectory.finite for trajectory in searched)
    least = max(min(t.residuals) for t in searched) if finite else math.inf
    if least <= tolerance:
        most = max(met for t in searched if (met := t.met(tolerance)) is not None)
        text = (
            f"numerically: the residual came to {tolerance:g} or less on every problem, after at "
            f"most {most} iterations from the task's start"
        )
        return Finding(name, "holds", least, text)
    most = max(len(t.residuals) for t in searched)
    text = f"no residual of {tolerance:g} or less in {most} iterations from the task's start"
    text += "; look further with a larger certificate.horizon" if finite else ", which diverge"
    return Finding(name, "not verifiable", _number(least), text)


def steps(trajectories: Mapping[str, Trajectory]) -> Finding:
    """Fejer monotonicity, which one expansion would break."""
    growth = max((t.growth for t in trajectories.values()), key=lambda g: (g == g, g))
    name = "|u^{k+1} - u^k|_G never grows"
    if math.isnan(growth):
        return Finding(name, "not verifiable", None, "it stopped at once")
    held = growth <= 1 + 1e-3
    return Finding(
        name,
        "holds" if held else "violated",
        growth,
        "largest factor from one iteration to the next; at most 1 for an averaged map",
    )


def unique(trajectories: Mapping[str, Trajectory], tolerance: float, apart: float) -> Finding:
    """Whether the ends of all trajectories agree."""
    name = "all starts lead to one fixed point (the theory allows several)"
    behaviours = {t.behaviour(tolerance) for t in trajectories.values()}
    if behaviours != {"converged"}:
        text = "not all of them have converged; follow them with a larger certificate.horizon"
        return Finding(name, "not verifiable", _number(apart), text)
    if len(trajectories) < 2:
        return Finding(name, "not verifiable", None, "only one start")
    text = "largest relative distance of the ends"
    if apart <= max(1e-2, 100 * tolerance):
        return Finding(name, "holds", apart, text)
    if apart <= 2 * max(_still_to_go(t) for t in trajectories.values()):
        return Finding(
            name, "not verifiable", apart, f"{text}, which creep: their limits may agree"
        )
    return Finding(name, "several", apart, f"{text}: several fixed points")


def stationary(gradients: Sequence[float] | None) -> Finding:
    """|grad phi_K| at the end of training against its beginning."""
    name = "|grad phi_K| goes to 0 along training"
    if gradients is None:
        return Finding(name, "not used", None, "this method minimises another objective than phi_K")
    share = fall(gradients)
    if math.isnan(share):
        return Finding(name, "not verifiable", None, "fewer than four recorded values")
    text = "mean over the last tenth of training, as a share of that over the first tenth"
    if share <= 0.1:
        return Finding(name, "holds", share, text)
    return Finding(
        name, "not verifiable", share, f"{text}; where batches change, a noise floor remains"
    )


def fall(gradients: Sequence[float]) -> float:
    """Mean of the last tenth of the values as a share of the first tenth's; nan for too few."""
    known = [g for g in gradients if math.isfinite(g)]
    part = max(1, len(known) // 10)
    first = math.fsum(known[:part])
    return math.fsum(known[-part:]) / first if len(known) >= 4 and first > 0 else math.nan


def last_residual(trajectory: Trajectory) -> float:
    """The last residual; infinite where an iterate was."""
    return trajectory.residuals[-1] if trajectory.finite else math.inf


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _still_to_go(trajectory: Trajectory) -> float:
    """Relative distance of the end from its limit, by the geometric series of its rate."""
    rate = trajectory.rate
    return last_residual(trajectory) / max(1 - rate, 1e-30) if math.isfinite(rate) else 0.0


def slowness(trajectory: Trajectory, tolerance: float) -> tuple[bool, float]:
    """Orders trajectories: those that never met the tolerance are the slowest."""
    met = trajectory.met(tolerance)
    return (True, last_residual(trajectory)) if met is None else (False, met)


def _slowest(trajectories: Mapping[str, Trajectory], tolerance: float) -> str:
    return max(trajectories, key=lambda name: slowness(trajectories[name], tolerance))
