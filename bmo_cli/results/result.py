"""result.json as an object: what a training run, an evaluation, a certificate or an audit leaves.

The command that makes a run writes it with `RunResult.write`. A folder may come from a stranger:
`RunResult.read` refuses a value of the wrong type, and `RunResult.read_tolerantly`, for lists and
reports of many runs, leaves it out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from bmo_cli.config.names import NAMED
from bmo_cli.errors import InputError
from bmo_cli.results.files import plain, write_atomically
from bmo_cli.results.json_types import convert, read_object

FILE = "result.json"
Status = Literal["running", "ok", "interrupted", "failed"]
"""Of a run: `running` is also what a process that was killed leaves."""


@dataclass(frozen=True)
class Score:
    """The metric of a task, with what readers of result.json need to compare values.

    Attributes:
        name: name of the metric, for instance `psnr`.
        unit: unit of the values.
        larger_is_better: whether larger values are better.
        formats: number formats of the scores that tables show, by name.
    """

    name: str
    unit: str = ""
    larger_is_better: bool = True
    formats: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Training:
    """What training adds to a result.

    Attributes:
        steps: hyper-training steps done.
        train_seconds: wall time of training, s, over all attempts.
        evaluations, products: of D, and vector-Jacobian products with D.
        best_step: of the best checkpoint, which is tested; None: training has not ended.
        profile: seconds by part of a step, where they were measured.
        metrics: val/..., train/...
        flags: what training steps remarked, and how often.
    """

    steps: int
    train_seconds: float
    evaluations: int
    products: int
    best_step: int | None = None
    profile: Mapping[str, float] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    flags: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Testing:
    """What an evaluation of the test split adds to a result.

    Attributes:
        protocol: how scores are computed, in words.
        data: fingerprints of the data, see `Task.fingerprints`.
        metrics: test/..., means over the cases.
        images: scores by name of the case.
        pictures: names of the pictures that were written of a case, in order.
        flags: remarks, with the number of cases.
    """

    protocol: str
    data: Mapping[str, Any]
    metrics: Mapping[str, float] = field(default_factory=dict)
    images: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    pictures: Mapping[str, Sequence[str]] = field(default_factory=dict)
    flags: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Certification:
    """What a certificate adds to a result.

    Attributes:
        certificate: the verdict.
        message: why it is refused; empty where it is not.
        metrics: certificate/...
    """

    certificate: str
    message: str
    metrics: Mapping[str, float | None]


Part = Training | Testing | Certification


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Content of result.json. None, or empty: the command does not have it, or not yet.

    Attributes:
        status: how far the command is.
        message: why it failed or stopped, or why a certificate is refused.
        metrics: scores by name; None: not finite.
        choices: chosen option of every group of `config.names.NAMED`; keys of the file itself.
        run: folder of the run that an evaluation or a certificate is about.
        seed: of the run.
        metric: of the task.
        parameters: learned numbers.
        versions, git, code: of what computed it, see `results.provenance`.
        device, devices: where, and how many shared a batch.
        nonexpansive: whether D is, by construction.
        notes: what the theory assumes and this configuration does not provide.
        plugins, weights: hashes of plug-ins, and of files of initial weights.
        steps, train_seconds, evaluations, products, best_step, profile: see `Training`.
        images, pictures, protocol, data: see `Testing`.
        flags: see `Training` and `Testing`.
        certificate: see `Certification`.
        peak_rss_mib: largest resident memory of the process, MiB.
        identity: hashes of the checkpoint and the configuration that the result is about.
        trained_in: folder of the cell of a table whose training this one took; None: it trained.
        cell_seconds: wall time of a cell of a table, s, over all attempts, without a training that
            it took.
        gradients, norms: records of an audit.
    """

    status: Status
    message: str = ""
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    choices: Mapping[str, str | None] = field(default_factory=dict)
    run: str | None = None
    seed: int | None = None
    metric: Score | None = None
    parameters: int | None = None
    versions: Mapping[str, str] | None = None
    git: Mapping[str, Any] | None = None
    code: str | None = None
    device: str | None = None
    devices: int | None = None
    nonexpansive: bool | None = None
    notes: Sequence[str] | None = None
    data: Mapping[str, Any] | None = None
    plugins: Mapping[str, str] | None = None
    weights: Mapping[str, str] | None = None
    steps: int | None = None
    train_seconds: float | None = None
    evaluations: int | None = None
    products: int | None = None
    best_step: int | None = None
    profile: Mapping[str, float] | None = None
    images: Mapping[str, Mapping[str, float | None]] | None = None
    pictures: Mapping[str, Sequence[str]] | None = None
    protocol: str | None = None
    flags: Mapping[str, int] | None = None
    certificate: str | None = None
    peak_rss_mib: float | None = None
    identity: Mapping[str, str] | None = None
    trained_in: str | None = None
    cell_seconds: float | None = None
    gradients: Sequence[Mapping[str, Any]] | None = None
    norms: Sequence[Mapping[str, Any]] | None = None

    def including(self, part: Part) -> RunResult:
        """Copy with a part added. Its metrics and flags join the present ones."""
        given = {entry.name: getattr(part, entry.name) for entry in fields(part)}
        given = {key: value for key, value in given.items() if value is not None}
        given["metrics"] = {**self.metrics, **given["metrics"]}
        if "flags" in given:
            given["flags"] = {**(self.flags or {}), **given["flags"]}
        return replace(self, **given)

    def write(self, folder: Path) -> None:
        """Replace FOLDER/result.json atomically."""
        text = json.dumps(self.content(), indent=2, allow_nan=False)
        write_atomically(folder / FILE, text.encode())

    def content(self) -> dict[str, Any]:
        """As result.json has it: plain data, null for NaN, the choices among the other keys."""
        content: dict[str, Any] = plain(self)
        choices: dict[str, Any] = content.pop("choices")
        return {key: value for key, value in content.items() if value is not None} | choices

    @classmethod
    def read(cls, folder: Path) -> RunResult | None:
        """Read FOLDER/result.json; None if there is no such file.

        Raises:
            InputError: the file cannot be read, or a value has another type than expected.
        """
        return cls._read(folder / FILE, tolerant=False)

    @classmethod
    def read_tolerantly(cls, folder: Path) -> RunResult | None:
        """As `read`, but leave out values that have another type than expected.

        Raises:
            InputError: the file cannot be read, or its status is unknown.
        """
        return cls._read(folder / FILE, tolerant=True)

    @classmethod
    def _read(cls, file: Path, *, tolerant: bool) -> RunResult | None:
        if not file.is_file():
            return None
        content = read_object(file)
        content["choices"] = {group: content[group] for group in NAMED if group in content}
        try:
            result: RunResult = convert(content, cls, tolerant=tolerant)
        except InputError as error:
            raise InputError(f"{file} is damaged: {error}") from error
        return result
