"""Measurements of hyper-gradients and operators, compared with what the methods promise."""

from __future__ import annotations

import copy
import itertools
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bmo_cli.errors import InputError
from bmo_cli.gkm.operator import Bounded, Exponential, NumericalOperator
from bmo_cli.gkm.scheme import GKM
from bmo_cli.hyper.base import HyperOptimizer
from bmo_cli.solver.cost import Cost, SavedBytes
from bmo_cli.solver.nonexpansive import worst_pair
from bmo_cli.verification.audit_problems import NormProblem, SmallProblem, norm_problems

_STEP = 1e-6  # of central differences; truncation and rounding errors are then below 1e-8
_REPEATS = 3


@dataclass(frozen=True)
class GradientRecord:
    """One hyper-gradient, compared with central finite differences of its objective.

    Attributes:
        problem, method: names.
        error: |g - r| / |r| with r the finite differences; nan if there is no gradient.
        angle: angle between g and r in degrees.
        bound: largest error that the method promises here; None: it promises nothing.
        note: why it promises nothing, or why it does not apply.
        evaluations: number of evaluations of T.
        products: number of vector-Jacobian products with D.
        seconds: median time of a forward and a backward pass.
        memory: bytes saved for the backward pass.
    """

    problem: str
    method: str
    error: float = math.nan
    angle: float = math.nan
    bound: float | None = None
    note: str = ""
    evaluations: int = 0
    products: int = 0
    seconds: float = math.nan
    memory: int = 0

    @property
    def failed(self) -> bool:
        """Whether the method breaks its promise."""
        return self.bound is not None and not self.error <= self.bound


def audit_gradient(
    name: str, problem: SmallProblem, method: str, hyper: HyperOptimizer, scheme: GKM
) -> GradientRecord:
    """Measure one hyper-optimiser.

    Args:
        name: name of the problem.
        problem: problem with its learned parameters.
        method: name of the hyper-optimiser.
        hyper: the hyper-optimiser.
        scheme: scheme in float64.
    """
    if not hyper.trains:
        return GradientRecord(name, method, note="takes no hyper-training step")
    omega = nn.ModuleList([problem.unknown, scheme])
    parameters = [p for p in omega.parameters() if p.requires_grad]
    iterations = problem.iterations

    def value() -> float:
        return hyper.objective(scheme, problem.sample(), iterations).objective.item()

    try:
        notes = hyper.check(scheme)
        seconds = []
        for _ in range(_REPEATS):
            omega.zero_grad(set_to_none=True)
            cost = Cost()
            counted = scheme.using(cost=cost)
            start = time.perf_counter()
            with SavedBytes() as saved:
                outcome = hyper.objective(counted, problem.sample(), iterations)
            outcome.objective.backward()  # type: ignore[no-untyped-call]
            seconds.append(time.perf_counter() - start)
    except InputError as reason:
        return GradientRecord(name, method, note=str(reason))
    gradient = torch.cat([_gradient(p).flatten() for p in parameters])
    expected = torch.cat([_differences(p, value).flatten() for p in parameters])
    error, angle = compare(gradient, expected)
    promised = hyper.accuracy(iterations)
    if outcome.flags:
        note = "; ".join(outcome.flags)
    elif promised is None:
        note = "biased by design"
    else:
        note = ""
    return GradientRecord(
        problem=name,
        method=method,
        error=error,
        angle=angle,
        bound=None if outcome.flags else promised,
        note="; ".join(filter(None, (note, *(() if promised is None else notes)))),
        evaluations=cost.evaluations,
        products=cost.vjps,
        seconds=statistics.median(seconds),
        memory=saved.total,
    )


def compare(gradient: Tensor, expected: Tensor) -> tuple[float, float]:
    """Relative error and angle in degrees; the error is absolute if `expected` is 0."""
    size = expected.norm().item()
    error = (gradient - expected).norm().item() / (size if size > 0 else 1.0)
    if size == 0 or gradient.norm() == 0:
        return error, 0.0 if size == gradient.norm() else 90.0
    apart = (gradient / gradient.norm() - expected / size).norm().item()
    return error, math.degrees(2 * math.asin(min(apart / 2, 1.0)))  # accurate for small angles


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _differences(parameter: nn.Parameter, value: Callable[[], float]) -> Tensor:
    """Central differences of `value` with respect to every entry of a parameter."""
    differences = torch.zeros_like(parameter.data)
    for index in itertools.product(*map(range, parameter.shape)):
        kept, values = parameter.data[index].item(), []
        for sign in (1, -1):
            parameter.data[index] = kept + sign * _STEP
            values.append(value())
        parameter.data[index] = kept
        differences[index] = (values[0] - values[1]) / (2 * _STEP)
    return differences


@dataclass(frozen=True)
class NormRecord:
    """Measured expansion of an operator in its metric.

    Attributes:
        operator, problem: names.
        condition: step-size condition of the operator, in words.
        inside: largest measured ratio over parameters that satisfy the condition.
        broken: the same ratio if the problem states its constants 30 % too small.
        nonexpansive: whether the operator promises a ratio of at most 1.
    """

    operator: str
    problem: str
    condition: str
    inside: float
    broken: float
    nonexpansive: bool

    @property
    def failed(self) -> bool:
        """Whether the operator breaks its promise."""
        return self.nonexpansive and not self.inside <= 1 + 1e-6


def audit_norm(name: str, operator: NumericalOperator) -> list[NormRecord]:
    """Measure one operator on every kind of problem that it applies to."""
    records = []
    true, false = norm_problems(1.0), norm_problems(1.3)
    for kind in true:
        try:
            inside = _worst(operator, true[kind])
        except InputError:
            continue
        broken = _worst(operator, false[kind])
        records.append(
            NormRecord(
                name, kind, operator.condition, inside, broken, nonexpansive=operator.nonexpansive
            )
        )
    return records


def _worst(operator: NumericalOperator, posed: NormProblem) -> float:
    """Largest ratio over radii and over parameters from end to end of their ranges."""
    ratios = []
    for share, scale in ((None, 0.0), (-30.0, -2.0), (-30.0, 2.0), (30.0, -2.0), (30.0, 2.0)):
        moved = copy.deepcopy(operator).double()
        for part in moved.modules():
            if isinstance(part, Bounded) and share is not None:
                part.theta.data.fill_(share)
            elif isinstance(part, Exponential):
                part.theta.data.add_(scale)
        mapping = GKM(operator=moved).bind(posed.problem)
        pair = worst_pair(mapping, (posed.points,), turns=100, radius=posed.radius)
        ratios.append(pair.ratio)
    return max(ratios)
