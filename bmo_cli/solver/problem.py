"""Problems, which never hold the ground truth, and losses, which hyper-training minimises.

    min_{u, z}  f(u) + g(u) + h(z)   subject to   A u + z = b

h and the linear relation exist for coupled problems only.

Shape legend: see `solver.state`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from bmo_cli.config.optional import Extensible
from bmo_cli.errors import InputError
from bmo_cli.linear.map import NOT_DIVIDED, LinearMap
from bmo_cli.solver.functions import Proximable, Smooth, Zero
from bmo_cli.solver.state import State

LEAST_NOISE = 0.5 / 255
"""Noise that steps and weights are chosen for at least. Rounding to 8 bits has 0.29 / 255."""


@dataclass(frozen=True)
class Coupling:
    """The linear relation A u + z = b with h(z); h = `AtZero` is the constraint A u = b.

    Attributes:
        a: A, on the first block of u.
        b: shape (B, ...) as `a` returns it.
        h: function of the violation z = b - A u.
    """

    a: LinearMap
    b: Tensor
    h: Proximable

    def select(self, problems: Tensor) -> Coupling:
        """The relation of some problems of a batch."""
        return Coupling(self.a.select(problems), self.b[problems], self.h.select(problems))


@dataclass(frozen=True)
class Problem:
    """min_u f(u) + g(u) + h(b - A u), and what is known about the observation.

    Attributes:
        f: smooth part, usually the data term.
        g: proximable part.
        coupling: A, b and h; None: the problem is f + g alone.
        noise: standard deviation of the noise in the observation, shape (B,), if it is known.
        guide: returns first estimates of the first block, made from the observation alone. Only
            networks that adapt to them call it.
    """

    f: Smooth = field(default_factory=Zero)
    g: Proximable = field(default_factory=Zero)
    coupling: Coupling | None = None
    noise: Tensor | None = None
    guide: Callable[[], Tensor] | None = None

    def select(self, problems: Tensor) -> Problem:
        """Some problems of a batch. Step sizes still refer to the constants of the whole batch.

        Args:
            problems: indices, (n,).

        Raises:
            InputError: a part of the problem does not say how its batch is divided.
        """
        guide = self.guide
        return Problem(
            self.f.select(problems),
            self.g.select(problems),
            None if self.coupling is None else self.coupling.select(problems),
            None if self.noise is None else self.noise[problems],
            None if guide is None else lambda: guide()[problems],
        )


class Loss(Extensible, ABC):
    """l(u), which hyper-training minimises. It may hold the ground truth: evaluation has no loss.

    A user-defined loss may omit `select`.
    """

    optional: ClassVar = {"select": NOT_DIVIDED}

    lipschitz: float | Tensor = 1.0
    """L_l, the Lipschitz constant of grad_u l: a number or a scalar tensor."""
    convex: bool = True
    """whether l is convex, so that a step shorter than 2 / L_l on it is nonexpansive"""
    size: int = 1
    """number of entries that l compares; reported values are divided by it, l itself is not"""

    @abstractmethod
    def value(self, u: State) -> Tensor:
        """l(u) for each problem, shape (B,)."""

    def select(self, problems: Tensor) -> Loss:
        """l of some problems of a batch, with the Lipschitz constant of the whole batch.

        Raises:
            InputError: the loss does not say how its batch is divided.
        """
        raise NotImplementedError

    def grad(self, u: State) -> State:
        """grad_u l(u), differentiable."""
        with torch.enable_grad():
            leaves = tuple(a if a.requires_grad else a.detach().requires_grad_() for a in u)
            value = self.value(leaves).sum()
            return torch.autograd.grad(
                value, leaves, create_graph=True, allow_unused=True, materialize_grads=True
            )


class SquaredError(Loss):
    """l(u) = 1/2 |A u - x|^2 of the first block; unnormalised, so that L_l = |A|^2.

    Args:
        target: x, shape (B, ...).
        a: A, the part of the block that is compared; None: the block itself.
    """

    def __init__(self, target: Tensor, a: LinearMap | None = None) -> None:
        self.target, self.a = target, a
        self.size = target[0].numel()
        if a is not None:
            self.lipschitz = a.norm_squared

    def select(self, problems: Tensor) -> SquaredError:
        a = None if self.a is None else self.a.select(problems)
        return SquaredError(self.target[problems], a)

    def value(self, u: State) -> Tensor:
        return 0.5 * self._error(u).square().flatten(1).sum(1)

    def grad(self, u: State) -> State:
        error = self._error(u)
        first = error if self.a is None else self.a.adjoint(error)
        return (first, *(torch.zeros_like(block) for block in u[1:]))

    def _error(self, u: State) -> Tensor:
        return _difference(u[0] if self.a is None else self.a(u[0]), self.target)


class Charbonnier(Loss):
    """l(u) = sum of sqrt(e^2 + width^2) - width, e = u - x of the first block: a smooth |u - x|_1.

    Its minimiser is close to the median of the possible targets instead of their mean, which blurs
    less where the observation hides much. L_l = 1 / width. (Charbonnier, Blanc-Feraud, Aubert &
    Barlaud, ICIP 1994.)

    Args:
        target: x, shape (B, ...).
        width: errors below it count quadratically, > 0; in the unit of the target.
    """

    def __init__(self, target: Tensor, width: float = 1e-3) -> None:
        self.target, self.width = target, width
        self.size = target[0].numel()
        self.lipschitz = 1.0 / width

    def select(self, problems: Tensor) -> Charbonnier:
        return Charbonnier(self.target[problems], self.width)

    def value(self, u: State) -> Tensor:
        error = _difference(u[0], self.target)
        return ((error.square() + self.width**2).sqrt() - self.width).flatten(1).sum(1)

    def grad(self, u: State) -> State:
        error = _difference(u[0], self.target)
        first = error * (error.square() + self.width**2).rsqrt()
        return (first, *(torch.zeros_like(block) for block in u[1:]))


class LogSquaredError(Loss):
    """l(u) = n q / 2 log(1 + |e|^2 / (n q)), e = u - x of the first block, n its entries.

    Far above the mean squared error q, it is a PSNR: a batch of images with much and with little
    noise is fitted in decibels, where the squared error would see the noisy ones alone. Far below
    q it is 1/2 |e|^2. The eigenvalues of its Hessian lie in [-1/8, 1]: L_l = 1, but l is not
    convex, so that no certificate covers an aggregated iteration with it.

    Args:
        target: x, shape (B, ...).
        level: q, > 0; the default corresponds to 40 dB.
    """

    convex = False

    def __init__(self, target: Tensor, level: float = 1e-4) -> None:
        self.target, self.level = target, level
        self.size = target[0].numel()

    def select(self, problems: Tensor) -> LogSquaredError:
        return LogSquaredError(self.target[problems], self.level)

    def value(self, u: State) -> Tensor:
        scale = self.size * self.level
        squares = _difference(u[0], self.target).square().flatten(1).sum(1)
        return scale / 2 * (squares / scale).log1p()

    def grad(self, u: State) -> State:
        error = _difference(u[0], self.target)
        share = error.square().flatten(1).sum(1) / (self.size * self.level)
        first = error / (1 + share).reshape(-1, *[1] * (error.dim() - 1))
        return (first, *(torch.zeros_like(block) for block in u[1:]))


def _difference(estimate: Tensor, target: Tensor) -> Tensor:
    """estimate - target; refuses shapes that broadcasting would combine."""
    if estimate.shape != target.shape:
        raise InputError(
            f"the loss compares an estimate of shape {tuple(estimate.shape)} with a target of "
            f"shape {tuple(target.shape)}; expected the same shape"
        )
    return estimate - target


@dataclass(frozen=True)
class Sample:
    """A training batch. Its `loss` holds the ground truth; only training has samples.

    Attributes:
        problem: the part that the scheme sees.
        initial: u^0.
        loss: l.
        seed: of the random numbers that the hyper-optimiser draws for this batch.
        part: (i, n): the i-th of n equal parts of a batch that several processes share.
    """

    problem: Problem
    initial: State
    loss: Loss
    seed: int = 0
    part: tuple[int, int] = (0, 1)

    def equal_part(self, i: int, n: int) -> Sample:
        """The i-th of n equal parts of this batch.

        Raises:
            InputError: n does not divide the batch, or a part of it does not say how to divide it.
        """
        size = len(self.initial[0])
        if size % n:
            raise InputError(
                f"{size} problems a step do not divide by train.devices={n}; use a multiple of {n}"
            )
        first = size // n * i
        mine = torch.arange(first, first + size // n, device=self.initial[0].device)
        blocks = tuple(block[mine] for block in self.initial)
        part = (self.part[0] * n + i, self.part[1] * n)  # relative to the whole batch
        return Sample(self.problem.select(mine), blocks, self.loss.select(mine), self.seed, part)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers shaped like `like`, (B, ...); a part of a batch gets its share.

        They are drawn on the CPU from `seed`, so that all devices use the same numbers.
        """
        i, n = self.part
        generator = torch.Generator().manual_seed(self.seed)
        draw = torch.randn(n * len(like), *like.shape[1:], generator=generator, dtype=like.dtype)
        return draw[i * len(like) : (i + 1) * len(like)].to(like.device)
