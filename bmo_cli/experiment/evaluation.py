"""Evaluation: T is iterated from the observation alone, then the estimate is scored.

`solve` is the code path behind every reported number; it takes no ground truth (docs/method.md,
"No ground truth in evaluation").
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bmo_cli.config.schema import Evaluate
from bmo_cli.data.splits import Split
from bmo_cli.errors import DivergenceError, InputError
from bmo_cli.gkm.scheme import GKM
from bmo_cli.metrics import mean
from bmo_cli.solver.anderson import Anderson
from bmo_cli.solver.each import iterate_each
from bmo_cli.solver.fixed_point import FixedPointMap, Solution, Status, iterate
from bmo_cli.solver.null_space import NullSpace, near_null_space, require_few_unknowns
from bmo_cli.solver.problem import Problem
from bmo_cli.solver.state import State, subtract
from bmo_cli.tasks.task import Case, Task


@dataclass(frozen=True)
class Settings:
    """Settings of the iteration of a trained scheme, from `eval` of the configuration.

    Attributes:
        iterations: largest number of evaluations of T.
        tolerance: residual at which the iteration stops; 0: it never stops early.
        anderson: memory of Anderson acceleration; 0: none.
    """

    iterations: int
    tolerance: float = 0.0
    anderson: int = 0

    @classmethod
    def of(cls, section: Evaluate) -> Settings:
        """Take the settings from the section `eval` of the configuration."""
        return cls(section.iterations, section.tolerance, section.anderson)


@dataclass(frozen=True)
class Estimate:
    """The outcome of `solve`.

    Attributes:
        value: estimate of u.
        iterations: evaluations of T.
        residual: |D(u) - u|_G / |u|_G at the last iterate, the largest of the batch.
    """

    value: State
    iterations: int
    residual: float


@torch.no_grad()
def solve(
    scheme: GKM, problem: Problem, initial: State, settings: Settings, *, check: bool = True
) -> Estimate:
    """Iterate T from the observation alone.

    Args:
        scheme: trained.
        problem, initial: the problem and u^0, without ground truth.
        settings: of the iteration.
        check: whether the residual is that of the result, for which D is evaluated once more.
            Otherwise, if the tolerance was not reached, it is that of the iterate before.

    Raises:
        DivergenceError: an iterate became non-finite.
        InputError: Anderson acceleration of a scheme that changes with the iteration.
    """
    if settings.tolerance and not settings.anderson and _is_divisible(problem, initial):
        return _solve_each(scheme, problem, initial, settings)
    mapping = scheme.bind(problem)
    iterations, acceleration = settings.iterations, None
    if settings.anderson and not scheme.stationary:
        raise InputError(
            "eval.anderson accelerates one map, but this scheme changes with the iteration "
            "(FISTA, or gkm.stages > 1); use eval.anderson=0"
        )
    if settings.anderson:
        acceleration = Anderson(mapping.metric, memory=settings.anderson, iterations=iterations)
    solution = iterate(
        mapping,
        initial,
        iterations=iterations,
        tolerance=settings.tolerance,
        acceleration=acceleration,
    )
    if solution.status is Status.NONFINITE:
        raise _divergence_error(solution.iterations, settings)
    u, done, residual = solution.value, solution.iterations, solution.residuals[-1]
    if check and solution.status is not Status.CONVERGED:
        residual = float(mapping.residual(u, mapping.D(u, done)).max())
    return Estimate(mapping.estimate(u), done, residual)


def _is_divisible(problem: Problem, initial: State) -> bool:
    """Whether this is a batch of several problems that can be divided."""
    if len(initial[0]) == 1:
        return False
    try:
        problem.select(torch.arange(1, device=initial[0].device))
    except InputError:
        return False
    return True


def _solve_each(scheme: GKM, problem: Problem, initial: State, settings: Settings) -> Estimate:
    """Solve the problems of a batch, each until its own tolerance is reached.

    The whole batch is bound once more, to read the estimate from the last state.
    """
    size = len(initial[0])

    def bind(problems: Tensor) -> FixedPointMap:
        return scheme.bind(problem if len(problems) == size else problem.select(problems))

    ends = iterate_each(bind, initial, iterations=settings.iterations, tolerance=settings.tolerance)
    if ends.status is Status.NONFINITE:
        raise _divergence_error(int(ends.iterations.max()), settings)
    estimate = scheme.bind(problem).estimate(ends.value)
    return Estimate(estimate, int(ends.iterations.max()), float(ends.residuals.max()))


def _divergence_error(iterations: int, settings: Settings) -> DivergenceError:
    return DivergenceError(
        f"iterate {iterations + 1} of {settings.iterations} became non-finite: the scheme is "
        "expansive at these weights; use fewer eval.iterations or net=lip"
    )


def solve_case(scheme: GKM, case: Case, settings: Settings) -> Estimate:
    """Solve the problems of a case, and join their estimates to one batch.

    For several problems, only the blocks of the problems themselves are kept, not auxiliary
    variables of the scheme. Residual and iterations are the largest ones.

    Raises:
        DivergenceError, InputError: as `solve`.
    """
    if not case.further:
        return solve(scheme, case.problem, case.initial, settings)
    estimates = [solve(scheme, problem, initial, settings) for problem, initial in case.parts]
    return Estimate(
        _concatenate([estimate.value for estimate in estimates], len(case.initial)),
        max(estimate.iterations for estimate in estimates),
        max(estimate.residual for estimate in estimates),
    )


def _concatenate(estimates: Sequence[State], blocks: int) -> State:
    """The first blocks of several estimates as one batch."""
    if len(estimates) == 1:
        return estimates[0]
    return tuple(torch.cat([estimate[i] for estimate in estimates]) for i in range(blocks))


@dataclass(frozen=True)
class Evaluation:
    """Scores of one image: those of the task, `residual`, `iterations` and `seconds`."""

    case: Case
    estimate: State
    scores: dict[str, float]


def evaluate(
    scheme: GKM,
    task: Task,
    split: Split,
    settings: Settings,
    *,
    report: Callable[[Evaluation], None] = lambda _: None,
) -> dict[str, dict[str, float]]:
    """Scores by image name. `report` receives every estimate, which is then discarded."""
    scores_by_name: dict[str, dict[str, float]] = {}
    for case in task.cases(split):
        start = time.perf_counter()
        estimate = solve_case(scheme, case, settings)
        seconds = time.perf_counter() - start
        scores = {key: float(v) for key, v in task.score(estimate.value, case).items()}
        scores |= {
            "residual": estimate.residual,
            "iterations": estimate.iterations,
            "seconds": seconds,
        }
        scores_by_name[case.name] = scores
        report(Evaluation(case, estimate.value, scores))
    return scores_by_name


@dataclass(frozen=True)
class Trace:
    """T iterated on one case.

    Attributes:
        scores: the task's metric by number of iterations; infinitely bad once an iterate is not
            finite.
        residuals: |D(u^k) - u^k|_G / |u^k|_G for k = 0, 1, ..., the largest of all problems of the
            case, until an iterate is not finite.
        steps: |x^k - x^(k-1)| / |x^(k-1)| of the estimate x of the whole case by number k of
            iterations; infinite once an iterate is not finite. Empty where they are not followed.
    """

    scores: dict[int, float]
    residuals: tuple[float, ...]
    steps: dict[int, float] = field(default_factory=dict, compare=False)


@torch.no_grad()
def trace_case(
    scheme: GKM,
    task: Task,
    case: Case,
    counts: Sequence[int],
    starts: Sequence[State] | None = None,
) -> Trace:
    """Iterate T on a case, and score its estimate after each of several numbers of iterations.

    Args:
        scheme: trained.
        task: scores the estimates.
        case: to be solved.
        counts: numbers of iterations, increasing.
        starts: u^0 of each problem of the case; None: its own.
    """
    mappings = [scheme.bind(problem) for problem, _ in case.parts]
    states = list(starts or (initial for _, initial in case.parts))
    scores = dict.fromkeys(counts, -math.inf if task.larger_is_better else math.inf)
    steps, residuals = dict.fromkeys(counts, math.inf), list[float]()
    for count in counts:
        done = len(residuals)
        ends = [_advance(m, u, done, count) for m, u in zip(mappings, states, strict=True)]
        solutions = [solution for solution, _ in ends]
        columns = zip(*(solution.residuals for solution in solutions), strict=False)
        residuals += [max(column) for column in columns if all(map(math.isfinite, column))]
        if any(solution.status is Status.NONFINITE for solution in solutions):
            break
        states = [solution.value for solution in solutions]
        blocks = len(case.initial)
        x = _join_estimates(mappings, states, blocks)
        before = _join_estimates(mappings, [u for _, u in ends], blocks)
        scores[count], steps[count] = task.score_metric(x, case), _relative_step(before, x)
    return Trace(scores, tuple(residuals), steps)


def _advance(mapping: FixedPointMap, u: State, start: int, stop: int) -> tuple[Solution, State]:
    """The iterations `start`, ..., `stop - 1` from u, and the iterate before the last one."""
    before = [u]

    def keep(k: int, u: State, following: State) -> None:
        before[0] = u

    return iterate(mapping, u, iterations=stop - start, start=start, observe=keep), before[0]


def _join_estimates(mappings: Sequence[FixedPointMap], us: Sequence[State], blocks: int) -> State:
    """The first blocks of the estimates of several problems as one batch."""
    estimates = [mapping.estimate(u) for mapping, u in zip(mappings, us, strict=True)]
    return _concatenate(estimates, blocks)


def _relative_step(before: State, after: State) -> float:
    """|after - before| / |before| of a whole batch; infinite where `before` is 0."""
    step, size = (
        math.sqrt(sum(float(block.double().square().sum()) for block in u))
        for u in (subtract(after, before), before)
    )
    return step / size if size else math.inf


def trace_cases(
    scheme: GKM, task: Task, cases: Iterable[Case], counts: Sequence[int]
) -> dict[str, float]:
    """Means over cases after each of several numbers of iterations of T.

    Args:
        scheme, task, counts: as in `trace_case`.
        cases: problems.

    Returns:
        The task's metric as `METRIC@COUNT`, infinitely bad once an iterate is not finite, and the
        relative step of the estimate as `step@COUNT`.
    """
    traces = [trace_case(scheme, task, case, counts) for case in cases]
    scores = {f"{task.metric}@{k}": mean([trace.scores[k] for trace in traces]) for k in counts}
    return scores | {f"step@{k}": mean([trace.steps[k] for trace in traces]) for k in counts}


_FEW = 4
"""problems of a batch at which D is linearised"""
_MAX_ITERATIONS, _TOLERANCE = 10_000, 1e-6
"""until T counts as converged"""


def measure_null_spaces(scheme: GKM, cases: Iterable[Case]) -> dict[str, float]:
    """The near-null space of I - dD/du at a fixed point of each case, see `solver.null_space`.

    T is iterated from the start of the case until it has converged, without acceleration.

    Args:
        scheme: trained.
        cases: of each, at most four problems of its first batch count.

    Returns:
        `null_space`, the mean dimension, and `unknowns`, the mean number of entries of a state.

    Raises:
        InputError: the scheme has no single map or does not converge, a state is too large, or a
            large batch cannot be divided.
    """
    if not scheme.stationary:
        raise InputError("eval.null_space is about one map, and this scheme has several")
    spaces = [_measure_null_space(scheme, case) for case in cases]
    return {
        "null_space": mean([space.dimension for space in spaces]),
        "unknowns": mean([float(space.unknowns) for space in spaces]),
    }


def _measure_null_space(scheme: GKM, case: Case) -> NullSpace:
    problem, initial = case.problem, case.initial
    if len(initial[0]) > _FEW:
        few = torch.arange(_FEW, device=initial[0].device)
        problem, initial = problem.select(few), tuple(block[few] for block in initial)
    mapping = scheme.bind(problem)
    with torch.no_grad():
        start = mapping.lift(initial)
        require_few_unknowns(start)
        end = iterate(mapping, start, iterations=_MAX_ITERATIONS, tolerance=_TOLERANCE)
    if end.status is not Status.CONVERGED:
        raise InputError(
            f"eval.null_space is about a fixed point, and T has not reached one after "
            f"{end.iterations} iterations: residual {end.residuals[-1]:.1e}"
        )
    return near_null_space(mapping, end.value)


def average_scores(scores: dict[str, dict[str, float]], prefix: str) -> dict[str, float]:
    """Mean of every score over the images, named `prefix/score`."""
    keys = next(iter(scores.values()), {}).keys()
    return {f"{prefix}/{key}": mean([row[key] for row in scores.values()]) for key in keys}
