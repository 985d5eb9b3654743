"""Settings in which runs differ: choices of groups, and keys that differ within a choice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from bmo_cli.report.entry import Entry
from bmo_cli.report.settings import Settings

GROUPS = ("task", "method", "gkm", "net", "hyper")
"""Groups whose choice result.json names."""
_SEED = "seed"
"""Runs that differ in this key alone form a group."""


@dataclass(frozen=True)
class Factor:
    """A setting with several values.

    Attributes:
        key: a key of the configuration, or a group.
        values: the value of every entry as text; empty where an entry has no such key.
    """

    key: str
    values: Sequence[str]

    @property
    def levels(self) -> list[str]:
        """Distinct values: numbers by size, text in the order of the runs, the empty value last."""
        levels = [value for value in dict.fromkeys(self.values) if value != ""]
        with suppress(ValueError):
            levels = sorted(levels, key=float)
        return levels + [""] * ("" in self.values)

    def within(self, group: str) -> bool:
        """Whether the key belongs to this group."""
        return self.key.startswith(f"{group}.")


def factors(entries: Sequence[Entry]) -> list[Factor]:
    """Settings that distinguish runs, without the seed and keys that cannot change a score.

    Another choice of a group changes many keys. It counts as one factor, and a key counts where it
    differs between runs of the same choice. The same holds for a published method, which chooses
    several groups.
    """
    varied = [
        Factor(group, values)
        for group in GROUPS
        for values in [[entry.choice(group) for entry in entries]]
        if _differ(values) and not (group != "method" and _follows_from_method(entries, group))
    ]
    settings = Settings(entries)
    for key in settings.keys:
        if key == _SEED:
            continue
        group = key.split(".")[0]
        choices = [
            (entry.choice("method"), entry.choice(group) if group in GROUPS else "")
            for entry in entries
        ]
        written = zip(choices, settings.comparable(key), strict=True)
        shown = settings.displayed(key)
        if len({*written}) > len({*choices}) and _differ(shown):
            varied.append(Factor(key, shown))
    return varied + _content_factors(settings, [describe(varied, i) for i in range(len(entries))])


def _content_factors(settings: Settings, labels: Sequence[str]) -> list[Factor]:
    """Paths whose contents differ between runs that are equal in everything else."""
    exchanged = []
    for key in settings.places:
        contents: dict[str, dict[str, int]] = {}
        numbers = []
        for label, content in zip(labels, settings.contents(key), strict=True):
            alike = contents.setdefault(label, {})
            numbers.append(alike.setdefault(content, len(alike)) if content else 0)
        if any(numbers):
            names = zip(settings.displayed(key), numbers, strict=True)
            exchanged.append(Factor(key, [f"{name} (content {n + 1})" for name, n in names]))
    return exchanged


def describe(varied: Sequence[Factor], index: int) -> str:
    """The values of an entry as words of a command line.

    Groups in which all runs of a published method agree are left out: the method implies them.
    """
    methods = next((f.values for f in varied if f.key == "method"), [""] * (index + 1))
    own = [i for i, method in enumerate(methods) if method == methods[index]]
    texts = [
        f"{f.key}={f.values[index]}"
        for f in varied
        if f.values[index] != ""
        and not (methods[index] and f.key in GROUPS[2:] and not _differ(f.values[i] for i in own))
    ]
    return " ".join(texts) or "defaults"


def _follows_from_method(entries: Sequence[Entry], group: str) -> bool:
    """Whether all runs of a method agree in a group."""
    pairs = {(entry.choice("method"), entry.choice(group)) for entry in entries}
    return len(pairs) == len({method for method, _ in pairs})


def _differ(values: Iterable[str]) -> bool:
    return len(set(values)) > 1
