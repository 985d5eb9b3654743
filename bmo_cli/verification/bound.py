"""The upper bound of the Lipschitz constant of D in G, and who declares its parts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bmo_cli.gkm.scheme import GKM
from bmo_cli.solver.problem import Problem
from bmo_cli.verification.evidence import (
    are_convex,
    declarers,
    functions_of,
    maps_of,
    parts_of_network,
    parts_of_scheme,
    statements_of,
)
from bmo_cli.verification.findings import Bound, nan_last, rounding_of


def bound_of(scheme: GKM, convex: bool, problems: Sequence[Problem] = ()) -> Bound:
    """The best upper bound that weights, step sizes and declarations give.

    Args:
        scheme: scheme at its present weights.
        convex: whether the task declares its problems convex.
        problems: problems whose step sizes and functions are examined.
    """
    operator, net = scheme.operator, scheme.net
    name = type(operator).__name__
    if len(scheme.stages) > 1:
        return Bound(None, f"{len(scheme.stages)} sets of weights: there is no single map")
    if not operator.stationary:
        return Bound(None, f"{name} changes with the iteration: there is no single map")
    known = [are_convex(problem) for problem in problems]
    if not convex or False in known:
        return Bound(None, f"the problems are not convex, which {name} assumes")
    if None in known:
        return Bound(None, f"nothing proves the problems convex, which {name} assumes")
    if not operator.nonexpansive:
        return Bound(None, f"{name} promises nothing about its norm")
    shares = [operator.step_share(problem) for problem in problems]
    if any(share is not None and not share < 1 for share in shares):
        worst = max((share for share in shares if share is not None), key=nan_last)
        return Bound(
            None, f"{name} breaks its condition {operator.condition}: {worst:.6g} of the limit"
        )
    by = declarers(
        part
        for problem in problems
        for parts in (statements_of(problem), functions_of(problem), maps_of(problem))
        for part in parts
    )
    by = tuple(dict.fromkeys((*declarers(parts_of_scheme(scheme)), *by)))
    why = f"{name} is nonexpansive in G for {operator.condition or 'all parameters'}"
    if net is None:
        return Bound(1.0, why, declared_by=by)
    if not operator.keeps_nonexpansive:
        return Bound(None, f"the network is bounded in I, and the metric of {name} is another")
    bound = net.bound()
    kind = type(net).__name__
    outside = declarers(parts_of_network(net))
    if bound is None and net.nonexpansive and outside:
        text = f"{why}; {', '.join(outside)} declares that it is nonexpansive"
        return Bound(1.0, text, declared_by=by)
    if bound is None:
        return Bound(None, f"no bound is known for {kind}")
    if not math.isfinite(bound.value):
        return Bound(None, f"the weights of {kind} have no finite bound", bound.layers)
    how = f"{why}; {kind}: {bound.how}"
    return Bound(bound.value, how, bound.layers, by, rounding_of(net))
