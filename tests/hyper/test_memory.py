"""The memory that a hyper-gradient takes: counted exactly, and a run that cannot fit is refused."""

import dataclasses
import gc
import re
import weakref

import pytest
import torch

from bmo_cli.errors import InputError
from bmo_cli.experiment.load import load_run
from bmo_cli.gkm.proximal import Resolvent
from bmo_cli.gkm.scheme import GKM
from bmo_cli.hyper import memory
from bmo_cli.hyper.aggregation import BMO, Unrolled
from bmo_cli.hyper.implicit import Implicit
from bmo_cli.hyper.reverse import Need, measure_need
from bmo_cli.hyper.truncated import Truncated
from bmo_cli.linear.blur import PeriodicBlur, transfer_function
from bmo_cli.nets.convex_potential import ConvexPotential
from bmo_cli.nets.guided import GuidedPotential
from bmo_cli.solver.cost import LiveBytes, SavedBytes
from bmo_cli.solver.functions import LeastSquares
from bmo_cli.solver.problem import Problem

BATCH, K = 2, 24
FULL = {"memory": "full"}
HYPERS = [
    Unrolled(**FULL),
    BMO(**FULL),
    Truncated(last=5, **FULL),
    Truncated(last=2, **FULL),
    Implicit(),
]


def test_saved_bytes_in_closed_form():
    n = 1000
    x = torch.randn(n, requires_grad=True)
    with SavedBytes() as saved:
        y = x.exp()  # keeps y
        z = y * y  # keeps y twice more
        w = z.sin()  # keeps z
        w.sum()  # keeps nothing
        assert saved.total == 2 * 4 * n
        with torch.no_grad():
            w.exp()
        assert saved.total == 2 * 4 * n
        w[: n // 2].exp()  # keeps its result, half as long
        w.double() * torch.ones(n, dtype=torch.float64)  # keeps the second factor alone
    assert saved.total == (2 * 4 + 4 / 2 + 8) * n
    w.exp()
    assert saved.total == (2 * 4 + 4 / 2 + 8) * n


def test_counting_changes_no_gradient():
    def gradients():
        x = torch.linspace(0.1, 1, 10, requires_grad=True)
        (first,) = torch.autograd.grad(x.exp().sin().sum(), x, create_graph=True)
        return first, torch.autograd.grad(first.sum(), x)[0]

    expected = gradients()
    with SavedBytes():
        found = gradients()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.slow
def test_counting_keeps_nothing_alive():
    x = torch.randn(10, requires_grad=True)
    with SavedBytes() as saved:
        y = x.exp()
    alive = weakref.ref(y)
    del y
    gc.collect()
    assert saved.total == 40
    assert alive() is None


def test_live_bytes_in_closed_form():
    n = 1000
    with LiveBytes() as live:
        a = torch.ones(n)
        b = a + 1  # two at a time
        del a
        c = torch.ones(n, dtype=torch.float64)  # b and twice as much
        assert live.peak == 3 * 4 * n
        view = c[: n // 2].square_()  # nothing new
        del b, c, view
        kept = [torch.ones(n) for _ in range(4)]
    assert live.peak == 4 * 4 * n == sum(t.nbytes for t in kept)


def test_live_bytes_see_what_a_backward_pass_holds():
    class Wasteful(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            held = [gradient + i for i in range(10)]
            return sum(held)

    x = torch.ones(1000, requires_grad=True)
    y = Wasteful.apply(x)
    with LiveBytes() as live:
        torch.autograd.grad(y, x, torch.ones(1000))
    assert 11 * 4000 <= live.peak <= 13 * 4000


@pytest.mark.parametrize("net", [ConvexPotential(width=16), GuidedPotential(widths=(8, 8, 8))])
def test_what_a_backward_pass_holds_is_planned(net):
    """An operation that saves its argument alone computes the rest again, all at a time."""
    generator = torch.Generator().manual_seed(0)
    y = torch.rand(2, 1, 32, 32, generator=generator)
    blur = PeriodicBlur(transfer_function(torch.ones(1, 3, 3) / 9, (32, 32)), (32, 32))
    guide = torch.rand(2, 7, 32, 32, generator=generator)
    problem = Problem(f=LeastSquares(blur, y), guide=lambda: guide)
    mapping = GKM(operator=Resolvent(), net=net).bind(problem)
    need = measure_need(mapping, (y,), None, net.parameters())
    responses = len(net.filters[0]) * y.nbytes
    assert need.iteration < responses  # the graph does not keep them
    assert 4 * responses < need.working < 20 * responses


@pytest.fixture(scope="module")
def experiment(trained_once):
    """A tiny deconvolution with a DnCNN."""
    _, built = load_run(trained_once)
    built.task.prepare(["train"])
    return built


def measured(experiment, iterations):
    """Bytes that the whole graph takes."""
    sample = next(iter(experiment.task.samples(range(1), BATCH)))
    with SavedBytes() as saved:
        experiment.hyper.objective(experiment.scheme, sample, iterations)
    return saved.total


@pytest.fixture
def require():
    """Plan `iterations` with `free` bytes left."""

    def call(experiment, iterations, free):
        sample = next(iter(experiment.task.samples(range(1), BATCH)))
        experiment.hyper.plan(experiment.scheme, sample, iterations, free)

    return call


def refusal(require, experiment, iterations, free):
    """The one line that a refusal says."""
    with pytest.raises(InputError) as error:
        require(experiment, iterations, free)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("hyper", HYPERS, ids=lambda hyper: type(hyper).__name__)
def test_what_is_refused_would_not_fit(experiment, require, hyper):
    """Beside the graph, the backward pass of an iteration is counted, which nothing saves.

    With a network as small as this one, it holds more than the graph of an iteration.
    """
    experiment = dataclasses.replace(experiment, hyper=hyper)
    whole = measured(experiment, K)
    refusal(require, experiment, K, 0.9 * whole)
    backward = measured(experiment, 2) - measured(experiment, 1)
    require(experiment, K, 1.05 * whole + 4 * backward)


def test_memory_grows_with_the_differentiated_iterations_alone(experiment):
    def size(hyper, iterations):
        return measured(dataclasses.replace(experiment, hyper=hyper), iterations)

    assert size(Unrolled(), 4 * K) == pytest.approx(4 * size(Unrolled(), K), rel=0.05)
    assert size(Implicit(), 4 * K) == size(Implicit(), K) < size(Unrolled(), 2)
    assert size(Truncated(last=3), 4 * K) == size(Truncated(last=3), K) < size(Unrolled(), 4)


def test_auto_fits_where_the_whole_graph_does_not(experiment, require, caplog):
    whole = measured(dataclasses.replace(experiment, hyper=Unrolled()), K)
    experiment = dataclasses.replace(experiment, hyper=Unrolled())
    with caplog.at_level("INFO", logger="bmo"):
        require(experiment, K, 10 * whole)
        assert not caplog.messages
        require(experiment, K, whole // 2)
    (message,) = caplog.messages
    assert re.search(r"every \d+th iterate is kept|the iterates alone are kept", message)
    assert measured(experiment, K) <= 0.8 * whole // 2


def test_a_refusal_of_the_whole_graph_points_to_less(experiment, require):
    experiment = dataclasses.replace(experiment, hyper=Unrolled(memory="full"))
    free = measured(experiment, K) // 2
    message = refusal(require, experiment, K, free)
    assert message.startswith(f"train.iterations={K} needs about ")
    assert "hyper.memory=auto" in message
    assert "train.batch" in message
    require(dataclasses.replace(experiment, hyper=Unrolled(memory="auto")), K, free)


def test_a_refusal_suggests_no_other_choice_where_none_fits(experiment, require):
    for kept in ("auto", "states", "full"):
        experiment = dataclasses.replace(experiment, hyper=Unrolled(memory=kept))
        message = refusal(require, experiment, K, measured(experiment, 1) // 2)
        assert "train.batch" in message
        assert "hyper.memory" not in message


def test_a_budget_too_small_says_the_smallest_that_does(experiment, require):
    experiment = dataclasses.replace(experiment, hyper=Unrolled(memory_mib=1e-3))
    message = refusal(require, experiment, K, 2**30)
    assert message.startswith("hyper.memory_mib=0.001 is too small: ")
    least = int(re.search(r"hyper\.memory_mib=(\d+),", message)[1])
    experiment = dataclasses.replace(experiment, hyper=Unrolled(memory_mib=least))
    require(experiment, K, 2**30)


def test_unknown_free_memory_refuses_nothing(experiment, require):
    require(experiment, K, None)


def test_the_command_line_refuses_what_cannot_fit(bmo, tiny, tmp_path):
    if memory.free_memory(torch.device("cpu")) is None:
        pytest.skip("this system does not say how much memory is free")
    words = [
        "train.iterations=2147483647",
        "hyper.memory=full",
        "eval.iterations=2",
        "hydra.run.dir=run",
    ]
    done = bmo("train", *tiny, *words)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "hyper=implicit" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_budget_below_the_backward_pass_has_no_segment():
    need = Need(state=4608, iteration=27648, working=86708)
    assert need.longest_segment(24, 1000) is None
    assert need.longest_segment(24, 86708) is None
    longest = need.longest_segment(24, need.total(24, 1))
    assert longest >= 1 and need.total(24, longest) <= need.total(24, 1)
    assert need.longest_segment(24, need.total(24, 24)) == 24
