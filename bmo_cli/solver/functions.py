"""Convex functions that problems are made of, with gradients and proximal maps in closed form.

Certificates compute constants in float64 from the data that define a function. A class that does
not override `computed_lipschitz` and `is_convex` declares its constants and proves none.

Shape legend: see `solver.state`; n entries of a block.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from bmo_cli.config.optional import Extensible
from bmo_cli.errors import InputError
from bmo_cli.linear.map import NOT_DIVIDED, LinearMap, in_double
from bmo_cli.solver.state import State

StateMap = Callable[[State], State]


class Smooth(Extensible, ABC):
    """A differentiable f with a Lipschitz gradient; convex where a task does not say otherwise.

    A user-defined function may omit `select` and `resolvent`.
    """

    optional: ClassVar = {
        "select": NOT_DIVIDED,
        "resolvent": ", prox_{gamma f} in closed form, which gkm=prox and gkm=dr need; use gkm=pg",
    }

    lipschitz: float | Tensor
    """L_f, the Lipschitz constant of the gradient: a number or a scalar tensor."""

    def select(self, problems: Tensor) -> Smooth:
        """f for some problems of a batch, with the Lipschitz constant of the whole batch.

        Args:
            problems: indices, (n,).

        Raises:
            InputError: the function does not say how its batch is divided.
        """
        raise NotImplementedError

    @abstractmethod
    def grad(self, u: State) -> State:
        """Gradient of f at u."""

    def computed_lipschitz(self) -> float | None:
        """L_f in float64, computed independently of `lipschitz`; None: it is only stated."""
        return None

    def is_convex(self) -> bool | None:
        """Whether f is convex, by its defining data; None: this is not computed."""
        return None

    def resolvent(self, gamma: Tensor) -> StateMap:
        """The map prox_{gamma f}. Whatever depends on gamma alone is computed once, here.

        Raises:
            InputError: f has no resolvent in closed form.
        """
        raise NotImplementedError


class Proximable(Extensible, ABC):
    """A convex g whose proximal map is computable.

    A user-defined function may omit `select`.
    """

    optional: ClassVar = {
        "select": NOT_DIVIDED,
        "prox": ", argmin_v g(v) + |v - u|^2 / (2 gamma), which every operator that sees it needs",
    }

    def select(self, problems: Tensor) -> Proximable:
        """g for some problems of a batch, see `Smooth.select`."""
        raise NotImplementedError

    @abstractmethod
    def prox(self, u: State, gamma: Tensor) -> State:
        """argmin_v g(v) + |v - u|^2 / (2 gamma)."""

    def is_convex(self) -> bool | None:
        """Whether g is convex, by its defining data; None: this is not computed."""
        return None


class Zero(Smooth, Proximable):
    """The function 0."""

    lipschitz = 0.0

    def select(self, problems: Tensor) -> Zero:
        return self

    def grad(self, u: State) -> State:
        return tuple(torch.zeros_like(a) for a in u)

    def resolvent(self, gamma: Tensor) -> StateMap:
        return lambda u: u

    def prox(self, u: State, gamma: Tensor) -> State:
        return u

    def computed_lipschitz(self) -> float:
        return 0.0

    def is_convex(self) -> bool:
        return True


class LeastSquares(Smooth):
    """f(u) = 1/2 |A u - y|^2 on a state of one block.

    Args:
        a: linear map.
        y: observation, shape (B, ...) as `a` returns it.
    """

    def __init__(self, a: LinearMap, y: Tensor) -> None:
        self.a, self.y = a, y
        self.lipschitz = a.norm_squared
        self._back = a.adjoint(y)

    def select(self, problems: Tensor) -> LeastSquares:
        selected = copy.copy(self)
        selected.a, selected.y = self.a.select(problems), self.y[problems]
        selected._back = self._back[problems]
        return selected

    def grad(self, u: State) -> State:
        """A^T (A u - y)."""
        return (self.a.normal(u[0]) - self._back,)

    def resolvent(self, gamma: Tensor) -> StateMap:
        """v -> (I + gamma A^T A)^{-1} (v + gamma A^T y).

        Both terms are computed separately. For large gamma A^T y, the rounding error of their sum
        would make the map expansive.
        """
        solve = self.a.shifted_inverse(gamma)
        shift = solve(gamma * self._back)
        return lambda v: (solve(v[0]) + shift,)

    def computed_lipschitz(self) -> float | None:
        return self.a.computed_norm_squared()

    def is_convex(self) -> bool:
        return True


class Quadratic(Smooth):
    """f(u) = 1/2 u^T H u - c^T u on a state of one block.

    Args:
        h: H, symmetric positive semidefinite, (n, n).
        c: (B, n).

    Raises:
        InputError: H is not finite.
    """

    def __init__(self, h: Tensor, c: Tensor) -> None:
        if not torch.isfinite(h).all():
            raise InputError("a quadratic function needs a finite matrix H")
        self.h, self.c = h, c
        self.lipschitz = torch.linalg.matrix_norm(h, 2)

    def select(self, problems: Tensor) -> Quadratic:
        return Quadratic(self.h, self.c[problems])

    def grad(self, u: State) -> State:
        """H u - c."""
        return (u[0] @ self.h - self.c,)

    def resolvent(self, gamma: Tensor) -> StateMap:
        """v -> (I + gamma H)^{-1} (v + gamma c)."""
        h = in_double(self.h)
        identity = torch.eye(len(h), dtype=h.dtype, device=h.device)
        inverse = torch.linalg.inv(identity + gamma.to(h) * h).to(self.h)
        shift = (gamma * self.c) @ inverse
        return lambda v: (v[0] @ inverse + shift,)

    def computed_lipschitz(self) -> float:
        return float(self._eigenvalues().abs().max())

    def is_convex(self) -> bool | None:
        """Whether H is symmetric positive semidefinite; None: undecided.

        An eigenvalue of -1e-7 |H| may be a rounded 0, but iterates can grow along its eigenvector.
        """
        eigenvalues = self._eigenvalues()
        lowest, size = float(eigenvalues.min()), float(eigenvalues.abs().max())
        rounding = 4 * torch.finfo(self.h.dtype).eps * size
        asymmetry = float((self.h - self.h.mT).detach().abs().max())
        if lowest < -rounding or asymmetry > rounding:
            return False
        exact = len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps * size
        surely = lowest >= rounding or (asymmetry == 0 and lowest >= -exact)
        return True if surely else None

    def _eigenvalues(self) -> Tensor:
        eigenvalues: Tensor = torch.linalg.eigvalsh(self.h.detach().to("cpu", torch.float64))
        return eigenvalues


class L1(Proximable):
    """g(u) = weight |u|_1; its proximal map is the soft threshold.

    Args:
        weight: kappa, a number or a tensor that broadcasts against every block without its batch,
            >= 0.
    """

    def __init__(self, weight: float | Tensor) -> None:
        self.weight = weight

    def select(self, problems: Tensor) -> L1:
        return self

    def prox(self, u: State, gamma: Tensor) -> State:
        return tuple(soft_threshold(a, gamma * self.weight) for a in u)

    def is_convex(self) -> bool:
        return is_weight(self.weight)


class TotalVariation(Proximable):
    """g(z) = weight sum_p |(z_1(p), z_2(p))|_2 of a field of two components: isotropic.

    The anisotropic variant sum_p |z_1(p)| + |z_2(p)| is `L1`. Blocks are (B, 2 C, H, W), as
    `linear.gradient.PeriodicGradient` returns them. (Rudin, Osher & Fatemi, Physica D 1992.)

    Args:
        weight: >= 0.
    """

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def select(self, problems: Tensor) -> TotalVariation:
        return self

    def prox(self, u: State, gamma: Tensor) -> State:
        (z,) = u
        squares = torch.stack(z.chunk(2, 1)).square().sum(0)
        length = torch.where(
            squares > 0, squares, 1.0
        ).sqrt()  # the square root has no derivative at 0
        kept = (1 - gamma * self.weight / length).clamp_min(0)
        return (z * torch.cat([kept, kept], 1),)

    def is_convex(self) -> bool:
        return is_weight(self.weight)


class SquaredNorm(Proximable):
    """g(u) = 1/2 |u|^2. As h, it models a linear relation with Gaussian noise."""

    def select(self, problems: Tensor) -> SquaredNorm:
        return self

    def prox(self, u: State, gamma: Tensor) -> State:
        return tuple(a / (1 + gamma) for a in u)

    def is_convex(self) -> bool:
        return True


class AtZero(Proximable):
    """The indicator function of {0}. As h, it makes the linear relation hold exactly."""

    def select(self, problems: Tensor) -> AtZero:
        return self

    def prox(self, u: State, gamma: Tensor) -> State:
        return tuple(torch.zeros_like(a) for a in u)

    def is_convex(self) -> bool:
        return True


def is_weight(weight: float | Tensor) -> bool:
    """Whether all values are finite and >= 0, as the weight of a norm must be."""
    values = torch.as_tensor(weight)
    return bool((torch.isfinite(values) & (values >= 0)).all())


def soft_threshold(v: Tensor, threshold: float | Tensor) -> Tensor:
    """sign(v) max(|v| - threshold, 0)."""
    return v - torch.clamp(v, -threshold, threshold)  # type: ignore[arg-type]
