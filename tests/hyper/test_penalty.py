"""The penalty on a network's expansion against dense Jacobians."""

from dataclasses import replace

import pytest
import torch

from bmo_cli.gkm.proximal import DouglasRachford, ProximalGradient, Resolvent
from bmo_cli.gkm.scheme import GKM
from bmo_cli.hyper.penalty import expansion, reflected_norm_squared
from bmo_cli.linear.matrix import Matrix
from bmo_cli.nets.convex_potential import ConvexPotential
from bmo_cli.nets.dncnn import DnCNN
from bmo_cli.solver.fixed_point import iterate
from bmo_cli.solver.functions import LeastSquares
from bmo_cli.solver.problem import Problem, Sample, SquaredError


def test_power_iteration_finds_the_norm_of_the_reflection():
    net = DnCNN(depth=3, width=4, last_gain=1.0).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 1, 5, 6, generator=generator, dtype=torch.float64)
    direction = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    found = reflected_norm_squared(net, x, direction, turns=300)
    for image, value in zip(x, found, strict=True):
        jacobian = torch.autograd.functional.jacobian(net, image[None]).reshape(30, 30)
        reflected = 2 * jacobian - torch.eye(30, dtype=torch.float64)
        expected = torch.linalg.matrix_norm(reflected, 2).square()
        assert value.item() == pytest.approx(expected.item(), rel=1e-6)


def test_gradient_with_respect_to_the_weights():
    net = DnCNN(depth=2, width=3, last_gain=1.0).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 1, 4, 5, generator=generator, dtype=torch.float64)
    direction = torch.randn(x.shape, generator=generator, dtype=torch.float64)

    def value():
        return reflected_norm_squared(net, x, direction, turns=400).sum()

    value().backward()
    weight = net.convs[0].weight
    for index in ((0, 0, 1, 1), (2, 0, 0, 2)):
        found, kept, ends = weight.grad[index].item(), weight.data[index].item(), []
        for sign in (1, -1):
            weight.data[index] = kept + sign * 1e-6
            ends.append(value().item())
        weight.data[index] = kept
        assert found == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4)


def sample():
    generator = torch.Generator().manual_seed(0)
    y = torch.rand(3, 1, 8, 8, generator=generator)

    class Identity(Matrix):
        """A = I on images."""

        norm_squared = 1.0

        def __init__(self):
            pass

        def __call__(self, u):
            return u

        adjoint = normal = __call__

        def shifted_inverse(self, gamma):
            return lambda v: v / (1 + gamma)

    return Sample(Problem(LeastSquares(Identity(), y)), (y,), SquaredError(y), seed=5)


def test_expansion_is_floored_and_sees_an_expansive_network():
    good = GKM(operator=Resolvent(), net=ConvexPotential(width=4, size=3))
    bad = GKM(operator=Resolvent(), net=DnCNN(depth=3, width=8, last_gain=3.0))
    low, high = expansion(good, sample(), 3), expansion(bad, sample(), 3)
    assert 0.95 - 1e-6 <= low.item() <= 1 + 1e-5  # a firmly nonexpansive network: |2 J - I| <= 1
    assert high.item() > 1.5
    again = expansion(bad, sample(), 3)
    assert again.item() == high.item()


@pytest.mark.parametrize("operator", [ProximalGradient, DouglasRachford])
def test_the_penalty_looks_at_estimates(operator):
    """With Douglas-Rachford the iterate s is no image: x = prox_{gamma f}(s) is."""
    seen = []

    class Recording(DnCNN):
        def bind(self, guide=None):
            inside = super().bind(guide)

            def apply(x):
                seen.append(x.detach())
                return inside(x)

            return apply

    given = replace(sample(), initial=(torch.zeros(3, 1, 8, 8),))
    scheme = GKM(operator=operator(gamma=0.7), net=Recording(depth=2, width=3))
    mapping = scheme.bind(given.problem)
    start = mapping.lift(given.initial)
    with torch.no_grad():
        last = iterate(mapping, start, iterations=4).value
    first, last = (mapping.estimate(u)[0].detach() for u in (start, last))
    seen.clear()
    expansion(scheme, given, 4)
    generator = torch.Generator().manual_seed(given.seed)
    share = torch.rand(3, 1, 1, 1, generator=generator)
    torch.testing.assert_close(seen[-1], (1 - share) * first + share * last)
    moved = operator is DouglasRachford
    assert ((first - start[0]).abs().max() > 1e-2) == moved
