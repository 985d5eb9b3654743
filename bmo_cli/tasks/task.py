"""The interface of a task. Training samples hold the ground truth, evaluation problems do not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from bmo_cli.data.splits import Split
from bmo_cli.errors import InputError
from bmo_cli.solver.problem import Problem, Sample
from bmo_cli.solver.state import State


@dataclass(frozen=True)
class Case:
    """One evaluation problem.

    The solver gets `problem` and `initial`. Only `Task.score` gets `reference`, after the estimate
    exists.

    Attributes:
        name: of its row in the results.
        problem: what the scheme may see.
        initial: u^0.
        reference: ground truth.
        further: more problems of the same case with their initial states, where one batch of all
            would take too much memory. They are solved one after the other. Their estimates are
            joined to one batch before they are scored.
    """

    name: str
    problem: Problem
    initial: State
    reference: Tensor
    further: Sequence[tuple[Problem, State]] = ()

    @property
    def parts(self) -> tuple[tuple[Problem, State], ...]:
        """Every problem of the case with its initial state."""
        return ((self.problem, self.initial), *self.further)


@dataclass(frozen=True)
class Posed:
    """The problem of a photograph of the user's own.

    Attributes:
        problem, initial: for the solver.
        image: reads the restored images, (B, C, H, W), in an estimate.
    """

    problem: Problem
    initial: State
    image: Callable[[State], Tensor]


@dataclass(frozen=True)
class Picture:
    """A picture for the run folder: (C, H, W) in [0, 1] under its caption."""

    image: Tensor
    caption: str


class Task(nn.Module, ABC):
    """A family of problems. Parameters of a task (an unknown of the problem) belong to omega.

    A task of this package joins two parts. Its data yield observations, as `data.blurred` does. Its
    model makes a problem of an observation, the same in training, in evaluation and in restoring.

    A constructor that takes `data` is given the photographs of the `data` group, one that takes
    `seed` the seed of the run.

    Attributes:
        metric: the score that selects the best checkpoint.
        larger_is_better: whether a larger metric is better.
        selects: whether the best validation score chooses the checkpoint. Otherwise it is that of
            the last step, as where the score looks at a known solution.
        convex: whether the functions of every problem are convex, which the promises of operators
            assume.
        unit: of the metric, for the console.
        columns: scores that the console's table shows, each with its format.
        protocol: how scores are computed, in words.
        layers: images that the unknown is stacked from along the channels, as u = (b, r).
    """

    metric: ClassVar[str]
    larger_is_better: ClassVar[bool] = True
    selects: ClassVar[bool] = True
    convex: bool = True
    unit: ClassVar[str] = ""
    columns: ClassVar[Mapping[str, str]]
    protocol: str
    layers: int = 1

    def prepare(self, splits: Sequence[Split]) -> None:
        """Read these splits and refuse what is unusable, before any time is spent on training."""

    @abstractmethod
    def samples(self, steps: range, batch: int) -> Iterator[Sample]:
        """Training batches of these steps. Batch t depends on the seed and on t alone."""

    @abstractmethod
    def cases(self, split: Split) -> Iterator[Case]:
        """Evaluation problems of a split, the same for every run with this configuration."""

    @abstractmethod
    def score(self, estimate: State, case: Case) -> dict[str, float]:
        """Scores of an estimate, and of the observation itself as `<score>_input` where it has one.

        Args:
            estimate: of u, one block or several.
            case: the problem with its reference.
        """

    def score_metric(self, estimate: State, case: Case) -> float:
        """The score `metric` alone, for curves of many scores.

        Args:
            estimate, case: as in `score`.
        """
        return float(self.score(estimate, case)[self.metric])

    def pictures(
        self, estimate: State, case: Case, scores: Mapping[str, float]
    ) -> dict[str, Picture]:
        """Pictures by name for the run folder, in the order of a row. There are none by default."""
        return {}

    @classmethod
    def layers_of(cls, settings: Mapping[str, Any]) -> int:
        """What `layers` will be for these settings of the configuration's `task` section."""
        return cls.layers

    @classmethod
    def settings_for(cls, y: Tensor, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """The settings of `pose` for a photograph, before it is divided into tiles.

        A task that estimates something from the photograph as a whole does it here.

        Args:
            y: (B, C, H, W), C the channels of the scheme.
            settings: the configuration's `task` section.
        """
        return settings

    @classmethod
    def pose(
        cls, y: Tensor, settings: Mapping[str, Any], kernel: Tensor | None, margin: int
    ) -> Posed:
        """The problem of photographs of the user's own, for `bmo restore`.

        Args:
            y: (B, C, H, W), C the channels of the scheme.
            settings: the configuration's `task` section.
            kernel: (h, w) blur kernel, where the user gave one.
            margin: pixels by which a photograph may be continued beyond its borders; 0: it is
                taken as it is.

        Raises:
            InputError: this task does not restore photographs, or not with these inputs.
        """
        raise InputError(
            f"bmo restore works on photographs, which {cls.__name__} does not restore; use bmo eval"
        )

    def fingerprints(self) -> dict[str, Any]:
        """Identity of the data of every split read so far, and images that two splits share."""
        return {}
