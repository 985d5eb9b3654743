"""Where the dictionary of a task is from: a file, or clean patches of the training photographs.

Shape legend: B patches, m pixels of a patch (side x side, row by row), n atoms.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from bmo_cli.config.checks import Count, Positive, Seed, checked
from bmo_cli.data.dictionary import cosine_dictionary, learn_dictionary, read_dictionary
from bmo_cli.errors import InputError

log = logging.getLogger(__name__)
PatchSource = Callable[[range, int, int], Iterator[Tensor]]
"""Draws clean patches, (B, m) a step, of some steps, a batch size and a seed."""


@checked
class DictionaryLearning:
    """How a dictionary is learned from clean patches.

    Args:
        dictionary_seed: of the patches that it is learned from.
        dictionary_steps: batches that it is learned from.
        dictionary_batch: patches in each.
        dictionary_kappa: weight of |x|_1 in learning it.
    """

    def __init__(
        self,
        *,
        dictionary_seed: Seed = 0,
        dictionary_steps: Count = 240,
        dictionary_batch: Count = 512,
        dictionary_kappa: Positive = 0.1,
    ) -> None:
        self.steps, self.batch = range(dictionary_steps), dictionary_batch
        self.seed, self.kappa = dictionary_seed, dictionary_kappa

    def learn(self, draw: PatchSource, rows: int, columns: int) -> Tensor:
        """The dictionary, (rows, columns); see `learn_dictionary`."""
        log.info("learning a dictionary of %d atoms from the training photographs", columns)
        start = time.perf_counter()
        patches = draw(self.steps, self.batch, self.seed)
        initial = cosine_dictionary(math.isqrt(rows), columns)
        learned = learn_dictionary(patches, initial, kappa=self.kappa)
        log.info("learned it in %.0f s", time.perf_counter() - start)
        return learned


@checked
class DictionarySource:
    """Where the dictionary of a task is from: a file, or the training photographs.

    Args:
        rows: m, pixels of a patch.
        columns: n, atoms.
        dictionary: .npy or .npz file of an m x n matrix, whose columns are scaled to length 1;
            None: learned from the training photographs.
        learning_keys: arguments of `DictionaryLearning`.

    Attributes:
        file_content: a hash of the dictionary of a file, once it is read.
    """

    def __init__(
        self,
        *,
        rows: Count,
        columns: Count = 512,
        dictionary: str | None = None,
        **learning_keys: Any,
    ) -> None:
        if columns < 2 and dictionary is None:
            raise InputError(
                "task.columns=1 leaves nothing to learn, since the first atom is constant; use 2 "
                "or more"
            )
        self.rows, self.columns, self.file = rows, columns, dictionary
        self.learning = DictionaryLearning(**learning_keys)
        self.file_content: str | None = None

    def make(self, draw: PatchSource) -> Tensor:
        """Read or learn it, (m, n), on the CPU, so that devices agree.

        Args:
            draw: of clean patches.

        Raises:
            InputError: the file is missing or holds no such dictionary.
        """
        if self.file is None:
            return self.learning.learn(draw, self.rows, self.columns)
        matrix = read_dictionary(Path(self.file), rows=self.rows, columns=self.columns)
        self.file_content = dictionary_digest(matrix)
        return matrix


def dictionary_digest(matrix: Tensor) -> str:
    """A hash of the values in float32."""
    content = matrix.detach().cpu().float().contiguous().numpy().tobytes()
    return hashlib.sha256(content).hexdigest()[:16]
