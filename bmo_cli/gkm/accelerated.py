"""FISTA, accelerated proximal gradient: a classical baseline, but no fixed averaged map."""

from __future__ import annotations

import math

import torch

from bmo_cli.config.checks import Positive, checked
from bmo_cli.gkm.operator import BoundOperator, Exponential, NumericalOperator, lipschitz_of
from bmo_cli.solver.metric import ScaledIdentity
from bmo_cli.solver.problem import Problem
from bmo_cli.solver.state import State


@checked
class FISTA(NumericalOperator):
    """Proximal gradient steps of length gamma = 1/L_f from an extrapolated point.

        y = u^k + (t_k - 1) / t_{k+1} (u^k - u^{k-1})
        u^{k+1} = prox_{gamma g}( y - gamma grad f(y) )

    with t_0 = 0 and t_{k+1} = (1 + sqrt(1 + 4 t_k^2)) / 2, so that y = u^0 at first. The state is
    (u^k, u^{k-1}). (Beck & Teboulle, SIAM J. Imaging Sci. 2009.)

    Args:
        weight: factor on g, > 0.
        learn_weight: whether the weight is a hyper-parameter, kept positive.
    """

    uses_g = True
    keeps_nonexpansive = True  # a denoiser acts in the metric I/gamma; D itself may be expansive
    stationary = False

    def __init__(self, *, weight: Positive = 1.0, learn_weight: bool = False) -> None:
        super().__init__()
        self.weight = Exponential(weight, learn=learn_weight)

    def bind(self, problem: Problem) -> BoundOperator:
        weight = self.weight()
        gamma = torch.ones_like(weight) / lipschitz_of(problem, self)
        times = [0.0, 1.0]

        def momentum(k: int) -> float:
            while len(times) < k + 2:
                times.append((1 + math.sqrt(1 + 4 * times[-1] ** 2)) / 2)
            return (times[k] - 1) / times[k + 1]

        def apply(state: State, k: int) -> State:
            now, before = state
            y = now + momentum(k) * (now - before)
            (gradient,) = problem.f.grad((y,))
            (new,) = problem.g.prox((y - gamma * gradient,), gamma * weight)
            return (new, now)

        return BoundOperator(
            apply, ScaledIdentity(1 / gamma), lift=lambda u: u if len(u) == 2 else (*u, *u)
        )
