"""Runs as a comparison reads them.

A run folder may come from a stranger. Unreadable files count as missing, values of an unexpected
type are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bmo_cli.config.commands import format_command
from bmo_cli.config.snapshot import read_raw_snapshot
from bmo_cli.errors import InputError
from bmo_cli.report.certificate import CertificateFile, read_certificate
from bmo_cli.results.run_folder import RunFolder
from bmo_cli.results.runs import Run, leaves

_COSTS = ("train_seconds", "peak_rss_mib", "evaluations", "products", "parameters", "steps")
"""Fields of result.json that can be compared as metrics are."""


def layout_of(text: str) -> str:
    """The number format, or `.4g` instead of one that may ask for millions of digits."""
    return text if re.fullmatch(r"\.\d[efg]", text) else ".4g"


def content_hash(fingerprint: object) -> str | None:
    """The hash in a fingerprint of data; None if it has none."""
    text = fingerprint.get("hash") if isinstance(fingerprint, Mapping) else None
    return None if text is None else str(text)


@dataclass(frozen=True)
class Metric:
    """A metric that runs are compared by.

    Attributes:
        name: key in the metrics of result.json, for instance `test/psnr`.
        larger_is_better: whether larger values are better.
        unit: unit of the values.
        layout: number format of the values.
    """

    name: str
    larger_is_better: bool
    unit: str = ""
    layout: str = ".4g"

    @property
    def score(self) -> str:
        """The name without the split."""
        return self.name.partition("/")[2]

    @property
    def title(self) -> str:
        """The name with the unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def with_unit(self, text: str) -> str:
        """A formatted value, followed by the unit."""
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
        run: folder, status and result.
        certificates: results of `bmo certify` about the run, the newest first.
    """

    run: Run
    certificates: Sequence[Run] = ()

    @property
    def folder(self) -> RunFolder:
        """The run folder."""
        return RunFolder(self.run.path)

    @property
    def is_finished(self) -> bool:
        """Whether the run ended with status `ok`."""
        return self.run.status == "ok"

    @cached_property
    def config(self) -> Mapping[str, str]:
        """The configuration as text by dotted key, interpolations unresolved."""
        try:
            content = read_raw_snapshot(self.run.path)
        except InputError:
            return {}
        return {
            key: value if isinstance(value, str) else json.dumps(value, default=str)
            for key, value in leaves(content)
        }

    @property
    def resume_command(self) -> str:
        """The command that resumes the run, with its plug-ins.

        Plug-ins inside the run folder are left out: the folder may be a stranger's.
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
        return format_command("train", plugins=plugins, resume=self.name)

    @cached_property
    def history(self) -> Sequence[Mapping[str, float]]:
        """Rows of history.csv; empty if the file is damaged."""
        try:
            return self.folder.read_history()
        except (InputError, OSError, UnicodeDecodeError):
            return []

    @cached_property
    def certificate(self) -> CertificateFile | None:
        """Content of the newest certificate; None if there is none that can be read.

        A result without a verdict has no certificate, even if the file is there: the run was
        resumed, and the file is about earlier weights.
        """
        return None if self.verdict is None else read_certificate(self._certificate_run.path)

    @property
    def verdict(self) -> str | None:
        """Verdict of the newest certificate; None without a certificate."""
        return self._certificate_run.result.certificate

    @property
    def _certificate_run(self) -> Run:
        """The newest result of `bmo certify` about the run, or the run itself."""
        return self.certificates[0] if self.certificates else self.run

    @property
    def seed(self) -> str:
        """The seed as text."""
        seed = self.run.result.seed
        return self.config.get("seed", "") if seed is None else str(seed)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.run.name

    def choice(self, group: str) -> str:
        """Chosen option of a group; empty if there is none."""
        return self.run.result.choices.get(group) or ""

    @property
    def data(self) -> Mapping[str, Any]:
        """Fingerprints of the data by name."""
        return self.run.result.data or {}

    @cached_property
    def metrics(self) -> Mapping[str, float]:
        """Finite metrics and costs of result.json."""
        costs = {key: getattr(self.run.result, key) for key in _COSTS}
        values = {**self.run.result.metrics, **costs}
        return {key: float(value) for key, value in values.items() if value is not None}

    def value(self, metric: str) -> float | None:
        """One of `metrics`."""
        return self.metrics.get(metric)

    @property
    def cases(self) -> Mapping[str, Mapping[str, float]]:
        """Scores of every test case, by name."""
        return {
            case: {key: score for key, score in scores.items() if score is not None}
            for case, scores in (self.run.result.images or {}).items()
        }

    def metric(self, split: str = "test") -> Metric | None:
        """The task's metric on a split."""
        score = self.run.result.metric
        if score is None:
            return None
        return Metric(
            f"{split}/{score.name}",
            score.larger_is_better,
            score.unit,
            layout_of(score.formats.get(score.name, "")),
        )


def with_certificates(entries: Sequence[Entry], runs: Sequence[Run]) -> list[Entry]:
    """Add the results of `bmo certify` to the runs that they are about.

    A result belongs to the run with the same hashes of checkpoint and configuration. Results older
    than a certificate that the run made itself are left out.

    Args:
        entries: runs of `bmo train`.
        runs: all runs, including results of `bmo certify`.
    """
    certificates = [run for run in runs if run.result.run and run.result.certificate]
    certificates.sort(key=lambda run: run.age)

    def about(entry: Entry) -> list[Run]:
        identity = entry.run.result.identity
        own = [run for run in certificates if identity and run.result.identity == identity]
        has_own = entry.run.result.certificate is not None
        return [run for run in own if not has_own or run.age <= entry.run.age]

    return [Entry(entry.run, about(entry)) for entry in entries]
