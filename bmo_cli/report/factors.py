"""In what runs differ: the choices of groups, and the keys that differ within a choice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from bmo_cli.report.entry import Entry
from bmo_cli.report.settings import Settings

GROUPS = ("task", "method", "gkm", "net", "hyper")
"""Groups whose choice result.json names."""
_SEED = "seed"
"""Runs that differ in it alone are one group."""


@dataclass(frozen=True)
class Factor:
    """A key that not all runs have in common.

    Attributes:
        key: of the configuration, or a group.
        values: one an entry, as text; empty where an entry has no such key.
    """

    key: str
    values: Sequence[str]

    @property
    def levels(self) -> list[str]:
        """Its values, numbers by size, others in the order of the runs; nothing comes last."""
        levels = [value for value in dict.fromkeys(self.values) if value != ""]
        with suppress(ValueError):
            levels = sorted(levels, key=float)
        return levels + [""] * ("" in self.values)

    def within(self, group: str) -> bool:
        """Whether it is a key of this group."""
        return self.key.startswith(f"{group}.")


def factors(entries: Sequence[Entry]) -> list[Factor]:
    """What distinguishes these runs, seeds and keys that cannot move a score apart.

    Another choice of a group changes many keys at once: it counts as one difference, and a key
    counts where it differs between runs of the same choice. The same holds for a published method,
    which chooses several groups.
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
    """Places of one name with several contents, where nothing else tells the runs apart."""
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
    """An entry's values of all factors, as one would type them.

    A published method says what it chooses: the groups that all runs of it share go without saying.
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
    """Whether all runs of a method agree on a group."""
    pairs = {(entry.choice("method"), entry.choice(group)) for entry in entries}
    return len(pairs) == len({method for method, _ in pairs})


def _differ(values: Iterable[str]) -> bool:
    return len(set(values)) > 1
