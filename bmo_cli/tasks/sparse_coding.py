"""Sparse coding with a known dictionary: y = A x + noise, x sparse.

A has Gaussian entries and unit columns, x is Bernoulli-Gaussian: the synthetic benchmark of
learned sparse solvers (Chen et al., NeurIPS 2018; Chen et al., Open-L2O, JMLR 2022).

Shape legend: B codes, m rows, n columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from bmo_cli.config.checks import Count, Decibels, NonNegative, OpenUnit, Seed, checked
from bmo_cli.data.splits import Split
from bmo_cli.errors import InputError
from bmo_cli.linear.matrix import Matrix
from bmo_cli.solver.functions import L1, AtZero, LeastSquares, SquaredNorm
from bmo_cli.solver.problem import Coupling, Problem, Sample, SquaredError
from bmo_cli.solver.state import State
from bmo_cli.tasks.task import Case, Task

_SPLITS: dict[Split, int] = {"train": 0, "val": 1, "test": 2}


@checked
class SparseCoding(Task):
    """Recover x from y, starting at 0.

    Scores: `nmse` in dB, 10 log10( E|x - x*|^2 / E|x*|^2 ), over all codes of a split.

    Args:
        rows: m, measurements.
        columns: n, atoms.
        density: probability of a non-zero entry.
        snr: of the measurements in dB; None: without noise.
        kappa: weight of |x|_1 beside 1/2 |A x - y|^2.
        form: how the problem is written. lasso: f = 1/2 |A x - y|^2, g = kappa |x|_1. split: the
            same with z = y - A x, for operators of linear relations. exact: A x = y, basis pursuit.
        train_count: codes of a fixed training set, of which every batch is the next part, so that
            with a batch of this size phi_K is one function; None: fresh codes at every step.
        val_count: codes of the validation split.
        test_count: codes of the test split.
        eval_seed: of the dictionary and of the codes of validation and test.
        seed: of the codes of training.
    """

    metric = "nmse"
    larger_is_better = False
    unit = "dB"
    columns: ClassVar[Mapping[str, str]] = {"nmse": ".2f"}
    protocol = "NMSE in dB, 10 log10(E|x - x*|^2 / E|x*|^2) over all codes"

    def __init__(
        self,
        *,
        rows: Count = 256,
        columns: Count = 512,
        density: OpenUnit = 0.1,
        snr: Decibels | None = None,
        kappa: NonNegative = 0.1,
        form: Literal["lasso", "split", "exact"] = "lasso",
        train_count: Count | None = None,
        val_count: Count = 200,
        test_count: Count = 1000,
        eval_seed: Seed = 0,
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        self.density, self.snr, self.kappa, self.form = density, snr, kappa, form
        self.train_count = train_count
        self.counts = {"val": val_count, "test": test_count}
        self.eval_seed, self.seed = eval_seed, seed
        draw = np.random.default_rng([eval_seed, 0xD1C7]).normal(size=(rows, columns))
        atoms = torch.from_numpy(draw / np.linalg.norm(draw, axis=0)).float()
        self.dictionary: Tensor
        self.register_buffer("dictionary", atoms, persistent=False)
        self._map: Matrix | None = None

    def samples(self, steps: range, batch: int) -> Iterator[Sample]:
        if self.train_count is not None and self.train_count % batch:
            raise InputError(
                f"task.train_count={self.train_count} must be a multiple of train.batch={batch}"
            )
        rounds = None if self.train_count is None else self.train_count // batch
        for step in steps:
            part = step if rounds is None else step % rounds
            rng = np.random.default_rng([self.seed, _SPLITS["train"], part])
            codes, problem = self._draw(batch, rng)
            yield Sample(problem, (torch.zeros_like(codes),), SquaredError(codes))

    def cases(self, split: Split) -> Iterator[Case]:
        rng = np.random.default_rng([self.eval_seed, _SPLITS[split]])
        codes, problem = self._draw(self.counts[split], rng)
        yield Case(f"{len(codes)} codes", problem, (torch.zeros_like(codes),), codes)

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

    def _draw(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Problem]:
        """Codes (B, n) and their problem. Drawn on the CPU, so that devices agree."""
        shape = (count, self.dictionary.shape[1])
        drawn = rng.normal(size=shape) * (rng.random(shape) < self.density)
        codes = torch.from_numpy(drawn).to(self.dictionary)
        y = codes @ self.dictionary.mT
        if self.snr is not None:
            noise = torch.from_numpy(rng.normal(size=tuple(y.shape))).to(y)
            power = y.square().mean(1, keepdim=True) * 10 ** (-self.snr / 10)
            y = y + power.sqrt() * noise
        return codes, self.problem(y)
