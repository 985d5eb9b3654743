"""What a class of the user's own leaves out is said in one line, where it is needed."""

import pytest
import torch

from bmo_cli.errors import InputError
from bmo_cli.experiment.evaluation import Settings, solve
from bmo_cli.gkm.augmented import ALM, LADMM, PDHG
from bmo_cli.gkm.proximal import DouglasRachford, ProximalGradient, Resolvent
from bmo_cli.gkm.scheme import GKM
from bmo_cli.hyper.aggregation import BMO, Unrolled
from bmo_cli.linear.map import LinearMap
from bmo_cli.nets.guided import GuidedPotential
from bmo_cli.solver.functions import L1, AtZero, LeastSquares, Proximable, Smooth, SquaredNorm
from bmo_cli.solver.problem import Coupling, Loss, Problem, Sample, SquaredError
from bmo_cli.training.threads import CpuThreads


class Left(LinearMap):
    """Diagonal; leaves out what may be left out."""

    norm_squared = 4.0

    def __call__(self, u):
        return 2 * u

    def adjoint(self, y):
        return 2 * y


class Raising(Left):
    """Says so itself, in the two usual ways."""

    def select(self, problems):
        raise NotImplementedError

    def shifted_inverse(self, gamma):
        raise NotImplementedError("no closed form")


MAPS = [Left(), Raising()]
Y = torch.tensor([[1.0, 2.0, 3.0], [0.5, 0.0, 0.1]])


def sample(a, coupled, h=None):
    if coupled:
        problem = Problem(coupling=Coupling(a, Y, h or SquaredNorm()))
    else:
        problem = Problem(LeastSquares(a, Y), L1(0.1))
    return Sample(problem, (torch.zeros_like(Y),), SquaredError(Y))


@pytest.mark.parametrize("a", MAPS, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize(
    ("operator", "hyper", "h"),
    [
        (DouglasRachford(), Unrolled(), None),
        (LADMM(), BMO(), SquaredNorm()),
        (PDHG(), BMO(), SquaredNorm()),
        (ALM(), BMO(), AtZero()),
    ],
    ids=lambda part: type(part).__name__,
)
def test_who_needs_the_inverse_is_said(a, operator, hyper, h):
    scheme, given = GKM(operator=operator), sample(a, h is not None, h)
    name = type(a).__name__
    with pytest.raises(InputError) as said:
        hyper.plan(scheme, given, 3, None)
    text = str(said.value)
    assert text.startswith(f"{name} has no `shifted_inverse`, (I + gamma A^T A)^{{-1}}")
    assert "gkm=pg" in text and "hyper=unrolled" in text and "\n" not in text
    assert ("(no closed form)" in text) == isinstance(a, Raising)


@pytest.mark.parametrize("a", MAPS, ids=lambda a: type(a).__name__)
def test_who_does_not_need_the_inverse_works(a):
    """1/2 |2 u - y|^2 + 1/10 |u|_1 has the solution soft(y / 2, 1 / 40)."""
    estimate = solve(GKM(operator=ProximalGradient()), sample(a, False).problem, (Y,), Settings(60))
    exact = torch.sign(Y) * (Y.abs() / 2 - 0.1 / 4).clamp_min(0)
    torch.testing.assert_close(estimate.value[0], exact, rtol=0, atol=1e-5)
    for operator, h in ((LADMM(), SquaredNorm()), (PDHG(), SquaredNorm()), (ALM(), AtZero())):
        outcome = Unrolled().objective(GKM(operator=operator), sample(a, True, h), 5)
        assert outcome.objective.isfinite()
    with pytest.raises(InputError, match=r"has no `shifted_inverse`.*gkm=pg"):
        GKM(operator=Resolvent()).bind(Problem(LeastSquares(a, Y)))


@pytest.mark.parametrize("a", MAPS, ids=lambda a: type(a).__name__)
def test_what_cannot_be_divided_is_not(a):
    given = sample(a, False)
    assert CpuThreads.of(given).count == 1
    with pytest.raises(InputError, match="has no `select`, so its batches are not divided"):
        given.equal_part(0, 2)
    together = solve(GKM(operator=ProximalGradient()), given.problem, (Y,), Settings(9, 1e-3))
    assert together.iterations >= 1


class Cosh(Smooth):
    lipschitz = 2.0

    def grad(self, u):
        return (torch.tanh(u[0]),)


class RaisingCosh(Cosh):
    def resolvent(self, gamma):
        raise NotImplementedError


class RaisingProx(Proximable):
    def prox(self, u, gamma):
        raise NotImplementedError


class RaisingLoss(Loss):
    def value(self, u):
        return u[0].square().sum(1)

    def select(self, problems):
        raise NotImplementedError


def test_other_methods_that_are_left_out():
    gamma = torch.tensor(1.0)
    for f in (Cosh(), RaisingCosh()):
        with pytest.raises(InputError, match=rf"{type(f).__name__} has no `resolvent`.*gkm=pg"):
            GKM(operator=DouglasRachford()).bind(Problem(f))
        with pytest.raises(InputError, match=rf"{type(f).__name__} has no `select`"):
            f.select(torch.tensor([0]))
    with pytest.raises(InputError, match="RaisingProx has no `prox`"):
        RaisingProx().prox((Y,), gamma)
    with pytest.raises(InputError, match="RaisingLoss has no `select`"):
        RaisingLoss().select(torch.tensor([0]))

    def guide():
        raise NotImplementedError

    image = torch.zeros(1, 1, 8, 8)
    scheme = GKM(operator=ProximalGradient(), net=GuidedPotential(widths=(2, 2, 2)))
    for given in (None, guide):
        with pytest.raises(InputError, match="a first estimate of the image, which this task"):
            scheme.bind(Problem(LeastSquares(Left(), image), guide=given))


def test_a_method_that_works_is_called_as_it_is():
    class Whole(Left):
        def shifted_inverse(self, gamma):
            return lambda v: v / (1 + 4 * gamma)

        def select(self, problems):
            return self

    v = Whole().shifted_inverse(torch.tensor(0.5))(Y)
    torch.testing.assert_close(v * (1 + 0.5 * 4), Y)
    assert sample(Whole(), False).equal_part(1, 2).problem.f.y.shape == (1, 3)


def test_other_errors_of_such_a_method_stay_what_they_are():
    class Wrong(Left):
        def shifted_inverse(self, gamma):
            return gamma + "1"

    with pytest.raises(TypeError):
        Wrong().shifted_inverse(torch.tensor(0.5))
