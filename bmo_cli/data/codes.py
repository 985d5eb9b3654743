"""Synthetic sparse codes and their measurements: y = A x + noise.

A has Gaussian entries and unit columns, x is Bernoulli-Gaussian.

Shape legend: B codes, m rows, n columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bmo_cli.config.checks import Count, Decibels, OpenUnit, Seed, checked
from bmo_cli.data.splits import Split
from bmo_cli.errors import InputError

_SPLITS: dict[Split, int] = {"train": 0, "val": 1, "test": 2}


@checked
class CodeSplits:
    """How many codes a split holds.

    Args:
        train_count: codes of a fixed training set; None: fresh codes at every step. Every batch is
            the next part of the set. With a batch of this size phi_K is one function.
        val_count: codes of the validation split.
        test_count: codes of the test split.
    """

    def __init__(
        self,
        *,
        train_count: Count | None = None,
        val_count: Count = 200,
        test_count: Count = 1000,
    ) -> None:
        self.train_count = train_count
        self.counts: dict[str, int] = {"val": val_count, "test": test_count}

    def parts(self, steps: range, batch: int) -> Iterator[int]:
        """The part of the training set that each step takes. Without a set every step has its own.

        Raises:
            InputError: the set is no multiple of the batch.
        """
        if self.train_count is None:
            yield from steps
            return
        if self.train_count % batch:
            raise InputError(
                f"task.train_count={self.train_count} must be a multiple of train.batch={batch}"
            )
        rounds = self.train_count // batch
        yield from (step % rounds for step in steps)


@checked
class SparseCodes(nn.Module):
    """Codes of a random dictionary, drawn on the CPU so that devices agree.

    Args:
        rows: m, measurements.
        columns: n, atoms.
        density: probability of a non-zero entry.
        snr: of the measurements in dB; None: without noise.
        seed: of the codes of training.
        eval_seed: of the dictionary and of the codes of validation and test.
        split_keys: arguments of `CodeSplits`.
    """

    def __init__(
        self,
        *,
        rows: Count = 256,
        columns: Count = 512,
        density: OpenUnit = 0.1,
        snr: Decibels | None = None,
        seed: Seed = 0,
        eval_seed: Seed = 0,
        **split_keys: Any,
    ) -> None:
        super().__init__()
        self.splits = CodeSplits(**split_keys)
        self.density, self.snr = density, snr
        self.seed, self.eval_seed = seed, eval_seed
        draw = np.random.default_rng([eval_seed, 0xD1C7]).normal(size=(rows, columns))
        atoms = torch.from_numpy(draw / np.linalg.norm(draw, axis=0)).float()
        self.dictionary: Tensor
        self.register_buffer("dictionary", atoms, persistent=False)

    def batches(self, steps: range, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Training codes x, (B, n), and their measurements y, (B, m), of every step."""
        for part in self.splits.parts(steps, batch):
            yield self._draw(batch, np.random.default_rng([self.seed, _SPLITS["train"], part]))

    def split(self, split: Split) -> tuple[Tensor, Tensor]:
        """All codes of validation or test, and their measurements."""
        rng = np.random.default_rng([self.eval_seed, _SPLITS[split]])
        return self._draw(self.splits.counts[split], rng)

    def _draw(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        shape = (count, self.dictionary.shape[1])
        entries = rng.normal(size=shape) * (rng.random(shape) < self.density)
        codes = torch.from_numpy(entries).to(self.dictionary)
        y = codes @ self.dictionary.mT
        if self.snr is not None:
            noise = torch.from_numpy(rng.normal(size=tuple(y.shape))).to(y)
            power = y.square().mean(1, keepdim=True) * 10 ** (-self.snr / 10)
            y = y + power.sqrt() * noise
        return codes, y
