"""The part of certificate.json that the report shows, as an object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bmo_cli.errors import InputError
from bmo_cli.results.iteration_curves import Curves
from bmo_cli.results.json_types import convert, read_object

_LARGEST = 20 * 2**20
"""Bytes of a certificate.json that is read; one that this package wrote has less than 1 MiB."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """An assumption or a prediction of the theory with its verdict.

    Attributes:
        name: the statement that is assumed or predicted.
        verdict: `holds`, `violated`, `not verifiable` or `not used`.
        evidence: `proved`, `declared`, `measured` or empty.
        number: the measured value.
        meaning: what the number says.
        declared_by: the plug-ins that declare the statement.
    """

    name: str = ""
    verdict: str = ""
    evidence: str = ""
    number: float | None = None
    meaning: str = ""
    declared_by: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """The iteration from one start.

    Attributes:
        residuals: residuals for k = 1, 2, ...; None where one is not finite.
    """

    residuals: Sequence[float | None] = ()


@dataclass(frozen=True, kw_only=True)
class Bound:
    """The upper bound of the Lipschitz constant of D in G.

    Attributes:
        value: value of the bound; None: none is known.
        evidence: `proved` or `declared`.
    """

    value: float | None = None
    evidence: str = ""


@dataclass(frozen=True, kw_only=True)
class CertificateFile:
    """Content of certificate.json.

    Attributes:
        iterations_trained: K, the iterations of training.
        assumptions, predictions: statements of the theory.
        trajectories: the iteration from every start.
        validation: validation scores by metric and number of iterations.
        bound: of D.
        ratios: largest measured |D(a) - D(b)|_G / |a - b|_G by kind of pair.
        curves: the iteration of one problem from several starts; None: the file has none.
    """

    iterations_trained: int | None = None
    assumptions: Sequence[Finding] = ()
    predictions: Sequence[Finding] = ()
    trajectories: Mapping[str, Trajectory] = field(default_factory=dict)
    validation: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    bound: Bound = field(default_factory=Bound)
    ratios: Mapping[str, float] = field(default_factory=dict)
    curves: Curves | None = None

    @property
    def residuals(self) -> dict[str, list[tuple[float, float]]]:
        """Pairs (iteration, residual) by start, without starts that have none."""
        residuals = {
            start: [(float(k), r) for k, r in enumerate(trajectory.residuals, 1) if r is not None]
            for start, trajectory in self.trajectories.items()
        }
        return {start: points for start, points in residuals.items() if points}

    def scores(self, metric: str) -> list[tuple[float, float]]:
        """Pairs (iteration, validation score) of a metric, in order."""
        scores = self.validation.get(metric, {}).items()
        return sorted((float(k), score) for k, score in scores if k.isdecimal() and len(k) < 9)


def read_certificate(folder: Path) -> CertificateFile | None:
    """FOLDER/certificate.json without the values that have another type than expected.

    Returns:
        The certificate; None if there is no readable file.
    """
    file = folder / "certificate.json"
    try:
        if file.is_symlink() or not file.is_file() or file.stat().st_size > _LARGEST:
            return None
        content = read_object(file)
        content["validation"] = {
            key.removeprefix("val_"): content[key] for key in content if key.startswith("val_")
        }
        certificate: CertificateFile = convert(content, CertificateFile, tolerant=True)
        return certificate
    except (InputError, OSError):
        return None
