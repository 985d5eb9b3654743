"""`--dry-run`: list what a table or a sweep would run, with an estimate of the time."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bmo_cli.config.schema import AnyConfig, Config
from bmo_cli.results.result import RunResult
from bmo_cli.results.tables import text_table


@dataclass(frozen=True)
class Work:
    """A run of a table or of a sweep.

    Attributes:
        name: in words.
        state: status in words.
        open: whether it would run.
        config: resolved.
        learns: whether it trains, or trained; a cell that takes the training of another does not.
        result: result.json of a finished run; None for others.
        kind: equal for runs that take about the same time, whatever their problem.
        place: its problem among those of its kind.
    """

    name: str
    state: str
    open: bool
    config: AnyConfig
    learns: bool
    result: RunResult | None
    kind: str = ""
    place: str = ""

    @property
    def tests(self) -> bool:
        """Whether it is scored on the test split."""
        return isinstance(self.config, Config) and self.config.eval.test


@dataclass(frozen=True)
class Estimate:
    """Estimated seconds of a run (None: unknown), and the basis of the estimate in words."""

    seconds: float | None
    basis: str

    def __str__(self) -> str:
        return (
            self.basis if self.seconds is None else f"{self.basis} {format_duration(self.seconds)}"
        )


def estimate(work: Work, done: Sequence[Work]) -> Estimate:
    """Estimate the time of a run from similar finished runs, else from its own limits.

    Args:
        work: the run.
        done: finished runs.
    """
    alike = [
        other
        for other in done
        if (other.kind, other.tests) == (work.kind, work.tests)
        and other.learns >= work.learns
        and other.result is not None
        and other.result.cell_seconds is not None
    ]
    near = [other for other in alike if other.place == work.place] or alike
    if near:
        spent = [_cell_seconds(other, training=work.learns) for other in near]
        return Estimate(statistics.fmean(spent), "about")
    if not isinstance(work.config, Config):
        return Estimate(None, "unknown")
    train = work.config.train
    limit = train.max_minutes
    rates = [
        (result.train_seconds or 0.0) / result.steps
        for other in done
        if _step_settings(other) == _step_settings(work)
        and (result := other.result) is not None
        and result.steps
    ]
    if work.learns and rates and train.steps is not None:
        seconds = train.steps * statistics.fmean(rates)
        return Estimate(min(seconds, 60 * limit) if limit is not None else seconds, "about")
    if work.learns and limit is not None:
        ends = "at most, before the test," if work.tests else "at most"
        return Estimate(60 * float(limit), ends)
    return Estimate(None, "unknown")


def _step_settings(work: Work) -> list[Any]:
    """The settings that determine how long a step takes."""
    config = work.config
    assert isinstance(config, Config)
    parts = [_without_seeds(node) for node in (config.task, config.gkm, config.net, config.hyper)]
    return [*parts, config.train.iterations, config.train.batch, config.data]


def _cell_seconds(work: Work, *, training: bool) -> float:
    """Seconds of a finished run, with or without its training."""
    result = work.result
    assert result is not None and result.cell_seconds is not None
    if training or not work.learns:
        return result.cell_seconds
    return max(0.0, result.cell_seconds - (result.train_seconds or 0.0))


def _without_seeds(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _without_seeds(value) for key, value in node.items() if key != "seed"}
    return node


def list_works(
    works: Sequence[Work], what: str, unsettled: int, jobs: int, *, scale: float = 1.0
) -> str:
    """A line for each run with its name, status and estimated time; then the total.

    Args:
        works: the runs.
        what: what a run is called, such as `cell`.
        unsettled: number of runs that depend on the scores of others.
        jobs: runs at a time.
        scale: where the runs are examples, the number of all runs divided by that of the examples.
    """
    done = [work for work in works if work.result is not None]
    lines, seconds, unknown, limits = [[what, "state", "time"]], 0.0, unsettled, False
    for work in works:
        time = ""
        if work.open:
            expected = estimate(work, done)
            time, unknown = str(expected), unknown + (expected.seconds is None)
            seconds += scale * (expected.seconds or 0.0)
            limits = limits or expected.basis.startswith("at most")
        lines.append([work.name, work.state, time])
    total = (
        [f"{'at most' if limits else 'about'} {format_duration(seconds / jobs)}"] if seconds else []
    )
    total += [f"{unknown} {what}s of unknown time"] if unknown else []
    ends = f" with jobs={jobs}" if jobs > 1 else ""
    ends += f" ({unsettled} {what}s depend on what tuning chooses)" if unsettled else ""
    shown = (" and ".join(total) or "nothing to run") + ends
    return f"{text_table(lines)}\n\nin all: {shown}; nothing was run or written"


def format_duration(seconds: float) -> str:
    """A duration in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
