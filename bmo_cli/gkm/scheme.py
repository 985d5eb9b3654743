"""GKM: a numerical operator and a network as one averaged fixed-point map (method.md, section 2).

D = D_net o D_num,     T = (1 - alpha) I + alpha D
"""

from __future__ import annotations

from torch import nn

from bmo_cli.config.checks import OpenUnit, checked
from bmo_cli.gkm.operator import NumericalOperator
from bmo_cli.nets.network import Network
from bmo_cli.solver.fixed_point import FixedPointMap
from bmo_cli.solver.problem import Problem
from bmo_cli.solver.state import State


@checked
class GKM(nn.Module):
    """The scheme; its parameters, and those of its parts, are omega.

    Args:
        operator: D_num.
        net: D_net, applied to the first block (the image); None: numerical operator alone.
        alpha: averaging, in (0, 1).
    """

    def __init__(
        self, *, operator: NumericalOperator, net: Network | None = None, alpha: OpenUnit = 0.9
    ) -> None:
        super().__init__()
        self.operator, self.net, self.alpha = operator, net, alpha

    @property
    def nonexpansive(self) -> bool:
        """Whether D is nonexpansive by construction."""
        return self.operator.nonexpansive and (self.net is None or self.net.nonexpansive)

    def bind(self, problem: Problem) -> FixedPointMap:
        """T at one problem and the present omega, with everything that is constant computed."""
        bound = self.operator.bind(problem)
        if self.net is None:
            return FixedPointMap(bound.apply, bound.metric, self.alpha)
        network = self.net.bind()

        def composed(u: State, k: int) -> State:
            first, *others = bound.apply(u, k)
            return (network(first), *others)

        return FixedPointMap(composed, bound.metric, self.alpha)

    def project_(self) -> None:
        """Proj_Omega: bring parameters back into their set after an optimiser's step."""
        if self.net is not None:
            self.net.project_()
