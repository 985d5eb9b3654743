"""Findings about a scheme, and the bound of D that some of them use."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from bmo_cli.nets.network import LayerBound, Network
from bmo_cli.verification.evidence import Evidence

Verdict = Literal["holds", "violated", "not verifiable", "not used", "several"]

PROVED = 1e-6
"""excess over 1 that rounding may cause in the bound of a map that is nonexpansive by design"""
MEASURED = 1e-4
"""excess over 1 that rounding may cause in a ratio measured in float32"""


@dataclass(frozen=True)
class Finding:
    """One assumption or prediction of the theory.

    Attributes:
        name: the statement.
        verdict: whether it holds for this run.
        number: value that decides the verdict; None: there is none.
        meaning: one line with the reason and the consequence.
        evidence: evidence of the verdict; None: the statement is not verifiable or not used.
        declared_by: classes from outside of the package that declare it.
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
        value: value of the bound; None: it cannot be computed.
        why: origin of the bound, or why there is none.
        layers: bounds of the layers of the network.
        declared_by: classes from outside of the package that it uses; empty: it is proved.
        rounding: excess over 1 at which it still counts as nonexpansive, see `rounding_of`.
    """

    value: float | None
    why: str
    layers: tuple[LayerBound, ...] = ()
    declared_by: tuple[str, ...] = ()
    rounding: float = 0.0

    @property
    def nonexpansive(self) -> bool:
        """Whether D is nonexpansive if this bound is correct."""
        return self.value is not None and self.value <= 1 + self.rounding

    @property
    def evidence(self) -> Evidence:
        """The evidence of the bound."""
        return evidence_of(self.declared_by)

    @property
    def proves(self) -> bool:
        """Whether the bound shows that D is nonexpansive, and every part of it is proved."""
        return self.nonexpansive and not self.declared_by


def rounding_of(net: Network) -> float:
    """The excess over 1 that rounding may cause in the bound of a network.

    It is 0 for an unconstrained network. With weights near 0 such a network may be expansive by so
    little that no measurement in float32 detects it.
    """
    return PROVED if net.nonexpansive else 0.0


def evidence_of(declared_by: tuple[str, ...]) -> Evidence:
    """The evidence of a statement that is proved except for the declarations of these classes."""
    return "declared" if declared_by else "proved"


def finite_or_none(value: float) -> float | None:
    """The value for a finding; None if it is not finite."""
    return value if math.isfinite(value) else None


def nan_last(value: float) -> float:
    """A sort key that orders nan after every number."""
    return math.inf if math.isnan(value) else value


def nan_first(value: float) -> float:
    """A sort key that orders nan before every number."""
    return -math.inf if math.isnan(value) else value
