"""A finished or failed run with all that a comparison reads of it, and nothing that it can break.

A run folder may come from a stranger: whatever it holds is data of any shape.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bmo_cli.config.commands import command
from bmo_cli.config.snapshot import recorded_config
from bmo_cli.errors import InputError
from bmo_cli.results.run_folder import RunFolder
from bmo_cli.results.runs import Run

_LARGEST = 20 * 2**20
"""bytes of a certificate.json that is read; one that this package wrote has less than 1 MiB"""

_BESIDE = ("train_seconds", "peak_rss_mib", "evaluations", "products", "parameters", "steps")


def mapping(value: object) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def number(value: object) -> float | None:
    """The value if it is a finite number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer of hundreds of digits
        return None


def layout_of(value: object) -> str:
    """A format of a number that cannot ask for millions of digits."""
    return str(value) if re.fullmatch(r"\.\d[efg]", str(value)) else ".4g"


@dataclass(frozen=True)
class Metric:
    """A score that runs are compared by.

    Attributes:
        name: key among the metrics of result.json, as `test/psnr`.
        larger_is_better: whether it is.
        unit: of its values.
        layout: format of its values.
    """

    name: str
    larger_is_better: bool
    unit: str = ""
    layout: str = ".4g"

    @property
    def score(self) -> str:
        """Its name without the split."""
        return self.name.partition("/")[2]

    @property
    def titled(self) -> str:
        """Its name with its unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def with_unit(self, text: str) -> str:
        """A value that is shown, followed by the unit."""
        return f"{text} {self.unit}" if self.unit else text

    def better(self, a: float, b: float) -> bool:
        """Whether `a` is better than `b`."""
        return a > b if self.larger_is_better else a < b

    def show(self, value: float, *, sign: bool = False) -> str:
        """A value in the metric's format, without its unit."""
        return format(value, ("+" if sign else "") + self.layout)


@dataclass(frozen=True)
class Entry:
    """A run in a comparison.

    Attributes:
        run: its folder's name, result and age.
        certificates: results of `bmo certify` about it, the newest first.
    """

    run: Run
    certificates: Sequence[Run] = ()

    @property
    def folder(self) -> RunFolder:
        """Of the run."""
        return RunFolder(self.run.path)

    @property
    def finished(self) -> bool:
        """Whether it ended as it should."""
        return self.run.result.get("status") == "ok"

    @cached_property
    def config(self) -> Mapping[str, str]:
        """What it was made with: text by dotted key, interpolations as they were written."""
        try:
            return flat(recorded_config(self.run.path))
        except InputError:
            return {}

    @property
    def resume_command(self) -> str:
        """The command that goes on with it, with the plug-ins that it was started with.

        A stranger's folder cannot have one named that it brings along.
        """
        try:
            listed = json.loads(self.config.get("plugins", "[]"))
        except ValueError:
            listed = []
        own = self.run.path.resolve()
        plugins = [
            name
            for name in (listed if isinstance(listed, list) else [])
            if isinstance(name, str) and not Path(name).resolve().is_relative_to(own)
        ]
        return command("train", plugins=plugins, resume=self.name)

    @cached_property
    def history(self) -> Sequence[Mapping[str, float]]:
        """Rows of history.csv; none of a damaged one."""
        try:
            return self.folder.read_history()
        except (InputError, OSError, UnicodeDecodeError):
            return []

    @cached_property
    def certificate(self) -> Mapping[str, Any]:
        """Content of the newest certificate.json, empty where there is none that can be read.

        A run that went on without another certificate has none: the file is about earlier weights.
        """
        newest = self.certificates[0] if self.certificates else self.run
        if newest.result.get("certificate") is None:
            return {}
        file = newest.path / "certificate.json"
        try:
            if file.is_symlink() or file.stat().st_size > _LARGEST:
                return {}
            return mapping(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError):
            return {}

    @property
    def verdict(self) -> object:
        """Of the newest certificate; None: there is none."""
        newest = self.certificates[0] if self.certificates else self.run
        return newest.result.get("certificate")

    @property
    def seed(self) -> str:
        """Of the run, as text."""
        return str(self.run.result.get("seed", self.config.get("seed", "")))

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.run.name

    def choice(self, group: str) -> str:
        """Chosen option of a group, empty where there is none."""
        value = self.run.result.get(group)
        return "" if value is None else str(value)

    @property
    def metrics(self) -> Mapping[str, float]:
        """Finite values of result.json's metrics, and what stands beside them: costs."""
        result = self.run.result
        found = {**mapping(result.get("metrics")), **{key: result.get(key) for key in _BESIDE}}
        return {str(k): v for k, item in found.items() if (v := number(item)) is not None}

    def value(self, metric: str) -> float | None:
        """One of `metrics`."""
        return self.metrics.get(metric)

    @property
    def cases(self) -> Mapping[str, Mapping[str, float]]:
        """Scores of every test case, by name."""
        found = mapping(self.run.result.get("images"))
        return {
            str(name): {str(k): v for k, v in mapping(row).items() if number(v) is not None}
            for name, row in found.items()
        }

    def metric(self, split: str = "test") -> Metric | None:
        """The metric of its task on a split."""
        described = mapping(self.run.result.get("metric"))
        name = described.get("name")
        if not isinstance(name, str):
            return None
        return Metric(
            f"{split}/{name}",
            described.get("larger_is_better") is not False,
            str(described.get("unit", "")),
            layout_of(mapping(described.get("formats")).get(name)),
        )


def with_certificates(entries: Sequence[Entry], runs: Sequence[Run]) -> list[Entry]:
    """The entries, each with what `bmo certify` found about it.

    A certificate belongs to the run whose checkpoint and configuration it names by their hashes,
    wherever both lie; one that is older than the run's own is left out.

    Args:
        entries: runs.
        runs: all that there are, results of `bmo certify` among them.
    """
    certificates = [run for run in runs if {"run", "certificate"} <= set(run.result)]
    certificates.sort(key=lambda run: run.age)

    def about(entry: Entry) -> list[Run]:
        identity = mapping(entry.run.result.get("identity"))
        own = [run for run in certificates if identity and run.result.get("identity") == identity]
        has_own = entry.run.result.get("certificate") is not None
        return [run for run in own if not has_own or run.age <= entry.run.age]

    return [Entry(entry.run, about(entry)) for entry in entries]


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Leaves of a configuration as text, by dotted key."""
    found: dict[str, str] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{name}.")
        else:
            found[name] = value if isinstance(value, str) else json.dumps(value, default=str)
    return found
