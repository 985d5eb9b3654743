"""An operator of one's own: a gradient step that is never longer than 1 / L_f."""

from bmo_cli.config.checks import OpenUnit, checked
from bmo_cli.gkm.operator import Bounded, BoundOperator, NumericalOperator, lipschitz_of
from bmo_cli.solver.metric import ScaledIdentity


@checked
class HalfStep(NumericalOperator):
    """prox_{gamma g}(u - gamma grad f(u)) with gamma = share / L_f.

    Args:
        share: initial step in units of 1 / L_f; learned, and kept in (0, 1).
    """

    condition = "0 < share < 1"
    nonexpansive = True
    averaged = True
    uses_g = True
    keeps_nonexpansive = True

    def __init__(self, *, share: OpenUnit = 0.5) -> None:
        super().__init__()
        self.share = Bounded(share)

    def bind(self, problem):
        gamma = self.share() / lipschitz_of(problem, self)

        def apply(u, k):
            moved = (a - gamma * b for a, b in zip(u, problem.f.grad(u), strict=True))
            return problem.g.prox(tuple(moved), gamma)

        return BoundOperator(apply, ScaledIdentity(1 / gamma))
