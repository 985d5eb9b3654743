"""In what runs differ: the choices of groups, and the keys that differ within a choice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from bmo_cli.report.entry import Entry

GROUPS = ("task", "method", "gkm", "net", "hyper")
"""Groups whose choice result.json names."""
_NOT_COMPARED = ("seed", "resume", "plugins", "logger", "jobs")


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
        found = [value for value in dict.fromkeys(self.values) if value != ""]
        with suppress(ValueError):
            found = sorted(found, key=float)
        return found + [""] * ("" in self.values)

    def within(self, group: str) -> bool:
        """Whether it is a key of this group."""
        return self.key.startswith(f"{group}.")


def factors(entries: Sequence[Entry]) -> list[Factor]:
    """What distinguishes these runs, seeds apart.

    Another choice of a group changes many keys at once: it counts as one difference, and a key
    counts where it differs between runs of the same choice. The same holds for a published method,
    which chooses several groups.
    """
    found = [
        Factor(group, values)
        for group in GROUPS
        for values in [[entry.choice(group) for entry in entries]]
        if _differ(values) and not (group != "method" and _told_by_method(entries, group))
    ]
    keys = dict.fromkeys(key for entry in entries for key in entry.config)
    for key in keys:
        if key.split(".")[0] in _NOT_COMPARED:
            continue
        classes: dict[tuple[str, str], list[str]] = {}
        for entry in entries:
            group = key.split(".")[0]
            kind = (entry.choice("method"), entry.choice(group) if group in GROUPS else "")
            classes.setdefault(kind, []).append(entry.config.get(key, ""))
        if any(_differ(values) for values in classes.values()):
            found.append(Factor(key, [entry.config.get(key, "") for entry in entries]))
    return found


def describe(found: Sequence[Factor], index: int) -> str:
    """An entry's values of all factors, as one would type them.

    A published method says what it chooses: the groups that all runs of it share go without saying.
    """
    methods = next((f.values for f in found if f.key == "method"), [""] * (index + 1))
    own = [i for i, method in enumerate(methods) if method == methods[index]]
    texts = [
        f"{f.key}={f.values[index]}"
        for f in found
        if f.values[index] != ""
        and not (methods[index] and f.key in GROUPS[2:] and not _differ(f.values[i] for i in own))
    ]
    return " ".join(texts) or "defaults"


def _told_by_method(entries: Sequence[Entry], group: str) -> bool:
    """Whether all runs of a method agree on a group."""
    by_method: dict[str, set[str]] = {}
    for entry in entries:
        by_method.setdefault(entry.choice("method"), set()).add(entry.choice(group))
    return all(len(choices) == 1 for choices in by_method.values())


def _differ(values: Iterable[str]) -> bool:
    return len(set(values)) > 1
