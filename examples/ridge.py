"""A task of one's own: ridge regression whose weight is learned."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from bmo_cli.config.checks import Count, Positive, Seed, checked
from bmo_cli.solver.functions import Quadratic
from bmo_cli.solver.problem import Problem, Sample, SquaredError
from bmo_cli.tasks.task import Case, Task

_SPLITS = {"train": 0, "val": 1, "test": 2}


@checked
class Ridge(Task):
    """min over u of 1/2 |A u - y|^2 + w/2 |u|^2 for y = A x + noise; w is a part of omega.

    Args:
        size: entries of x.
        noise: standard deviation of the noise.
        weight: initial w.
        seed: of A, and of the vectors of training.
    """

    metric = "error"
    larger_is_better = False
    columns: ClassVar = {"error": ".4f"}
    protocol = "|u - x| / |x|, mean over all vectors"

    def __init__(
        self, *, size: Count = 20, noise: Positive = 0.5, weight: Positive = 1e-2, seed: Seed = 0
    ) -> None:
        super().__init__()
        self.size, self.noise, self.seed = size, noise, seed
        self.log_weight = nn.Parameter(torch.tensor(float(weight)).log())
        generator = torch.Generator().manual_seed(seed)
        matrix = torch.randn(size, size, generator=generator) / size**0.5
        self.register_buffer("matrix", matrix, persistent=False)

    def samples(self, steps: range, batch: int) -> Iterator[Sample]:
        for step in steps:
            x, problem, start = self._drawn("train", batch, step)
            yield Sample(problem, (start,), SquaredError(x))

    def cases(self, split: str) -> Iterator[Case]:
        x, problem, start = self._drawn(split, 100, 0)
        yield Case("100 vectors", problem, (start,), x)

    def score(self, estimate: tuple[Tensor, ...], case: Case) -> dict[str, float]:
        error = (estimate[0] - case.reference).norm(dim=1) / case.reference.norm(dim=1)
        return {"error": error.mean().item()}

    def _drawn(self, split: str, count: int, step: int) -> tuple[Tensor, Problem, Tensor]:
        """Vectors x (B, n), their problem, and its start: the same whenever they are asked for."""
        generator = torch.Generator().manual_seed(1000 * step + 10 * self.seed + _SPLITS[split])
        x, noise = torch.randn(2, count, self.size, generator=generator).to(self.matrix)
        y = x @ self.matrix.mT + self.noise * noise
        curvature = self.matrix.mT @ self.matrix
        curvature = curvature + self.log_weight.exp() * torch.eye(self.size).to(curvature)
        return x, Problem(Quadratic(curvature, y @ self.matrix)), torch.zeros_like(x)
