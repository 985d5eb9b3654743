"""What a task provides. Training samples hold the ground truth, evaluation problems do not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from bmo_cli.data.splits import Split
from bmo_cli.solver.problem import Problem, Sample
from bmo_cli.solver.state import State


@dataclass(frozen=True)
class Case:
    """One evaluation problem.

    The solver is given `problem` and `initial`; `reference` is only handed to `Task.score`, after
    the estimate exists.
    """

    name: str
    problem: Problem
    initial: State
    reference: Tensor


class Task(nn.Module, ABC):
    """A family of problems. Parameters of a task (an unknown of the problem) belong to omega.

    Attributes:
        metric: the score that selects the best checkpoint; larger is better.
        protocol: how scores are computed, in words.
    """

    metric: ClassVar[str]
    protocol: ClassVar[str]

    @abstractmethod
    def prepare(self, splits: Sequence[Split]) -> None:
        """Read these splits and refuse what is unusable, before any time is spent on training."""

    @abstractmethod
    def samples(self, steps: range, batch: int) -> Iterator[Sample]:
        """Training batches of these steps; batch t depends on the seed and on t alone."""

    @abstractmethod
    def cases(self, split: Split) -> Iterator[Case]:
        """Evaluation problems of a split, the same for every run with this configuration."""

    @abstractmethod
    def score(self, estimate: State, case: Case) -> dict[str, float]:
        """Scores of an estimate, and of the observation itself as `<score>_input`."""

    @abstractmethod
    def pictures(self, estimate: State, case: Case) -> Mapping[str, Tensor]:
        """Pictures by name for the run folder, (C, H, W) in [0, 1]: clean, degraded, restored."""

    @abstractmethod
    def fingerprints(self) -> dict[str, Any]:
        """Identity of the data of every split read so far, and images that two splits share."""
