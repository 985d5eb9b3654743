"""`bmo compare`: what runs say together, as text or CSV."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bmo_cli.errors import InputError, printable
from bmo_cli.report.comparison import COSTS, Comparison, Estimate, Group, compare, different_problem
from bmo_cli.report.entry import Entry, Metric
from bmo_cli.report.left_out import is_trained, left_out, named
from bmo_cli.results.runs import Run, counted, select
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
    """What `bmo compare` prints.

    Args:
        words: folders, filters and keys as in `USAGE`.

    Raises:
        InputError: nothing to compare, or runs that do not compare.
    """
    selection = select(words, "compare", ("--anyway", "--csv"), ("metric", "better", "against"))
    entries = trained(selection.runs)
    metric = _metric(entries, selection.values.get("metric"), selection.values.get("better"))
    differing = _differing(entries)
    if differing and "--anyway" not in selection.flags:
        raise InputError(
            f"these runs do not compare ({differing}); choose some (task=..., or their folders), "
            "or compare them --anyway"
        )
    comparison = compare(entries, metric, selection.values.get("against"))
    remarks = [*left_out(selection.runs), *_unscored(entries, metric)]
    if differing:
        remarks.insert(0, f"compared anyway, although they differ: {printable(differing)}")
    if "--csv" in selection.flags:
        for remark in remarks:
            print(f"bmo: {remark}", file=sys.stderr)
        return _csv(comparison)
    return _text(comparison, entries, remarks)


def _unscored(entries: Sequence[Entry], metric: Metric) -> list[str]:
    """Finished runs that do not have the metric."""
    names = [e.name for e in entries if e.finished and e.value(metric.name) is None]
    return [named(f"finished without {metric.name}", names)] if names else []


def trained(runs: Sequence[Run]) -> list[Entry]:
    """Those that `bmo train` made: results about another run (eval, certify) are left out.

    Raises:
        InputError: there is none.
    """
    found = [Entry(run) for run in runs if is_trained(run)]
    if not found:
        why = "; ".join(left_out(runs))
        raise InputError(f"no runs of bmo train there; {why or 'bmo runs DIR lists what there is'}")
    return found


def _metric(entries: Sequence[Entry], name: str | None, better: str | None) -> Metric:
    if better not in (None, "larger", "smaller"):
        raise InputError(f"better={better}: expected larger or smaller")
    own = [m for entry in entries for split in ("test", "val") for m in [entry.metric(split)] if m]
    known = {m.name: m for m in own if any(e.value(m.name) is not None for e in entries)}
    if name is None:
        if not known:
            raise InputError("no run there has a score yet; 'bmo runs DIR' says how they stand")
        found = next((m for m in known.values() if m.name.startswith("test/")), None)
        found = found or next(iter(known.values()))
    elif name in known or f"test/{name}" in known:
        found = known.get(name) or known[f"test/{name}"]
    else:
        if all(entry.value(name) is None for entry in entries):
            there = sorted({key for entry in entries for key in entry.metrics})
            raise InputError(f"no run has the metric '{name}'; there are {', '.join(there)}")
        if better is None:
            raise InputError(f"say which values of {name} are better: better=larger or smaller")
        found = Metric(name, better == "larger")
    if better is not None:
        found = Metric(found.name, better == "larger", found.unit, found.layout)
    return found


def _differing(entries: Sequence[Entry]) -> str:
    finished = [entry for entry in entries if entry.finished]
    for entry in finished[1:]:
        why = different_problem(finished[0], entry)
        if why:
            return f"{finished[0].name} and {entry.name}: {why}"
    return ""


def _text(comparison: Comparison, entries: Sequence[Entry], remarks: Sequence[str]) -> str:
    metric, groups = comparison.metric, comparison.groups
    better = "larger" if metric.larger_is_better else "smaller"
    unit = f" in {metric.unit}" if metric.unit else ""
    head = f"{metric.name}{unit} ({better} is better) of {counted(len(entries))}"
    protocol = next((e.run.result.protocol for e in entries if e.finished), None)
    lines = [head + (f", {printable(protocol)}" if protocol else "")]
    lines += remarks
    pairs = any(group.difference for group in groups)
    against = f"difference to {comparison.against}" if len(groups) > 1 else ""
    header = ["", "runs", metric.name, *(["difference"] if pairs else []), *COSTS.values()]
    rows = [
        [
            printable(group.label),
            _count(group),
            "-" if group.score is None else group.score.show(metric),
            *([_difference(group, comparison, metric)] if pairs else []),
            *(f"{group.costs[name]:.4g}" if name in group.costs else "-" for name in COSTS),
            _front(group),
        ]
        for group in groups
    ]
    lines += ["", text_table([[*header, "Pareto"], *rows])]
    if pairs:
        lines += ["", f"{printable(against)}, over equal seeds"]
    elif len(groups) > 1:
        lines += ["", "no two groups share a seed: no differences of pairs"]
    if comparison.effects:
        lines += ["", "effects, everything else being equal"]
        lines.append(
            text_table(
                [
                    [
                        printable(f"{one.key}={one.value}"),
                        printable(f"against {one.reference or 'none'}"),
                        _change(one.change, metric),
                        f"({one.change.count} pairs)" if one.change.count > 1 else "(1 pair)",
                    ]
                    for one in comparison.effects
                ],
                left=2,
            )
        )
    if all(group.score is None or group.score.count == 1 for group in groups):
        lines += ["", "one seed each: no intervals; run more seeds (-m 'seed=range(3)')"]
    return "\n".join(lines)


def _count(group: Group) -> str:
    done, count = group.finished, len(group.entries)
    return f"{done}" if done == count else f"{done} of {count}"


def _change(value: Estimate, metric: Metric) -> str:
    return value.show(metric, sign=True) + (" *" if value.is_clear else "  ")


def _difference(group: Group, comparison: Comparison, metric: Metric) -> str:
    if group.difference is None:
        return "  " if group.label == comparison.against else "-  "
    return _change(group.difference, metric)


def _front(group: Group) -> str:
    return " ".join(name[0].upper() if name in group.front else "-" for name in COSTS)


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
                *(*values, len(group.entries), group.finished, *_cells(score, first=True)),
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
