"""The interface of hyper-optimisers, which turn training samples into hyper-gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bmo_cli.errors import InputError
from bmo_cli.gkm.scheme import GKM
from bmo_cli.hyper.memory import in_words
from bmo_cli.solver.cost import SavedBytes
from bmo_cli.solver.fixed_point import Status
from bmo_cli.solver.problem import Sample


@dataclass(frozen=True)
class Outcome:
    """The result of one training step.

    Attributes:
        objective: the scalar whose gradient is the hyper-gradient: the mean of phi_K over the
            batch, divided by the number of entries a state has.
        residual: |D(u) - u|_G / |u|_G at the last but one iterate, the largest of the batch.
        status: of the inner loop.
        flags: reasons why this hyper-gradient is not what its theory promises. The run counts them
            and writes them into its result.
    """

    objective: Tensor
    residual: float
    status: Status
    flags: tuple[str, ...] = ()


class HyperOptimizer(ABC):
    """A method to differentiate training with respect to omega.

    Attributes:
        anderson: memory of the Anderson acceleration of its inner iteration; 0: none.
        trains: whether it takes hyper-training steps at all.
        minimises_phi: whether its objective is phi_K, the loss at the end of the iteration.
    """

    anderson: int = 0
    trains: ClassVar[bool] = True
    minimises_phi: ClassVar[bool] = True

    def begin_step(self, done: float) -> None:
        """Called before every training step, for what changes along the training.

        Args:
            done: fraction of the training that is done, in [0, 1), as in the learning rate.
        """
        return

    @abstractmethod
    def objective(self, scheme: GKM, sample: Sample, iterations: int) -> Outcome:
        """Run `iterations` inner iterations. `objective.backward()` yields the hyper-gradient.

        Args:
            scheme: its maps, from `scheme.bind`, compute networks as training asks for it and count
                their evaluations, see `GKM.using`.
            sample: training batch.
            iterations: K.
        """

    def differentiated_iterations(self, iterations: int) -> int:
        """Number of inner iterations, of `iterations`, whose graph `objective` keeps."""
        return iterations

    def plan(
        self, scheme: GKM, sample: Sample, iterations: int, free: int | None, parts: int = 1
    ) -> None:
        """Decide how much of the graph to keep, before training and once for this kind of sample.

        Args:
            scheme, sample, iterations: as in `objective`.
            free: available bytes; None: unknown.
            parts: number of such samples that are differentiated at the same time.

        Raises:
            InputError: the hyper-gradient does not fit; the message says what does.
        """
        with SavedBytes() as saved:
            self.objective(scheme, sample, 1)
        needed = parts * saved.total
        if free is not None and needed > free:
            raise InputError(
                f"one iteration needs about {in_words(needed)} for the hyper-gradient and "
                f"{in_words(free)} are free; use a smaller train.batch, smaller samples "
                "(data.crop) or a smaller network"
            )

    def reduce_memory(self) -> bool:
        """Keep less of the graph from now on, after memory ran out. Returns whether it is less."""
        return False

    def accuracy(self, iterations: int) -> float | None:
        """Largest relative error of the hyper-gradient, against the derivative of `objective`.

        The method promises it in float64 where it raises no flag, and `bmo audit` tests it. None:
        the method is biased, and the audit measures the bias.
        """
        return 1e-6

    @property
    def step(self) -> float | None:
        """s as a share of its limit lambda_min(G) / L_l; None: nothing is aggregated."""
        return None

    def check(self, scheme: GKM) -> tuple[str, ...]:
        """Assumptions of the theory of this method that the scheme does not satisfy, in words.

        Raises:
            InputError: the method makes no sense with this scheme.
        """
        return ()
