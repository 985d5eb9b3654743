"""Results that a comparison leaves out, with the reasons."""

from __future__ import annotations

from collections.abc import Sequence

from bmo_cli.errors import escape_unprintable
from bmo_cli.results.runs import EMPTY, Run, count_runs

_SHOWN = 5
"""Names in a line."""


def is_trained(run: Run) -> bool:
    """Whether the run is one of `bmo train` and its result names the task."""
    return run.result.run is None and bool(run.result.choices.get("task"))


def exclusion_lines(runs: Sequence[Run]) -> list[str]:
    """A line for every reason to leave runs out, with the names of the runs."""
    by_reason: dict[str, list[str]] = {}
    for run in runs:
        if not is_trained(run):
            by_reason.setdefault(_reason(run), []).append(run.name)
    return [list_names(f"left out, {reason}", names) for reason, names in by_reason.items()]


def list_names(what: str, names: Sequence[str]) -> str:
    """`what: 7 runs (a, b, c, d, e and 2 more)`."""
    more = len(names) - _SHOWN
    listed = ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
    return escape_unprintable(f"{what}: {count_runs(len(names))} ({listed})")


def _reason(run: Run) -> str:
    if run.status == "damaged":
        return "damaged"
    if run.result.run is not None:
        return "about another run (bmo eval, bmo certify)"
    if run.result == EMPTY:
        return "without a result and without a record of what was chosen"
    return "without the name of a task"
