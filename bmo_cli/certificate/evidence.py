"""What a statement rests on: proved, declared or measured.

proved: by this package, from weights and from constants that it computed itself, in float64.
declared: by a class from outside of the package (a plug-in), or by a constant that somebody stated.
measured: on the problems looked at; a measurement can contradict a statement and prove none that
is about all states.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from bmo_cli.gkm.scheme import GKM
from bmo_cli.linear.map import LinearMap
from bmo_cli.nets.network import Network
from bmo_cli.solver.functions import LeastSquares, Proximable, Smooth
from bmo_cli.solver.metric import BlockDiagonal, LinearizedBlock, Metric, PrimalDual
from bmo_cli.solver.problem import Problem

Evidence = Literal["proved", "declared", "measured"]


def is_own(part: object) -> bool:
    """Whether an object's class is defined in this package, and nothing replaced its methods."""
    kind = type(part)
    if kind.__module__.split(".")[0] != __name__.split(".")[0]:
        return False
    defined: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):  # not there where a function defines the class
        defined = getattr(defined, name, None)
    replaced = [name for name in vars(part) if callable(getattr(kind, name, None))]
    return defined is kind and not replaced


def declarers(parts: Iterable[object]) -> tuple[str, ...]:
    """Names of the classes from outside of the package among some objects, each once."""
    return tuple(dict.fromkeys(type(part).__name__ for part in parts if not is_own(part)))


def parts_of_scheme(scheme: GKM) -> Iterator[object]:
    """What decides the map of a scheme: itself, D_num, D_net and the networks inside it."""
    yield from (scheme, scheme.operator)
    if scheme.net is not None:
        yield from parts_of_network(scheme.net)


def parts_of_network(net: Network) -> Iterator[Network]:
    """A network and the networks inside it."""
    return (module for module in net.modules() if isinstance(module, Network))


def functions_of(problem: Problem) -> Iterator[Smooth | Proximable]:
    """f, g and h."""
    yield problem.f
    yield problem.g
    if problem.coupling is not None:
        yield problem.coupling.h


def maps_of(problem: Problem) -> Iterator[LinearMap]:
    """The linear maps of the data term and of the relation, as far as they are known."""
    if isinstance(problem.f, LeastSquares):
        yield problem.f.a
    if problem.coupling is not None:
        yield problem.coupling.a


def parts_of_metric(metric: Metric) -> Iterator[Metric | LinearMap]:
    """A metric, the metrics of its blocks, and the linear maps in them."""
    yield metric
    if isinstance(metric, BlockDiagonal):
        for block in metric.blocks:
            yield from parts_of_metric(block)
    elif isinstance(metric, LinearizedBlock | PrimalDual):
        yield metric.a
