"""The interface of numerical operators, and parameters that satisfy their conditions.

| operator | file | metric G | condition |
|---|---|---|---|
| `ProximalGradient` | proximal.py | I/gamma | 0 < gamma < 2/L_f |
| `Resolvent` | proximal.py | I/gamma | gamma > 0 |
| `DouglasRachford` | proximal.py | I | gamma > 0 |
| `ALM` | augmented.py | diag(I/tau - beta A^T A, I/beta) | 1/tau - beta L_A > L_f/2 |
| `LADMM` | augmented.py | diag(I/tau - beta A^T A, beta I, I/beta) | 1/tau - beta L_A > L_f/2 |
| `PDHG` | augmented.py | [[I/tau, -A^T], [-A, I/sigma]] | 1/tau - sigma L_A > L_f/2 |
| `RainDictionary` | rain_dictionary.py | diag(I/tau_b, I/tau_m) | 0 < gamma < 2 |
| `FISTA`, `LISTA`, ... | accelerated.py, learned.py | - | nothing is promised |

with L_A = |A|^2. (docs/method.md, "Numerical operators"; Bauschke & Combettes, Convex Analysis and
Monotone Operator Theory, 2017.)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from bmo_cli.errors import InputError
from bmo_cli.linear.map import LinearMap
from bmo_cli.solver.functions import LeastSquares, Smooth, StateMap, Zero
from bmo_cli.solver.metric import Metric
from bmo_cli.solver.problem import Coupling, Problem
from bmo_cli.solver.state import State


def identity(u: State) -> State:
    """u itself."""
    return u


@dataclass(frozen=True)
class BoundOperator:
    """A numerical operator at one problem and the present hyper-parameters.

    Attributes:
        apply: (u, k) -> D_num(u); stationary operators ignore k.
        metric: G.
        lift, readout: see `solver.fixed_point.FixedPointMap`.
    """

    apply: Callable[[State, int], State]
    metric: Metric
    lift: StateMap = identity
    readout: StateMap | None = None


class NumericalOperator(nn.Module, ABC):
    """D_num. Its parameters are the numerical hyper-parameters (step sizes, thresholds, ...).

    A subclass satisfies its step-size condition for all values of its parameters, by a
    reparametrisation (`Bounded`, `Exponential`). It declares the properties that then hold; a
    property that is not declared is not assumed. Declarations of this package count as proved where
    `step_share` is below 1. Those of other classes are tested by measurements and remain
    declarations.

    Attributes:
        condition: on the step sizes, in words.
        nonexpansive: |D(u) - D(v)|_G <= |u - v|_G for every convex problem and all parameters.
        averaged: D is (1 - t) I + t N with N nonexpansive in G and t < 1, so that it converges
            undamped.
        converges_undamped: D is only nonexpansive, but converges with gkm.alpha=null by its own
            theory (such as ADMM, whose iterates stay in a subset of all states).
        uses_g: D applies prox_g. A network then follows prox_g inside D, or replaces it where
            g = 0. Otherwise a network follows D_num, and problems with a g are refused.
        own_g: D has a g of its own, so that problems with another are refused. The place of a
            network is that of prox_g, as `uses_g` says.
        keeps_nonexpansive: a nonexpansive network in that place keeps D nonexpansive. This holds
            where G is a multiple of the identity on what the network maps and D is a composition.
        stationary: D does not depend on the number k of the iteration.
        maps: number of channels of the second layer, where D writes it as a stack of sparse maps;
            None: its layers are images.
        numerical: names of parameters with several entries that are step sizes or thresholds. They
            are learned at the rate of the scheme's numerical parameters, as scalars are.
    """

    condition: ClassVar[str] = ""
    nonexpansive: ClassVar[bool] = False
    averaged: ClassVar[bool] = False
    converges_undamped: ClassVar[bool] = False
    uses_g: ClassVar[bool] = False
    own_g: ClassVar[bool] = False
    keeps_nonexpansive: ClassVar[bool] = False
    stationary: ClassVar[bool] = True
    maps: int | None = None
    numerical: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def bind(self, problem: Problem) -> BoundOperator:
        """D_num at one problem, with everything that its iterations share computed once.

        Raises:
            InputError: the operator does not apply to this kind of problem.
        """

    def network_argument(self, u: State, estimate: State) -> Tensor:
        """What the network maps near a state: by default the first block of the estimate.

        Args:
            u: a complete state.
            estimate: of u, as the readout returns it.
        """
        return estimate[0]

    def step_share(self, problem: Problem) -> float | None:
        """The step size at a problem as a share of its limit; the condition holds below 1.

        Step and limit are in float64. The limit uses the constants that the parts of the problem
        compute (`computed_lipschitz`, `computed_norm_squared`), or state if they compute none.

        Returns:
            None: the operator does not state its share.
        """
        return None


class Bounded(nn.Module):
    """A hyper-parameter in the open interval (0, high), by a sigmoid that never reaches its ends.

    Args:
        value: initial value.
        high: upper end of the interval.
        learn: whether it is trained.
    """

    margin = 1e-6

    def __init__(self, value: float, *, high: float = 1.0, learn: bool = True) -> None:
        super().__init__()
        share = (value / high - self.margin) / (1 - 2 * self.margin)
        share = min(max(share, self.margin), 1 - self.margin)
        theta = torch.tensor(math.log(share / (1 - share)))
        self.theta, self.high = nn.Parameter(theta, requires_grad=learn), high

    def forward(self) -> Tensor:
        """The value, a scalar."""
        share = torch.sigmoid(self.theta)
        return self.high * (self.margin + (1 - 2 * self.margin) * share)


class Exponential(nn.Module):
    """A positive hyper-parameter, exp(theta).

    Args:
        value: initial value.
        learn: whether it is trained.
    """

    def __init__(self, value: float, *, learn: bool = True) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(math.log(value)), requires_grad=learn)

    def forward(self) -> Tensor:
        """The value, a scalar."""
        return self.theta.exp()


def lipschitz_of(problem: Problem, operator: NumericalOperator) -> float | Tensor:
    """L_f of a problem f + g, in whose units step sizes are given.

    Raises:
        InputError: the problem has no smooth part, or a coupling that the operator would ignore.
    """
    name = type(operator).__name__
    if problem.coupling is not None:
        raise InputError(
            f"{name} solves min f + g, but this problem has a linear relation A u + z = b; use "
            "gkm=ladmm or gkm=pdhg (gkm=alm for A u = b)"
        )
    if isinstance(problem.f, Zero):
        raise InputError(f"{name} needs a smooth term f, and this problem has none")
    return problem.f.lipschitz


def curvature(f: Smooth) -> float:
    """L_f in float64, as f computes it or else states it."""
    computed = f.computed_lipschitz()
    return _number(f.lipschitz) if computed is None else computed


def norm_squared(a: LinearMap) -> float:
    """|A|^2 in float64, as A computes it or else states it."""
    computed = a.computed_norm_squared()
    return _number(a.norm_squared) if computed is None else computed


def _number(value: float | Tensor) -> float:
    return value.item() if isinstance(value, Tensor) else value


def share_of_positive(step: Tensor) -> float:
    """`step_share` where any finite positive steps are allowed: 0 for these, else infinite."""
    return 0.0 if bool(((step > 0) & (step < math.inf)).all()) else math.inf


def coupling_of(problem: Problem, operator: NumericalOperator) -> Coupling:
    """The linear relation of a coupled problem.

    Raises:
        InputError: the problem has none.
    """
    if problem.coupling is None:
        raise InputError(
            f"{type(operator).__name__} needs a problem with a linear relation A u + z = b, and "
            "this task's has none; use task.form=split (task.form=exact for gkm=alm), or gkm=pg"
        )
    return problem.coupling


def least_squares_of(problem: Problem, operator: NumericalOperator) -> LeastSquares:
    """The data term 1/2 |A u - y|^2 of a problem f + g.

    Raises:
        InputError: f is another function.
    """
    lipschitz_of(problem, operator)
    if not isinstance(problem.f, LeastSquares):
        raise InputError(
            f"{type(operator).__name__} needs a data term 1/2 |A u - y|^2, got "
            f"{type(problem.f).__name__}; use gkm=pg"
        )
    return problem.f
