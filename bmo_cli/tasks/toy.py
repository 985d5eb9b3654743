"""Bilevel problems with optima in closed form: min over x of F(x, y) with y in argmin f(., x).

x is the hyper-training variable omega, a parameter of the task, and y the training variable.

| problem | F | f | optimum |
|---|---|---|---|
| a | 1/2 \\|x - y_2\\|^2 + 1/2 \\|y_1 - 1\\|^2 | 1/2 \\|y_1\\|^2 - x^T y_1 | x = y_1 = y_2 = 1 |
| b | 1/2 y^T A y + 1/2 (x-z)^T D (x-z) | 1/2 y^T A y - x^T B y | (B A^{-1} B^T + D)^{-1} D z |
| c | \\|x - a\\|^2 + \\|y - a - c\\|^2 | sum_i sin(x + y_i - c) | ((1-n) a + 3 pi n/2) / (1+n) |

(a) has many lower solutions, since y_2 is free (docs/method.md, "A problem where aggregation
decides"). (b) is strongly convex. (c), with a = c = 2, has a lower problem that is not convex. It
starts in the basin of its optimum.

Shape legend: n entries of x (a, b) or of y (c).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from bmo_cli.config.checks import Count, Seed, checked
from bmo_cli.data.splits import Split
from bmo_cli.solver.functions import Quadratic, Smooth
from bmo_cli.solver.problem import Loss, Problem, Sample
from bmo_cli.solver.state import State
from bmo_cli.tasks.task import Case, Task

_SIZES = {"a": 1, "b": 5, "c": 2}
_C = 2.0  # a and c of problem (c)


@checked
class Toy(Task):
    """One of the three problems.

    Scores: `distance` |x - x*| / |x*| and `value` F(x, y) at the y that T alone arrives at.

    Args:
        problem: a, b or c.
        n: size; None: 1, 5 and 2.
        seed: of the matrices of problem b.
    """

    metric = "distance"
    larger_is_better = False
    selects = False  # the distance looks at the known optimum
    columns: ClassVar[Mapping[str, str]] = {"distance": ".3e", "value": ".3e"}
    protocol = "distance |x - x*| / |x*| to the known optimum at the last step"

    a: Tensor
    b: Tensor
    d: Tensor
    z: Tensor

    def __init__(
        self, *, problem: Literal["a", "b", "c"] = "a", n: Count | None = None, seed: Seed = 0
    ) -> None:
        super().__init__()
        self.convex = problem != "c"
        self.problem, self.n = problem, _SIZES[problem] if n is None else n
        generator = torch.Generator().manual_seed(seed)
        draws = torch.randn(3, self.n, self.n, generator=generator)
        identity = torch.eye(self.n)
        matrices = {
            "a": identity + draws[0] @ draws[0].mT / self.n,
            "b": draws[1] / math.sqrt(self.n),
            "d": identity + draws[2] @ draws[2].mT / self.n,
            "z": torch.ones(self.n),
        }
        for name, value in matrices.items():
            self.register_buffer(name, value, persistent=False)
        self.x = nn.Parameter(torch.full((1,), 3.0) if problem == "c" else torch.zeros(self.n))

    @property
    def optimum(self) -> Tensor:
        """x* in closed form."""
        if self.problem == "a":
            return torch.ones_like(self.x)
        if self.problem == "c":
            value = ((1 - self.n) * _C + 1.5 * math.pi * self.n) / (1 + self.n)
            return torch.full_like(self.x, value)
        schur = self.b @ torch.linalg.solve(self.a, self.b.mT) + self.d
        solution: Tensor = torch.linalg.solve(schur, self.d @ self.z)
        return solution

    def sample(self) -> Sample:
        """The problem at the present x. Its loss is F, not divided by its size."""
        if self.problem == "a":
            curvature = torch.cat([torch.ones_like(self.x), torch.zeros_like(self.x)])
            linear = torch.cat([self.x, torch.zeros_like(self.x)])
            f: Smooth = Quadratic(torch.diag(curvature), linear[None])
            loss: Loss = _Halves(self.x)
        elif self.problem == "b":
            f = Quadratic(self.a, (self.x @ self.b)[None])
            loss = _Energies(self.x, self.a, self.d, self.z)
        else:
            f, loss = _Sines(self.x), _Squares(self.x)
        size = {"a": 2 * self.n, "b": self.n, "c": self.n}[self.problem]
        start = torch.full((1, size), 4.0 if self.problem == "c" else 0.0)
        return Sample(Problem(f), (start.to(self.x),), loss)

    def samples(self, steps: range, batch: int) -> Iterator[Sample]:
        for _ in steps:
            yield self.sample()

    def cases(self, split: Split) -> Iterator[Case]:
        sample = self.sample()
        yield Case(f"({self.problem}), n = {self.n}", sample.problem, sample.initial, self.optimum)

    def score(self, estimate: State, case: Case) -> dict[str, float]:
        distance = (self.x - case.reference).norm() / case.reference.norm()
        value = self.sample().loss.value(estimate)
        return {"distance": distance.item(), "value": value.item()}


class _Halves(Loss):
    """1/2 |x - y_2|^2 + 1/2 |y_1 - 1|^2."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def value(self, u: State) -> Tensor:
        first, second = u[0].chunk(2, 1)
        return 0.5 * ((self.x - second).square() + (first - 1).square()).sum(1)

    def grad(self, u: State) -> State:
        first, second = u[0].chunk(2, 1)
        return (torch.cat([first - 1, second - self.x], 1),)


class _Energies(Loss):
    """1/2 y^T A y + 1/2 (x - z)^T D (x - z)."""

    def __init__(self, x: Tensor, a: Tensor, d: Tensor, z: Tensor) -> None:
        self.x, self.a, self.d, self.z = x, a, d, z
        self.lipschitz = float(torch.linalg.matrix_norm(a, 2))

    def value(self, u: State) -> Tensor:
        gap = self.x - self.z
        return 0.5 * ((u[0] @ self.a * u[0]).sum(1) + gap @ self.d @ gap)

    def grad(self, u: State) -> State:
        return (u[0] @ self.a,)


class _Sines(Smooth):
    """sum_i sin(x + y_i - c), not convex. Its gradient has Lipschitz constant 1."""

    lipschitz = 1.0

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def grad(self, u: State) -> State:
        return (torch.cos(self.x + u[0] - _C),)


class _Squares(Loss):
    """|x - a|^2 + |y - a - c|^2."""

    lipschitz = 2.0

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def value(self, u: State) -> Tensor:
        return (self.x - _C).square().sum() + (u[0] - 2 * _C).square().sum(1)

    def grad(self, u: State) -> State:
        return (2 * (u[0] - 2 * _C),)
