"""The assumptions of the convergence theory, each with a verdict for a scheme and its problems."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bmo_cli.gkm.scheme import GKM
from bmo_cli.solver.metric import Metric
from bmo_cli.solver.nonexpansive import Pair
from bmo_cli.solver.problem import Loss, Problem, Sample
from bmo_cli.solver.state import State, inner, subtract
from bmo_cli.verification.declared import Check
from bmo_cli.verification.evidence import (
    are_convex,
    declarers,
    functions_of,
    is_own,
    parts_of_metric,
    parts_of_network,
    statements_of,
)
from bmo_cli.verification.findings import (
    MEASURED,
    Bound,
    Finding,
    evidence_of,
    finite_or_none,
    nan_first,
    nan_last,
    rounding_of,
)
from bmo_cli.verification.trajectory import Trajectory


def assess_weights(scheme: GKM) -> Finding:
    """Whether all weights are finite, without which no bound exists."""
    name = "all weights are finite"
    tensors = [*scheme.named_parameters(), *scheme.named_buffers()]
    lost = [key for key, value in tensors if not torch.isfinite(value).all()]
    if not lost:
        return Finding(name, "holds", None, f"{len(tensors)} tensors", "proved")
    more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
    return Finding(name, "violated", None, f"{lost[0]}{more}: nan or infinite", "proved")


def assess_nonexpansiveness(bound: Bound, pairs: Mapping[str, Pair]) -> Finding:
    """Whether D is nonexpansive: a bound can prove it, a pair can refute it."""
    name = "D is nonexpansive in G"
    kind, pair = max(pairs.items(), key=lambda item: item[1].surely)
    expands = not pair.surely <= 1 + MEASURED
    if bound.nonexpansive and expands:
        by = f"declared by {', '.join(bound.declared_by)}" if bound.declared_by else "proved"
        return Finding(
            name,
            "violated",
            pair.ratio,
            f"the bound {bound.value:.7f} ({by}) is contradicted by a measured pair ({kind}): the "
            "network or the operator does not compute what it declares",
            "measured",
        )
    if bound.proves:
        return Finding(name, "holds", bound.value, f"proved by a bound: {bound.why}", "proved")
    if bound.nonexpansive:
        return Finding(
            name,
            "holds",
            bound.value,
            f"as declared by {', '.join(bound.declared_by)}, not proved: {bound.why}",
            "declared",
            bound.declared_by,
        )
    if expands:
        return Finding(
            name,
            "violated",
            pair.ratio,
            f"two states ({kind}) are pushed apart by this factor: iterates may drift or diverge",
            "measured",
        )
    why = bound.why if bound.value is None else f"the bound is only {bound.value:.8g}"
    return Finding(
        name, "not verifiable", pair.ratio, f"no measured pair is pushed apart, but {why}"
    )


def declared_bound(scheme: GKM) -> float:
    """The Lipschitz constant that the network declares; infinite if it declares none."""
    net = scheme.net
    if net is None:
        return math.inf
    bound = net.bound()
    known = [bound.value] if bound is not None and math.isfinite(bound.value) else []
    return min([*known, *([1.0] if net.nonexpansive else [])], default=math.inf)


def breaks_promise(scheme: GKM, pair: Pair) -> bool:
    """Whether a pair of the network alone is above the bound that the network declares."""
    return not pair.surely <= declared_bound(scheme) * (1 + MEASURED)


def checks_of_network(scheme: GKM, pairs: Sequence[Pair]) -> list[Check]:
    """The bound of a network from outside of the package, compared with measured pairs."""
    limit = declared_bound(scheme)
    by = () if scheme.net is None else declarers(parts_of_network(scheme.net))
    if not by or not math.isfinite(limit):
        return []
    worst = max(pairs, key=lambda pair: pair.surely)
    broken = breaks_promise(scheme, worst)
    return [Check(f"{by[0]}: Lipschitz constant", limit, worst.ratio, broken, len(pairs))]


def assess_network(scheme: GKM, pair: Pair) -> Finding:
    """Whether the network alone is nonexpansive in the Euclidean norm."""
    net = scheme.net
    assert net is not None
    name, bound = "the network alone is nonexpansive", net.bound()
    if breaks_promise(scheme, pair):
        declared = f"{declared_bound(scheme):.7g}"
        text = f"a measured pair contradicts the bound {declared} of {type(net).__name__}"
        return Finding(name, "violated", pair.ratio, text, "measured")
    by = declarers(parts_of_network(net))
    if by and declared_bound(scheme) <= 1 + rounding_of(net):
        text = f"as declared by {', '.join(by)}"
        return Finding(name, "holds", declared_bound(scheme), text, "declared", by)
    if bound is not None and bound.value <= 1 + rounding_of(net):
        return Finding(name, "holds", bound.value, f"bound from the weights: {bound.how}", "proved")
    if pair.surely > 1 + MEASURED:
        text = "a measured pair is pushed apart by this factor"
        return Finding(name, "violated", pair.ratio, text, "measured")
    text = "no measured pair is pushed apart, and no bound proves that none is"
    return Finding(name, "not verifiable", pair.ratio, text)


def assess_averaging(scheme: GKM, bound: Bound, pairs: Mapping[str, Pair]) -> Finding:
    """Whether T is averaged, by alpha < 1 or because D is averaged."""
    name, alpha, net = "T is averaged", scheme.alpha, scheme.net
    theta = alpha * max(pair.averaging for pair in pairs.values())
    if not max(pair.surely for pair in pairs.values()) <= 1 + MEASURED:
        return Finding(name, "violated", theta, "D is not nonexpansive", "measured")
    if not bound.nonexpansive:
        text = "no bound proves D nonexpansive; the pairs measured allow this constant, at least"
        return Finding(name, "not verifiable", theta, text)
    if not 0 < alpha <= 1:
        return Finding(name, "violated", alpha, "alpha must lie in (0, 1]", "proved")
    if alpha < 1:
        text = "T = (1 - alpha) I + alpha D with this alpha and D nonexpansive"
        return Finding(name, "holds", alpha, text, bound.evidence, bound.declared_by)
    if scheme.operator.averaged and (net is None or net.averaged):
        if bound.declared_by and theta > 1 - MEASURED:
            text = "declared averaged, but a measured pair allows no constant surely below 1"
            return Finding(name, "not verifiable", theta, text)
        text = "a composition of averaged maps is averaged; the pairs measured allow this constant"
        return Finding(name, "holds", theta, text, bound.evidence, bound.declared_by)
    if scheme.operator.converges_undamped and net is None:
        operator = type(scheme.operator).__name__
        text = f"not averaged on all states, but {operator} converges undamped by its own theory"
        return Finding(name, "not used", theta, text)
    return Finding(name, "not verifiable", theta, "undamped, and D is only nonexpansive")


def assess_metric(metrics: Sequence[Metric], shares: Sequence[float | None]) -> Finding:
    """Whether lambda_min(G) > 0 at the trained omega, for every problem.

    Args:
        metrics: metrics of the problems.
        shares: step sizes as shares of their limits at the problems, see
            `NumericalOperator.step_share`.
    """
    lowest = min((float(metric.smallest_eigenvalue) for metric in metrics), key=nan_first)
    by = declarers(part for metric in metrics for part in parts_of_metric(metric))
    known = [share for share in shares if share]  # a share of 0: any step is allowed
    used = f"; the step size is {max(known, key=nan_last):.6g} of its limit" if known else ""
    text = f"lambda_min(G) > 0: |.|_G is a norm{used}"
    text += f"; as declared by {', '.join(by)}" if by else ""
    return Finding(
        "G is positive definite",
        "holds" if 0 < lowest < math.inf else "violated",
        finite_or_none(lowest),
        text,
        evidence_of(by),
        by,
    )


def assess_convexity(declared: bool, problems: Sequence[Problem]) -> Finding:
    """Whether f, g and h are convex, by their defining data or by declaration of the task.

    Args:
        declared: whether the task declares its problems convex.
        problems: problems of the task.
    """
    name = "the problems are convex"
    if not declared:
        text = "operators promise nothing, iterations may find local solutions"
        return Finding(name, "violated", None, f"declared by the task: {text}", "declared")
    functions = [function for problem in problems for function in functions_of(problem)]
    concave = [f for f in functions if is_own(f) and f.is_convex() is False]
    if concave:
        text = f"{type(concave[0]).__name__} is not convex with these values (a negative weight?)"
        return Finding(name, "violated", None, text, "proved")
    if None in map(are_convex, problems):
        unknown = [type(f).__name__ for f in functions if is_own(f) and f.is_convex() is None]
        text = f"{unknown[0]} is not known to be, or up to the rounding of its values alone"
        return Finding(name, "not verifiable", None, text)
    stated = (part for problem in problems for part in statements_of(problem))
    by = declarers([*functions, *stated])
    if by:
        text = f"declared by the task for {', '.join(by)}"
        return Finding(name, "holds", None, text, "declared", by)
    kinds = ", ".join(dict.fromkeys(type(function).__name__ for function in functions))
    return Finding(name, "holds", None, f"f, g and h are, by what defines them: {kinds}", "proved")


def assess_step(
    share: float | None, sample: Sample | None, metrics: Sequence[Metric], hyper: object
) -> Finding:
    """Whether the aggregation step satisfies its condition, and L_l bounds measured gradients."""
    name = "0 < s < lambda_min(G) / L_l"
    if share is None:
        return Finding(name, "not used", None, "nothing is aggregated by this hyper-optimiser")
    limit = min((float(metric.smallest_eigenvalue) for metric in metrics), key=nan_first)
    if sample is None:
        return Finding(name, "not verifiable", share, "no training data at hand for L_l")
    if not sample.loss.convex:
        text = f"{type(sample.loss).__name__} is not convex: use task.loss=squared"
        return Finding(name, "not verifiable", share, text)
    declared, measured = float(sample.loss.lipschitz), _smoothness(sample)
    ok = measured <= declared * (1 + 1e-3) and 0 < share < 1 and limit > 0
    by = declarers([hyper, sample.loss, *(part for m in metrics for part in parts_of_metric(m))])
    return Finding(
        name,
        "holds" if ok else "violated",
        share,
        f"s as a share of the limit; lambda_min(G) = {limit:.5g}, L_l = {declared:.3g} "
        f"(measured {measured:.3g}) for the unnormalised loss"
        + (f"; as declared by {', '.join(by)}" if by else ""),
        evidence_of(by),
        by,
    )


def assess_declarations(checks: Sequence[Check]) -> Finding:
    """Whether measurements contradict any declaration."""
    name, count = "what is declared agrees with measurements", sum(check.count for check in checks)
    broken = [check for check in checks if check.contradicts]
    if not checks:
        return Finding(name, "not used", None, "every part is of this package")
    if not broken:
        text = f"{count} measurements of {len(checks)} declarations contradict none"
        return Finding(name, "holds", None, text, "measured")
    worst = broken[0]
    more = f" ({len(broken) - 1} more)" if len(broken) > 1 else ""
    text = f"{worst.what}: declared {worst.declared:.6g}, measured {worst.measured:.6g}{more}"
    return Finding(name, "violated", finite_or_none(worst.measured), text, "measured")


def assess_search(weaker: Sequence[str]) -> Finding:
    """Whether the search was at least as thorough as the default one.

    Args:
        weaker: settings that are weaker than the defaults, such as `turns=3 (20)`.
    """
    name = "the search is as hard as the default one"
    if not weaker:
        return Finding(name, "holds", None, "horizon, cases, turns and tolerance", "measured")
    text = f"certificate.{', certificate.'.join(weaker)}: a weak search finds little"
    return Finding(name, "violated", None, text, "measured")


def assess_fixed_point(searched: Sequence[Trajectory], tolerance: float) -> Finding:
    """Whether T has a fixed point up to the tolerance, because |D(u) - u|_G decreases to it.

    Args:
        searched: trajectories from the task's start, one for each problem.
        tolerance: tolerance of |D(u) - u|_G, relative to |u^0|_G or |D(u^0)|_G.
    """
    name = "T has a fixed point"
    most = max(len(trajectory.residuals) for trajectory in searched)
    if not all(trajectory.finite for trajectory in searched):
        text = f"iterates diverge within {most} iterations from the task's start"
        return Finding(name, "not verifiable", None, text)
    worst = max((t.motion for t in searched), key=lambda m: (m.moves_on, nan_last(m.relative)))
    if worst.moves_on:
        how = "stays at" if worst.is_uniform else "hardly falls, to"
        text = (
            f"none found: after {most} iterations from the task's start u moves on in one "
            f"direction, and |D(u) - u|_G {how} {worst.displacement:.3g}; the problem has no "
            "solution, or one that is further away (look with a larger certificate.horizon)"
        )
        return Finding(name, "not verifiable", worst.displacement, text)
    if all(trajectory.has_stopped(tolerance) for trajectory in searched):
        text = (
            f"numerically: |D(u) - u|_G fell to {tolerance:g} of its scale or less on every "
            f"problem, within {most} iterations from the task's start"
        )
        return Finding(name, "holds", worst.relative, text, "measured")
    text = (
        f"|D(u) - u|_G is {worst.relative:.1e} of its scale after {most} iterations from the "
        "task's start; look further with a larger certificate.horizon"
    )
    return Finding(name, "not verifiable", finite_or_none(worst.relative), text)


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
