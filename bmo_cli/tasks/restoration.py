"""Tasks that restore photographs: how the estimate is judged and shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from bmo_cli import metrics
from bmo_cli.config.checks import LossName
from bmo_cli.data.degraded import DegradedPhotographs
from bmo_cli.data.splits import Split
from bmo_cli.solver.functions import LeastSquares
from bmo_cli.solver.problem import Charbonnier, LogSquaredError, Problem, SquaredError
from bmo_cli.solver.state import State
from bmo_cli.tasks.task import Case, Picture, Task

LOSSES: Mapping[LossName, type[SquaredError] | type[LogSquaredError] | type[Charbonnier]] = {
    "squared": SquaredError,
    "log": LogSquaredError,
    "charbonnier": Charbonnier,
}
"""l by name: 1/2 |u - x|^2, its logarithm (a PSNR), or a smooth |u - x|_1; see `solver.problem`."""


class Restoration(Task):
    """A task whose data are degraded photographs, judged by PSNR and SSIM.

    A concrete task makes problems of what `data` yields.

    Args:
        data: photographs with their degradation.
        protocol: how scores are computed, see `metrics`.

    Attributes:
        degraded_name: of the picture of the observation, for its file and its caption.
    """

    metric = "psnr"
    unit = "dB"
    columns: ClassVar[Mapping[str, str]] = metrics.COLUMNS
    degraded_name: ClassVar[str] = "degraded"

    def __init__(self, data: DegradedPhotographs, protocol: str) -> None:
        super().__init__()
        self.judge = metrics.protocol(protocol)
        self.protocol = self.judge.text
        self.data = data

    def prepare(self, splits: Sequence[Split]) -> None:
        self.data.prepare(splits)

    def fingerprints(self) -> dict[str, Any]:
        return self.data.fingerprints()

    def restored_image(self, estimate: State, case: Case) -> Tensor:
        """The restored image of a case, with the entries of its reference."""
        return estimate[0]

    def degraded_image(self, case: Case) -> Tensor:
        """The observation of a case, with the entries of its reference."""
        return observation(case.problem)

    def score(self, estimate: State, case: Case) -> dict[str, float]:
        images = {"": self.restored_image(estimate, case), "_input": self.degraded_image(case)}
        return metrics.scores(self.judge, images, case.reference)

    def score_metric(self, estimate: State, case: Case) -> float:
        if self.metric != "psnr" or type(self).score is not Restoration.score:
            return super().score_metric(estimate, case)  # a plug-in has another measure
        image = self.restored_image(estimate, case)
        return self.judge.psnr(image.reshape(case.reference.shape), case.reference)

    def pictures(
        self, estimate: State, case: Case, scores: Mapping[str, float]
    ) -> dict[str, Picture]:
        shape, name = case.reference.shape, self.degraded_name
        degraded = self.degraded_image(case).reshape(shape)
        restored = self.restored_image(estimate, case).reshape(shape)
        return {
            "clean": Picture(case.reference, f"{case.name}: clean"),
            name: Picture(degraded, f"{name} {scores['psnr_input']:.2f} dB"),
            "restored": Picture(restored, f"restored {scores['psnr']:.2f} dB"),
        }


def observation(problem: Problem) -> Tensor:
    """y of a problem whose data term is a least-squares one or a linear relation."""
    if isinstance(problem.f, LeastSquares):
        return problem.f.y
    assert problem.coupling is not None
    return problem.coupling.b
