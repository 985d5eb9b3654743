"""A problem where aggregation is decisive (method.md, section 5), from the package's own classes.

    min_x 1/2 (x - y2)^2 + 1/2 (y1 - 1)^2   s.t.  y in argmin_y 1/2 y1^2 - x y1

Every y2 solves the lower problem; the optimum is x = y1 = y2 = 1 with value 0. Plain unrolling
leaves y2 = 0 and ends at x = 1/2, value 1/4, for every K.
"""

import pytest
import torch
from torch import nn

from bmo_cli.gkm.proximal import ProximalGradient
from bmo_cli.gkm.scheme import GKM
from bmo_cli.hyper.aggregation import BMO, Unrolled
from bmo_cli.solver.functions import Smooth
from bmo_cli.solver.problem import Loss, Problem, Sample


class Lower(Smooth):
    lipschitz = 1.0

    def __init__(self, x):
        self.x = x

    def grad(self, u):
        (y,) = u
        return (torch.stack([y[:, 0] - self.x, torch.zeros_like(y[:, 1])], 1),)


class Upper(Loss):
    lipschitz = 1.0

    def __init__(self, x):
        self.x = x

    def value(self, u):
        (y,) = u
        return 0.5 * (self.x - y[:, 1]) ** 2 + 0.5 * (y[:, 0] - 1) ** 2


def hyper_train(hyper, iterations):
    """The minimum of phi_K, which is quadratic in x: one Newton step from anywhere ends there."""
    scheme = GKM(operator=ProximalGradient(gamma=1.0, learn=False), alpha=0.5).double()

    def phi(x):
        lower, upper = Problem(Lower(x)), Upper(x)
        sample = Sample(lower, (torch.zeros(1, 2, dtype=torch.float64),), upper)
        return hyper.objective(scheme, sample, iterations).objective

    def slope(x):
        x = nn.Parameter(torch.tensor(x, dtype=torch.float64))
        (gradient,) = torch.autograd.grad(phi(x), x)
        return gradient.item()

    x = slope(0.0) / (slope(0.0) - slope(1.0))
    assert slope(x) == pytest.approx(0, abs=1e-12)
    return x, phi(torch.tensor(x, dtype=torch.float64)).item()


@pytest.mark.parametrize(
    ("iterations", "x", "value"),
    [(8, 0.9212, 2.7e-2), (32, 0.9814, 8.2e-3), (128, 0.9950, 2.4e-3)],
)
def test_aggregation_approaches_the_optimum(iterations, x, value):
    found, loss = hyper_train(BMO(mu=0.5, s=0.9), iterations)
    assert found == pytest.approx(x, abs=1e-3)
    assert loss == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize("hyper", [Unrolled(), BMO(mu=0.0, s=0.9)])
def test_without_aggregation_the_wrong_point_is_found(hyper):
    found, loss = hyper_train(hyper, 32)
    assert found == pytest.approx(0.5, abs=1e-3)
    assert loss == pytest.approx(0.25, abs=1e-3)
