"""Photographs with salt-and-pepper noise, restored patch by patch by robust sparse coding.

    min_{x, z}  kappa |x|_1 + |z|_1   subject to   Q x + z = b

b is a noisy patch, Q a dictionary, z what the dictionary does not explain: the corrupted pixels.
(The experiment of differentiable linearized ADMM: Xie, Wu, Liu, Zhong & Lin, ICML 2019.)

Shape legend: B patches, m pixels of a patch (rows), n atoms (columns), C channels, H x W pixels.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from bmo_cli import metrics
from bmo_cli.config.checks import Count, HalfOpenUnit, NonNegative, Positive, Seed, checked
from bmo_cli.data.dictionary import cosine_dictionary, learn_dictionary, read_dictionary
from bmo_cli.data.loaded import Photographs
from bmo_cli.data.patches import PatchGrid, as_tensor, central
from bmo_cli.data.splits import PhotographData, Split
from bmo_cli.errors import InputError
from bmo_cli.linear.matrix import Matrix
from bmo_cli.solver.functions import L1, LeastSquares
from bmo_cli.solver.problem import Coupling, Problem, Sample, SquaredError
from bmo_cli.solver.state import State
from bmo_cli.tasks.task import Case, Picture, Task

log = logging.getLogger(__name__)
_PART = 4096
"""Patches that are solved at a time: 8 MiB a block of 512 codes."""


@checked
class PatchCoding(Task):
    """Restore photographs from their sparse codes; the estimate of a patch is Q x, x starts at 0.

    Training takes random patches (of side sqrt(rows), whatever data.crop says); validation and
    test restore whole images from overlapping or adjacent patches. Colour photographs are restored
    channel by channel. The dictionary belongs to the checkpoint: an evaluation uses the very same.

    Args:
        data: the photographs.
        seed: of patches and noise in training.
        rows: m, pixels of a square patch: the square of its side, >= 4.
        columns: n, atoms.
        corrupted: share of pixels that become 0 or 1, with equal odds.
        kappa: weight of |x|_1.
        form: how the problem is written. split: as above, g = kappa |x|_1 and h = |z|_1, for
            operators of linear relations. lasso: f = 1/2 |Q x - b|^2 and g = kappa |x|_1, which
            takes the noise for Gaussian.
        dictionary: .npy or .npz file of an m x n matrix, whose columns are scaled to length 1;
            None: learned from the training photographs.
        dictionary_seed: of the patches that the dictionary is learned from.
        dictionary_steps: batches that it is learned from.
        dictionary_batch: patches in each.
        dictionary_kappa: weight of |x|_1 in learning it.
        stride: from patch to patch in validation and test, where overlapping patches are averaged;
            None: the side, adjacent patches.
        protocol: how scores are computed, see `metrics`.
        eval_seed: of the noise of validation and test.
    """

    metric = "psnr"
    unit = "dB"
    columns: ClassVar[Mapping[str, str]] = metrics.COLUMNS

    def __init__(
        self,
        *,
        data: PhotographData,
        seed: Seed = 0,
        rows: Count = 256,
        columns: Count = 512,
        corrupted: HalfOpenUnit = 0.1,
        kappa: NonNegative = 0.5,
        form: Literal["split", "lasso"] = "split",
        dictionary: str | None = None,
        dictionary_seed: Seed = 0,
        dictionary_steps: Count = 240,
        dictionary_batch: Count = 512,
        dictionary_kappa: Positive = 0.1,
        stride: Count | None = None,
        protocol: str = "float",
        eval_seed: Seed = 0,
    ) -> None:
        super().__init__()
        self.judge = metrics.protocol(protocol)
        self.protocol = self.judge.text
        self.side = math.isqrt(rows)
        if self.side < 2 or self.side**2 != rows:
            below = max(self.side, 2) ** 2
            raise InputError(
                f"task.rows must be the square of a patch's side, got {rows}; try {below} or "
                f"{(math.isqrt(below) + 1) ** 2}"
            )
        if columns < 2 and dictionary is None:
            raise InputError(
                "task.columns=1 leaves nothing to learn, since the first atom is constant; use 2 "
                "or more"
            )
        self.stride = self.side if stride is None else stride
        if self.stride > self.side:
            raise InputError(
                f"task.stride={stride} leaves gaps between patches of {self.side} x {self.side}; "
                f"use task.stride <= {self.side}"
            )
        self.data, self.seed, self.eval_seed = data, seed, eval_seed
        self.corrupted, self.kappa, self.form = corrupted, kappa, form
        self.file, self.dictionary_seed = dictionary, dictionary_seed
        self.learning = (dictionary_steps, dictionary_batch, dictionary_kappa)
        self._file_content: str | None = None
        self.dictionary: Tensor
        self.register_buffer("dictionary", torch.zeros(rows, columns))  # until it is known
        self._map: Matrix | None = None
        self._photographs = Photographs(data)

    def prepare(self, splits: Sequence[Split]) -> None:
        if self.data.eval_crop is not None and self.data.eval_crop < self.side:
            raise InputError(
                f"data.eval_crop={self.data.eval_crop} is smaller than a patch "
                f"({self.side} x {self.side})"
            )
        least = (self.side, self.side)
        self._photographs.prepare(splits, least, "a patch, the square root of task.rows")
        if "train" in splits:
            self.dictionary.copy_(self._find_dictionary())
            self._map = None
        elif self.file is not None:
            log.info("the dictionary is that of the checkpoint; %s is not read again", self.file)

    def _find_dictionary(self) -> Tensor:
        """Read or learned, (m, n), on the CPU, so that devices agree."""
        rows, columns = self.dictionary.shape
        if self.file is not None:
            matrix = read_dictionary(Path(self.file), rows=rows, columns=columns)
            self._file_content = _digest(matrix)
            return matrix
        steps, batch, kappa = self.learning
        log.info("learning a dictionary of %d atoms from the training photographs", columns)
        start = time.perf_counter()
        drawn = self._patches(range(steps), batch, self.dictionary_seed)
        initial = cosine_dictionary(self.side, columns)
        found = learn_dictionary((self._rows(p) for p in drawn), initial, kappa=kappa)
        log.info("learned it in %.0f s", time.perf_counter() - start)
        return found

    def samples(self, steps: range, batch: int) -> Iterator[Sample]:
        for step, drawn in zip(steps, self._patches(steps, batch, self.seed), strict=True):
            clean = self._rows(drawn)
            noisy = self._corrupt(clean, np.random.default_rng([self.seed, step, 0x5A17]))
            noisy, clean = noisy.to(self.dictionary), clean.to(self.dictionary)
            problem, initial = self._observed(noisy)
            yield Sample(problem, initial, SquaredError(clean, self._matrix()))

    def cases(self, split: Split) -> Iterator[Case]:
        images = self._photographs[split]
        for i, name in enumerate(images.names):
            clean = central(as_tensor(images[i]), self.data.eval_crop)
            noisy = self._corrupt(clean, np.random.default_rng([self.eval_seed, i, 0xE7A1]))
            patches = self._grid(clean).cut(noisy.to(self.dictionary))
            (problem, initial), *further = (self._observed(b) for b in torch.split(patches, _PART))
            yield Case(name, problem, initial, clean.to(self.dictionary), further)

    def problem(self, b: Tensor) -> Problem:
        """The problem of noisy patches b, (B, m), in the chosen form."""
        q, g = self._matrix(), L1(self.kappa)
        if self.form == "lasso":
            return Problem(LeastSquares(q, b), g)
        return Problem(g=g, coupling=Coupling(q, b, L1(1.0)))

    def score(self, estimate: State, case: Case) -> dict[str, float]:
        images = {"": self._restored(estimate, case), "_input": self._degraded(case)}
        return metrics.scores(self.judge, images, case.reference)

    def pictures(
        self, estimate: State, case: Case, scores: Mapping[str, float]
    ) -> dict[str, Picture]:
        degraded, restored = (f"{scores[key]:.2f} dB" for key in ("psnr_input", "psnr"))
        return {
            "clean": Picture(case.reference, f"{case.name}: clean"),
            "degraded": Picture(self._degraded(case), f"degraded {degraded}"),
            "restored": Picture(self._restored(estimate, case), f"restored {restored}"),
        }

    def fingerprints(self) -> dict[str, Any]:
        return self._photographs.fingerprints() | {
            "dictionary": _digest(self.dictionary),
            "dictionary_file": self._file_content,
        }

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._map = None  # the buffer is the same tensor with other values

    def _matrix(self) -> Matrix:
        if self._map is None or self._map.a is not self.dictionary:  # moved to another device
            if not self.dictionary.any():
                raise InputError("no dictionary yet: train first, or load the run's checkpoint")
            self._map = Matrix(self.dictionary)
        return self._map

    def _patches(self, steps: range, batch: int, seed: int) -> Iterator[Tensor]:
        """Random clean patches of these steps, (batch, C, side, side)."""
        return self._photographs.crops(steps, batch, seed, self.side)

    def _rows(self, patches: Tensor) -> Tensor:
        """(batch, C, side, side) -> (B, m): every channel is a patch of its own."""
        return patches.reshape(-1, self.side**2)

    def _corrupt(self, clean: Tensor, rng: np.random.Generator) -> Tensor:
        """Salt and pepper. Drawn on the CPU, so that devices agree."""
        hit = torch.from_numpy(rng.random(tuple(clean.shape)) < self.corrupted)
        salt = torch.from_numpy(rng.random(tuple(clean.shape)) < 0.5).to(clean.dtype)
        return torch.where(hit, salt, clean)

    def _observed(self, b: Tensor) -> tuple[Problem, State]:
        return self.problem(b), (b.new_zeros(len(b), self.dictionary.shape[1]),)

    def _grid(self, image: Tensor) -> PatchGrid:
        return PatchGrid((image.shape[-2], image.shape[-1]), self.side, self.stride)

    def _restored(self, estimate: State, case: Case) -> Tensor:
        return self._grid(case.reference).join(self._matrix()(estimate[0]))

    def _degraded(self, case: Case) -> Tensor:
        observed = torch.cat([_observation(problem) for problem, _ in case.parts])
        return self._grid(case.reference).join(observed)


def _digest(matrix: Tensor) -> str:
    content = matrix.detach().cpu().float().contiguous().numpy().tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


def _observation(problem: Problem) -> Tensor:
    """b of a problem of this task."""
    if problem.coupling is not None:
        return problem.coupling.b
    assert isinstance(problem.f, LeastSquares)
    return problem.f.y
