"""What is stated about a scheme: a finding each, and the bound of D that some rest on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from bmo_cli.nets.network import LayerBound, Network
from bmo_cli.verification.evidence import Evidence

Verdict = Literal["holds", "violated", "not verifiable", "not used", "several"]

PROVED = 1e-6
"""how far above 1 rounding may lift the bound of what is nonexpansive by its construction"""
MEASURED = 1e-4
"""how far above 1 a ratio measured in float32 may lie"""


@dataclass(frozen=True)
class Finding:
    """One assumption or prediction of the theory.

    Attributes:
        name: what is stated.
        verdict: whether it is true of this run.
        number: that the verdict rests on; None: there is none.
        meaning: a line that says why, and what it is good for.
        evidence: what the verdict rests on; None: on nothing, as it is not verifiable or not used.
        declared_by: classes from outside of the package, where the evidence is declared.
    """

    name: str
    verdict: Verdict
    number: float | None
    meaning: str
    evidence: Evidence | None = None
    declared_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bound:
    """An upper bound of the Lipschitz constant of D in G.

    Attributes:
        value: None: none can be computed.
        why: where it comes from, or why there is none.
        layers: of the network.
        declared_by: classes from outside of the package that it rests on; none: it is proved.
        rounding: how far above 1 it may lie and still bound a nonexpansive map, see `rounding_of`.
    """

    value: float | None
    why: str
    layers: tuple[LayerBound, ...] = ()
    declared_by: tuple[str, ...] = ()
    rounding: float = 0.0

    @property
    def nonexpansive(self) -> bool:
        """Whether D is nonexpansive, if this bound is one."""
        return self.value is not None and self.value <= 1 + self.rounding

    @property
    def evidence(self) -> Evidence:
        """What the bound rests on."""
        return evidence_of(self.declared_by)

    @property
    def proves(self) -> bool:
        """Whether D is nonexpansive by this bound, and every part of it is proved."""
        return self.nonexpansive and not self.declared_by


def rounding_of(net: Network) -> float:
    """How far above 1 the bound of a network may lie by rounding alone.

    That of an unconstrained network says what it says: weights that are nearly 0 expand all the
    same, and no measurement in float32 would see it.
    """
    return PROVED if net.nonexpansive else 0.0


def evidence_of(declared_by: tuple[str, ...]) -> Evidence:
    """What a statement rests on that is proved but for these classes."""
    return "declared" if declared_by else "proved"


def finite_or_none(value: float) -> float | None:
    """The value as a finding holds it; None where it is not finite."""
    return value if math.isfinite(value) else None


def nan_last(value: float) -> float:
    """A key that orders nan behind every number."""
    return math.inf if math.isnan(value) else value


def nan_first(value: float) -> float:
    """A key that orders nan before every number."""
    return -math.inf if math.isnan(value) else value
