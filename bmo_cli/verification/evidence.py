"""The evidence of a statement: proved, declared or measured.

proved: this package proves it, from weights and from constants that it computes in float64.
declared: a class from outside of the package (a plug-in) or a stated constant declares it.
measured: it was observed on the examined problems. A measurement can contradict a statement about
all states, but it cannot prove one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from types import FunctionType
from typing import Any, Literal

from torch import nn

from bmo_cli.gkm.scheme import GKM
from bmo_cli.linear.map import LinearMap
from bmo_cli.nets.network import Network
from bmo_cli.solver.functions import LeastSquares, Proximable, Smooth
from bmo_cli.solver.metric import BlockDiagonal, LinearizedBlock, Metric, PrimalDual
from bmo_cli.solver.problem import Coupling, Problem

Evidence = Literal["proved", "declared", "measured"]

_PACKAGE = __name__.split(".")[0]
_GENERATED = {_PACKAGE, "dataclasses"}
_WRAPPERS = {*_GENERATED, "torch", "functools", "contextlib"}
"""modules that define methods of this package's classes, and modules that may decorate them"""


def is_own(part: object) -> bool:
    """Whether an object's class is defined in this package, and nothing replaced its methods.

    This covers methods of the object and of its class, and hooks of modules.
    """
    kind = type(part)
    if _top_level(kind.__module__) != _PACKAGE or _has_hooks(part):
        return False
    defined: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):  # missing if a function defines the class
        defined = getattr(defined, name, None)
    replaced = [name for name in vars(part) if callable(getattr(kind, name, None))]
    return defined is kind and not replaced and all(map(_is_as_written, kind.__mro__))


def _is_as_written(kind: type) -> bool:
    """Whether the methods of a class are those of its source. Other packages are not examined.

    Wrappers from torch and from Python are allowed, such as `torch.no_grad`.
    """
    if _top_level(kind.__module__) != _PACKAGE:
        return True
    for value in vars(kind).values():
        for name in ("__func__", "fget", "func"):  # class and static methods, properties
            value = getattr(value, name, value)
        while isinstance(value, FunctionType):
            wrapped = getattr(value, "__wrapped__", None)
            allowed = _GENERATED if wrapped is None else _WRAPPERS
            if _top_level(str(value.__globals__.get("__name__"))) not in allowed:
                return False
            value = wrapped
    return True


def _has_hooks(part: object) -> bool:
    return isinstance(part, nn.Module) and bool(part._forward_hooks or part._forward_pre_hooks)


def _top_level(module: str) -> str:
    return module.split(".")[0]


def declarers(parts: Iterable[object]) -> tuple[str, ...]:
    """Names of the classes of objects that come from outside of the package, each once."""
    return tuple(dict.fromkeys(type(part).__name__ for part in parts if not is_own(part)))


def parts_of_scheme(scheme: GKM) -> Iterator[object]:
    """Objects that define the map of a scheme: the scheme, D_num, D_net and their parts."""
    yield scheme
    yield from _with_parts(scheme.operator)
    if scheme.net is not None:
        yield from parts_of_network(scheme.net)


def parts_of_network(net: Network) -> Iterator[nn.Module]:
    """A network and the networks inside it, and modules in networks of this package."""
    for module in net.modules():
        if isinstance(module, Network):
            yield from _with_parts(module)


def _with_parts(module: nn.Module) -> Iterator[nn.Module]:
    """A module and, if this package defines it, the modules inside it that are not torch's."""
    yield module
    if is_own(module):
        yield from (m for m in module.modules() if not _is_of_torch(m))


def _is_of_torch(module: nn.Module) -> bool:
    return _top_level(type(module).__module__) == "torch" and not _has_hooks(module)


def statements_of(problem: Problem) -> Iterator[Problem | Coupling]:
    """A problem and its relation, whose classes define f, g, h, A and b."""
    yield problem
    if problem.coupling is not None:
        yield problem.coupling


def functions_of(problem: Problem) -> Iterator[Smooth | Proximable]:
    """f, g and h."""
    yield problem.f
    yield problem.g
    if problem.coupling is not None:
        yield problem.coupling.h


def are_convex(problem: Problem) -> bool | None:
    """Whether this package's functions are convex; None: it is unknown for one of them."""
    convexity = [function.is_convex() for function in functions_of(problem) if is_own(function)]
    return False if False in convexity else None if None in convexity else True


def maps_of(problem: Problem) -> Iterator[LinearMap]:
    """The known linear maps of the data term and of the relation."""
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
