"""`bmo compare`: comparison of runs as text or CSV."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from bmo_cli.errors import InputError, escape_unprintable
from bmo_cli.report.comparison import COSTS, Comparison, Estimate, Group, compare, different_problem
from bmo_cli.report.entry import Entry, Metric
from bmo_cli.report.exclusions import exclusion_lines, is_trained, list_names
from bmo_cli.results.runs import Run, count_runs, select
from bmo_cli.results.tables import comma_separated, text_table

USAGE = """bmo compare: groups of runs that differ in their seed alone, against one another

usage: bmo compare [DIR ...] [COLUMN=VALUE[,VALUE ...] ...] [metric=NAME] [better=larger|smaller]
                   [against=LABEL] [--anyway] [--csv]

metric   of result.json's metrics; by default the one of the task on the test split
better   which values are better, where the metric is not the task's own
against  part of the label of the group that differences are taken to; by default the best
--anyway compare although protocols, data or observations differ

Intervals are Student's, 95 %, over seeds. A difference is that of runs with equal seeds, an effect
that of runs which are equal in everything else. * : its interval leaves out zero. Pareto: no other
group is as good for as few evaluations (E), seconds (S) or MiB (M). Filters as in bmo runs."""


def summary(words: Sequence[str]) -> str:
    """The output of `bmo compare`.

    Args:
        words: folders, filters and keys as in `USAGE`.

    Raises:
        InputError: there are no runs, or they cannot be compared.
    """
    selection = select(words, "compare", ("--anyway", "--csv"), ("metric", "better", "against"))
    entries = training_entries(selection.runs)
    metric = _metric(entries, selection.values.get("metric"), selection.values.get("better"))
    differing = _first_difference(entries)
    if differing and "--anyway" not in selection.flags:
        raise InputError(
            f"these runs do not compare ({differing}); choose some (task=..., or their folders), "
            "or compare them --anyway"
        )
    comparison = compare(entries, metric, selection.values.get("against"))
    remarks = [*exclusion_lines(selection.runs), *_without_metric(entries, metric)]
    if differing:
        remarks.insert(0, f"compared anyway, although they differ: {escape_unprintable(differing)}")
    if "--csv" in selection.flags:
        for remark in remarks:
            print(f"bmo: {remark}", file=sys.stderr)
        return _csv(comparison)
    return _text(comparison, entries, remarks)


def _without_metric(entries: Sequence[Entry], metric: Metric) -> list[str]:
    """A line that names finished runs without the metric."""
    names = [e.name for e in entries if e.is_finished and e.value(metric.name) is None]
    return [list_names(f"finished without {metric.name}", names)] if names else []


def training_entries(runs: Sequence[Run]) -> list[Entry]:
    """Runs of `bmo train`, without results about another run (eval, certify).

    Raises:
        InputError: there are none.
    """
    entries = [Entry(run) for run in runs if is_trained(run)]
    if not entries:
        why = "; ".join(exclusion_lines(runs)) or "bmo runs DIR lists what there is"
        raise InputError(f"no runs of bmo train there; {why}")
    return entries


def _metric(entries: Sequence[Entry], name: str | None, better: str | None) -> Metric:
    if better not in (None, "larger", "smaller"):
        raise InputError(f"better={better}: expected larger or smaller")
    own = [m for entry in entries for split in ("test", "val") for m in [entry.metric(split)] if m]
    known = {m.name: m for m in own if any(e.value(m.name) is not None for e in entries)}
    if name is None:
        metric = _default_metric(known)
    else:
        metric = (
            known.get(name) or known.get(f"test/{name}") or _other_metric(entries, name, better)
        )
    return metric if better is None else replace(metric, larger_is_better=better == "larger")


def _default_metric(known: Mapping[str, Metric]) -> Metric:
    """The first metric of the test split, or else of validation."""
    if not known:
        raise InputError("no run there has a score yet; 'bmo runs DIR' says how they stand")
    tested = [metric for name, metric in known.items() if name.startswith("test/")]
    return next(iter([*tested, *known.values()]))


def _other_metric(entries: Sequence[Entry], name: str, better: str | None) -> Metric:
    """A value of result.json that is not the metric of a task."""
    if all(entry.value(name) is None for entry in entries):
        there = sorted({key for entry in entries for key in entry.metrics})
        raise InputError(f"no run has the metric '{name}'; there are {', '.join(there)}")
    if better is None:
        raise InputError(f"say which values of {name} are better: better=larger or smaller")
    return Metric(name, better == "larger")


def _first_difference(entries: Sequence[Entry]) -> str:
    finished = [entry for entry in entries if entry.is_finished]
    for entry in finished[1:]:
        why = different_problem(finished[0], entry)
        if why:
            return f"{finished[0].name} and {entry.name}: {why}"
    return ""


def _text(comparison: Comparison, entries: Sequence[Entry], remarks: Sequence[str]) -> str:
    metric, groups = comparison.metric, comparison.groups
    better = "larger" if metric.larger_is_better else "smaller"
    unit = f" in {metric.unit}" if metric.unit else ""
    head = f"{metric.name}{unit} ({better} is better) of {count_runs(len(entries))}"
    protocol = next((e.run.result.protocol for e in entries if e.is_finished), None)
    lines = [head + (f", {escape_unprintable(protocol)}" if protocol else "")]
    lines += [*remarks, "", _group_table(comparison)]
    if any(group.difference for group in groups):
        against = escape_unprintable(f"difference to {comparison.against}")
        lines += ["", f"{against}, over equal seeds"]
    elif len(groups) > 1:
        lines += ["", "no two groups share a seed: no differences of pairs"]
    if comparison.effects:
        lines += ["", "effects, everything else being equal", _effect_table(comparison)]
    if all(group.score is None or group.score.count == 1 for group in groups):
        lines += ["", "one seed each: no intervals; run more seeds (-m 'seed=range(3)')"]
    return "\n".join(lines)


def _group_table(comparison: Comparison) -> str:
    metric, groups = comparison.metric, comparison.groups
    has_pairs = any(group.difference for group in groups)
    header = ["", "runs", metric.name, *(["difference"] if has_pairs else []), *COSTS.values()]
    rows = [
        [
            escape_unprintable(group.label),
            _count(group),
            "-" if group.score is None else group.score.show(metric),
            *([_difference(group, comparison, metric)] if has_pairs else []),
            *(f"{group.costs[name]:.4g}" if name in group.costs else "-" for name in COSTS),
            " ".join(name[0].upper() if name in group.front else "-" for name in COSTS),
        ]
        for group in groups
    ]
    return text_table([[*header, "Pareto"], *rows])


def _effect_table(comparison: Comparison) -> str:
    rows = [
        [
            escape_unprintable(f"{effect.key}={effect.value}"),
            escape_unprintable(f"against {effect.reference or 'none'}"),
            _change(effect.change, comparison.metric),
            f"({effect.change.count} pairs)" if effect.change.count > 1 else "(1 pair)",
        ]
        for effect in comparison.effects
    ]
    return text_table(rows, left=2)


def _count(group: Group) -> str:
    done, count = group.finished_count, len(group.entries)
    return f"{done}" if done == count else f"{done} of {count}"


def _change(value: Estimate, metric: Metric) -> str:
    return value.show(metric, sign=True) + (" *" if value.is_clear else "  ")


def _difference(group: Group, comparison: Comparison, metric: Metric) -> str:
    if group.difference is None:
        return "  " if group.label == comparison.against else "-  "
    return _change(group.difference, metric)


def _csv(comparison: Comparison) -> str:
    keys = [factor.key for factor in comparison.factors]
    header = [*keys, "runs", "finished", "seeds", "mean", "interval95"]
    header += ["difference", "difference_interval95", "pairs", *COSTS]
    header += [f"pareto_{name}" for name in COSTS]
    rows = []
    for group in comparison.groups:
        values = [factor.values[group.indices[0]] for factor in comparison.factors]
        score, change = group.score, group.difference
        rows.append(
            [
                *(*values, len(group.entries), group.finished_count, *_cells(score, first=True)),
                *(*_cells(change), *(group.costs.get(name, "") for name in COSTS)),
                *(int(name in group.front) for name in COSTS),
            ]
        )
    return comma_separated(header, rows).rstrip("\n")


def _cells(value: Estimate | None, *, first: bool = False) -> list[object]:
    if value is None:
        return ["", "", ""]
    interval = "" if value.interval is None else value.interval
    return [value.count, value.mean, interval] if first else [value.mean, interval, value.count]
