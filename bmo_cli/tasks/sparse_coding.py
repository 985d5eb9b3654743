"""Sparse coding with a known dictionary: y = A x + noise, x sparse.

A has Gaussian entries and unit columns, x is Bernoulli-Gaussian: the synthetic benchmark of
learned sparse solvers (Chen et al., NeurIPS 2018; Chen et al., Open-L2O, JMLR 2022).

Shape legend: B codes, m rows, n columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from bmo_cli.config.checks import NonNegative, checked
from bmo_cli.data.codes import SparseCodes
from bmo_cli.data.splits import Split
from bmo_cli.linear.matrix import Matrix
from bmo_cli.solver.functions import L1, AtZero, LeastSquares, SquaredNorm
from bmo_cli.solver.problem import Coupling, Problem, Sample, SquaredError
from bmo_cli.solver.state import State
from bmo_cli.tasks.task import Case, Task


@checked
class SparseCoding(Task):
    """Recover x from y, starting at 0.

    Scores: `nmse` in dB, 10 log10( E|x - x*|^2 / E|x*|^2 ), over all codes of a split.

    Args:
        kappa: weight of |x|_1 beside 1/2 |A x - y|^2.
        form: how the problem is written. lasso: f = 1/2 |A x - y|^2, g = kappa |x|_1. split: the
            same with z = y - A x, for operators of linear relations. exact: A x = y, basis pursuit.
        data_keys: arguments of `SparseCodes`: dictionary, codes and noise.
    """

    metric = "nmse"
    larger_is_better = False
    unit = "dB"
    columns: ClassVar[Mapping[str, str]] = {"nmse": ".2f"}
    protocol = "NMSE in dB, 10 log10(E|x - x*|^2 / E|x*|^2) over all codes"

    def __init__(
        self,
        *,
        kappa: NonNegative = 0.1,
        form: Literal["lasso", "split", "exact"] = "lasso",
        **data_keys: Any,
    ) -> None:
        super().__init__()
        self.kappa, self.form = kappa, form
        self.data = SparseCodes(**data_keys)
        self._map: Matrix | None = None

    @property
    def dictionary(self) -> Tensor:
        """A, (m, n)."""
        return self.data.dictionary

    def samples(self, steps: range, batch: int) -> Iterator[Sample]:
        for codes, y in self.data.batches(steps, batch):
            yield Sample(self.problem(y), (torch.zeros_like(codes),), SquaredError(codes))

    def cases(self, split: Split) -> Iterator[Case]:
        codes, y = self.data.split(split)
        yield Case(f"{len(codes)} codes", self.problem(y), (torch.zeros_like(codes),), codes)

    def score(self, estimate: State, case: Case) -> dict[str, float]:
        error = (estimate[0] - case.reference).double().square().sum()
        share = float(error / case.reference.double().square().sum())
        return {"nmse": -math.inf if share == 0 else 10 * math.log10(share)}

    def problem(self, y: Tensor) -> Problem:
        """The problem of observations y, (B, m), in the chosen form."""
        if self._map is None or self._map.a is not self.dictionary:  # moved to another device
            self._map = Matrix(self.dictionary)
        g = L1(self.kappa)
        if self.form == "lasso":
            return Problem(LeastSquares(self._map, y), g)
        h = AtZero() if self.form == "exact" else SquaredNorm()
        return Problem(g=g, coupling=Coupling(self._map, y, h))
