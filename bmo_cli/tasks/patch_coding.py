"""Photographs with salt-and-pepper noise, restored patch by patch by robust sparse coding.

    min_{x, z}  kappa |x|_1 + |z|_1   subject to   Q x + z = b

b is a noisy patch, Q a dictionary, z what the dictionary does not explain: the corrupted pixels.
(The experiment of differentiable linearized ADMM: Xie, Wu, Liu, Zhong & Lin, ICML 2019.)

Shape legend: B patches, m pixels of a patch (rows), n atoms (columns), C channels, H x W pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from bmo_cli.config.checks import NonNegative, checked
from bmo_cli.data.dictionary_source import dictionary_digest
from bmo_cli.data.noisy_patches import NoisyPatches
from bmo_cli.data.splits import Split
from bmo_cli.errors import InputError
from bmo_cli.linear.matrix import Matrix
from bmo_cli.solver.functions import L1, LeastSquares
from bmo_cli.solver.problem import Coupling, Problem, Sample, SquaredError
from bmo_cli.solver.state import State
from bmo_cli.tasks.restoration import Restoration, observation
from bmo_cli.tasks.task import Case

log = logging.getLogger(__name__)
_PART = 4096
"""Patches that are solved at a time: 8 MiB a block of 512 codes."""


@dataclass(frozen=True)
class PatchModel:
    """The problem that noisy patches pose, in training and evaluation alike.

    Attributes:
        form: how it is written. split: as above, g = kappa |x|_1 and h = |z|_1, for operators of
            linear relations. lasso: f = 1/2 |Q x - b|^2 and g = kappa |x|_1, which takes the noise
            for Gaussian.
        kappa: weight of |x|_1.
    """

    form: Literal["split", "lasso"]
    kappa: float

    def pose(self, b: Tensor, q: Matrix) -> tuple[Problem, State]:
        """The problem of noisy patches b, (B, m), with the dictionary Q, and u^0."""
        g, initial = L1(self.kappa), (b.new_zeros(len(b), q.a.shape[1]),)
        if self.form == "lasso":
            return Problem(LeastSquares(q, b), g), initial
        return Problem(g=g, coupling=Coupling(q, b, L1(1.0))), initial


@checked
class PatchCoding(Restoration):
    """Restore photographs from the sparse codes of their patches.

    The estimate of a patch is Q x, and x starts at 0. Validation and test restore whole images
    from overlapping or adjacent patches. The dictionary is part of the checkpoint, so that an
    evaluation uses the same one.

    Args:
        kappa: weight of |x|_1.
        form: how the problem is written, see `PatchModel`.
        protocol: how scores are computed, see `metrics`.
        data_keys: arguments of `NoisyPatches`: photographs, noise and dictionary.
    """

    data: NoisyPatches

    def __init__(
        self,
        *,
        kappa: NonNegative = 0.5,
        form: Literal["split", "lasso"] = "split",
        protocol: str = "float",
        **data_keys: Any,
    ) -> None:
        super().__init__(NoisyPatches(**data_keys), protocol)
        self.model = PatchModel(form, kappa)
        source = self.data.source
        self.dictionary: Tensor
        self.register_buffer("dictionary", torch.zeros(source.rows, source.columns))  # until known
        self._map: Matrix | None = None

    def prepare(self, splits: Sequence[Split]) -> None:
        super().prepare(splits)
        file = self.data.source.file
        if "train" in splits:
            self.dictionary.copy_(self.data.make_dictionary())
            self._map = None
        elif file is not None:
            log.info("the dictionary is that of the checkpoint; %s is not read again", file)

    def samples(self, steps: range, batch: int) -> Iterator[Sample]:
        for patches in self.data.batches(steps, batch):
            noisy, clean = patches.y.to(self.dictionary), patches.clean.to(self.dictionary)
            problem, initial = self.model.pose(noisy, self._matrix())
            yield Sample(problem, initial, SquaredError(clean, self._matrix()))

    def cases(self, split: Split) -> Iterator[Case]:
        for name, clean, noisy in self.data.cases(split):
            patches = self.data.grid(clean).cut(noisy.to(self.dictionary))
            parts = (self.model.pose(b, self._matrix()) for b in torch.split(patches, _PART))
            (problem, initial), *further = parts
            yield Case(name, problem, initial, clean.to(self.dictionary), further)

    def restored_image(self, estimate: State, case: Case) -> Tensor:
        return self.data.grid(case.reference).join(self._matrix()(estimate[0]))

    def degraded_image(self, case: Case) -> Tensor:
        patches = torch.cat([observation(problem) for problem, _ in case.parts])
        return self.data.grid(case.reference).join(patches)

    def fingerprints(self) -> dict[str, Any]:
        return super().fingerprints() | {
            "dictionary": dictionary_digest(self.dictionary),
            "dictionary_file": self.data.source.file_content,
        }

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._map = None  # the buffer is the same tensor with other values

    def _matrix(self) -> Matrix:
        """Q as a linear map."""
        if self._map is None or self._map.a is not self.dictionary:  # moved to another device
            if not self.dictionary.any():
                raise InputError("no dictionary yet: train first, or load the run's checkpoint")
            self._map = Matrix(self.dictionary)
        return self._map
