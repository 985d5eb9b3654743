"""Runs compared: groups of equal settings, differences of pairs, effects, quality against cost.

Runs that differ in their seed alone form a group. Intervals are Student's 95 % intervals over
seeds. A difference is taken between runs of equal seeds, which removes the effect of the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

from bmo_cli.errors import InputError
from bmo_cli.report.entry import Entry, Metric, content_hash
from bmo_cli.report.factors import Factor, describe, factors
from bmo_cli.results.statistics import mean_and_interval, paired_differences, pareto_front

if TYPE_CHECKING:
    from pandas import DataFrame

COSTS = {"evaluations": "T evals", "seconds": "seconds", "memory": "MiB"}
"""What a run costs: evaluations of T and products with its derivatives in training, seconds of
training, and the largest memory of its process."""
_SAME_INPUT = 0.01
"""Largest difference between scores of the same observations on two machines."""


@dataclass(frozen=True)
class Estimate:
    """Mean of `count` values and half the width of its 95 % interval (None: a single value)."""

    mean: float
    interval: float | None
    count: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.interval is not None and abs(self.mean) > self.interval

    def show(self, metric: Metric, *, sign: bool = False) -> str:
        """The mean with its interval, in the metric's format."""
        spread = "" if self.interval is None else f" ± {metric.show(self.interval)}"
        return metric.show(self.mean, sign=sign) + spread


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone.

    Attributes:
        label: the settings that distinguish the group.
        entries: the runs.
        indices: positions of the runs in the comparison.
        values: the metric by seed. Runs of equal seed count by their mean.
        costs: means by the keys of `COSTS`.
        difference: difference over equal seeds to the group compared against. None for that group
            itself and where no seed is shared.
        front: the costs for which the group is Pareto-optimal.
    """

    label: str
    entries: Sequence[Entry]
    indices: Sequence[int]
    values: Mapping[str, float]
    costs: Mapping[str, float]
    difference: Estimate | None = None
    front: tuple[str, ...] = ()

    @property
    def finished_count(self) -> int:
        """Number of finished runs."""
        return sum(entry.is_finished for entry in self.entries)

    @property
    def score(self) -> Estimate | None:
        """Mean score over the seeds; None if no run has a score."""
        return estimate(list(self.values.values()))


@dataclass(frozen=True)
class Effect:
    """What a setting changes, everything else being equal.

    Attributes:
        key: the setting.
        value: the value that is compared with `reference`.
        reference: the value that most runs can be compared with.
        change: change of the metric over all pairs of runs that are equal in everything else.
    """

    key: str
    value: str
    reference: str
    change: Estimate


@dataclass(frozen=True)
class Comparison:
    """Groups, differences and effects of the runs of one problem.

    Attributes:
        metric: the metric of the comparison.
        factors: the settings that differ.
        groups: groups from best to worst, then those without a score.
        against: label of the group that differences are taken to.
        effects: effects of all factors.
    """

    metric: Metric
    factors: Sequence[Factor]
    groups: Sequence[Group]
    against: str
    effects: Sequence[Effect]


def compare(entries: Sequence[Entry], metric: Metric, against: str | None = None) -> Comparison:
    """Compare runs of one problem, see `different_problem`.

    Args:
        entries: runs, including failed ones.
        metric: metric to compare by.
        against: part of the label of the group that differences are taken to; None: the best.

    Raises:
        InputError: `against` does not fit exactly one group.
    """
    varied = factors(entries)
    table = _table(entries, varied, metric)
    groups = _groups(entries, table)
    sign = -1 if metric.larger_is_better else 1
    groups.sort(key=lambda g: (g.score is None, sign * g.score.mean if g.score else 0.0, g.label))
    base = _select_group(groups, against)
    fronts = _fronts(groups, metric)
    groups = [
        replace(
            group,
            difference=None
            if group is base
            else estimate(paired_differences(group.values, base.values)),
            front=tuple(name for name in COSTS if group.label in fronts[name]),
        )
        for group in groups
    ]
    effects = [effect for k in range(len(varied)) for effect in _effects(table, varied, k)]
    return Comparison(metric, varied, groups, base.label, effects)


def different_problem(a: Entry, b: Entry) -> str | None:
    """Reason why the scores of two runs cannot be compared; None if they can.

    The task, the protocol, the test data and the observations must be the same. Observations are
    identified by their own scores.
    """
    for name, get in _IDENTITY.items():
        if get(a) != get(b):
            return f"{name}: {get(a) or 'none'} and {get(b) or 'none'}"
    operators = _other_operators(a, b)
    if operators is not None:
        return operators
    if a.cases and b.cases:
        if set(a.cases) != set(b.cases):
            return "the test cases have other names"
        for case, scores in a.cases.items():
            for key in scores:
                other = b.cases[case].get(key, scores[key])
                if key.endswith("_input") and abs(scores[key] - other) > _SAME_INPUT:
                    return f"other observations: {key} of {case} is {scores[key]:g} and {other:g}"
    return None


def problems(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Split runs by problem. A run that did not finish joins the first problem of its task."""
    parts: list[list[Entry]] = []
    for entry in sorted(entries, key=lambda entry: not entry.is_finished):
        for part in parts:
            same_task = part[0].choice("task") == entry.choice("task")
            if different_problem(part[0], entry) is None if entry.is_finished else same_task:
                part.append(entry)
                break
        else:
            parts.append([entry])
    return parts


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and interval of values; None without values."""
    return Estimate(*mean_and_interval(values), len(values)) if values else None


def cost(entry: Entry, name: str) -> float | None:
    """One of `COSTS` of a run."""
    if name != "evaluations":
        return entry.value({"seconds": "train_seconds", "memory": "peak_rss_mib"}[name])
    evaluations = entry.value("evaluations")
    return None if evaluations is None else evaluations + (entry.value("products") or 0)


def _test_data(entry: Entry) -> str:
    hashes = [content_hash(entry.data.get(split)) for split in ("test", "test_rain")]
    return " ".join(text for text in hashes if text is not None)


def _other_operators(a: Entry, b: Entry) -> str | None:
    """Difference between kernels or dictionaries that both runs name; None if there is none."""
    for key in sorted(set(a.data) & set(b.data)):
        if key.startswith(("kernel", "dictionary")) and a.data[key] != b.data[key]:
            return f"other test data: {key} {a.data[key]} and {b.data[key]}"
    return None


_IDENTITY: Mapping[str, Callable[[Entry], str]] = {
    "other tasks": lambda entry: entry.choice("task"),
    "other protocols": lambda entry: entry.run.result.protocol or "",
    "other test data": _test_data,
}


def _table(entries: Sequence[Entry], varied: Sequence[Factor], metric: Metric) -> DataFrame:
    """Tabulate runs, a row each: group label, seed, and factor values by position.

    Score and costs are those of finished runs.
    """
    import pandas

    text: dict[str | int, Sequence[str]] = {
        "label": [describe(varied, i) for i in range(len(entries))],
        "seed": [entry.seed for entry in entries],
        **{k: factor.values for k, factor in enumerate(varied)},
    }
    numbers = {
        "score": [entry.value(metric.name) if entry.is_finished else None for entry in entries],
        **{n: [cost(entry, n) if entry.is_finished else None for entry in entries] for n in COSTS},
    }
    return pandas.DataFrame(text, dtype=object).join(pandas.DataFrame(numbers, dtype=float))


def _groups(entries: Sequence[Entry], table: DataFrame) -> list[Group]:
    """Group runs by label. Scores of equal seed count by their mean."""
    return [
        Group(
            label,
            [entries[i] for i in rows.index],
            list(rows.index),
            rows.dropna(subset="score").groupby("seed")["score"].agg(fmean).to_dict(),
            {name: fmean(rows[name].dropna()) for name in COSTS if rows[name].notna().any()},
        )
        for label, rows in table.groupby("label", sort=False)
    ]


def _select_group(groups: Sequence[Group], against: str | None) -> Group:
    if against is None:
        return groups[0]
    fits = [group for group in groups if against in group.label]
    fits = [group for group in fits if group.label == against] or fits
    if len(fits) != 1:
        listed = "; ".join(group.label for group in fits or groups)
        which = "several groups fit" if fits else "no group fits"
        raise InputError(f"against={against}: {which}; name one of: {listed}")
    return fits[0]


def _fronts(groups: Sequence[Group], metric: Metric) -> dict[str, set[str]]:
    fronts = {}
    for name in COSTS:
        known = [(g, g.score.mean, g.costs[name]) for g in groups if g.score and name in g.costs]
        best = pareto_front(
            [(quality, spent) for _, quality, spent in known],
            larger_is_better=metric.larger_is_better,
        )
        fronts[name] = {g.label for (g, _, _), is_best in zip(known, best, strict=True) if is_best}
    return fronts


def _effects(table: DataFrame, varied: Sequence[Factor], position: int) -> list[Effect]:
    """Differences between runs with equal seeds that agree in every other factor.

    Where choices of a group are compared, the keys of that group need not agree: another choice has
    other keys.
    """
    key = varied[position].key
    others = [k for k, f in enumerate(varied) if k != position and not f.within(key)]
    if key == "method":  # it chooses all but the problem
        others = [k for k in others if varied[k].within("task")]
    scored = table.dropna(subset="score")
    means = scored.groupby([position, "seed", *others])["score"].agg(fmean).unstack(position)
    levels = [level for level in varied[position].levels if level in means]
    if key == "method":  # without one, runs differ in much else
        levels = [level for level in levels if level != ""]

    def against(reference: str) -> list[Effect]:
        changes = {
            level: estimate((means[level] - means[reference]).dropna().tolist())
            for level in levels
            if level != reference
        }
        return [Effect(key, level, reference, c) for level, c in changes.items() if c is not None]

    candidates = [against(level) for level in levels]
    return max(candidates, key=lambda effects: sum(e.change.count for e in effects), default=[])
