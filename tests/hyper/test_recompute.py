"""Leaner memory of reverse mode: the gradient is that of the whole graph, the memory is not."""

import copy

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from bmo_cli.config.locate import config_dir
from bmo_cli.config.schema import check_config
from bmo_cli.experiment.build import build
from bmo_cli.hyper.aggregation import BMO, Unrolled
from bmo_cli.hyper.reverse import Need, measure_need
from bmo_cli.hyper.truncated import Truncated
from bmo_cli.solver.cost import Cost, SavedBytes
from bmo_cli.solver.fixed_point import FixedPointMap, Status, iterate
from bmo_cli.solver.metric import ScaledIdentity
from bmo_cli.solver.recompute import iterate_lean

K = 7
SMALL = ("data.crop=32", "train.batch=2", "net=dncnn", "net.width=6", "hyper=bmo")
SCHEMES = {
    "prox": [*SMALL],
    "untied": [*SMALL, "gkm=pg", "gkm.stages=3"],
    "guided": ["data.crop=32", "train.batch=2", "net=guided"],
    "gradient step": ["data.crop=32", "train.batch=2", "net=gradient_step"],
    "ladmm, three blocks": [*SMALL, "task.form=split", "gkm=ladmm"],
    "alm": [*SMALL, "task.form=exact", "gkm=alm"],
    "pdhg": ["data.crop=32", "train.batch=2", "task.form=tv", "gkm=pdhg", "net=none"],
    "two layers": ["task=derain", "data.crop=32", "train.batch=2", "net.widths=[4,4,4]"],
    "dictionary of rain": [
        "task=derain",
        "gkm=rain_dictionary",
        "gkm.operator.kernels=4",
        "data.crop=32",
        "train.batch=2",
        "net.widths=[4,4,4]",
    ],
    "matrix": ["task=sparse_coding", "method=dladmm"],
    "learned problem": ["task=toy"],
}
HYPERS = {
    "unrolled": lambda **memory: Unrolled(**memory),
    "bmo": lambda **memory: BMO(mu=0.3, **memory),
    "truncated": lambda **memory: Truncated(last=K - 2, **memory),
}


@pytest.fixture(scope="module")
def posed():
    """Experiment and training sample of a scheme, built once."""
    made = {}

    def call(name, kind=torch.float32):
        if (name, kind) not in made:
            with initialize_config_dir(str(config_dir()), version_base="1.3"):
                config = compose("train", ["device=cpu", *SCHEMES[name]])
            before = torch.get_default_dtype()
            torch.set_default_dtype(kind)
            try:
                experiment = build(check_config(OmegaConf.to_container(config, resolve=True)))
                experiment.task.prepare(["train"])
                sample = next(experiment.task.samples(range(1), config.train.batch))
            finally:
                torch.set_default_dtype(before)
            experiment.omega.to(
                sample.initial[0].dtype
            )  # some tasks draw float32 whatever is asked
            made[name, kind] = experiment, sample
        return made[name, kind]

    return call


def gradients(experiment, sample, hyper):
    """Objective, hyper-gradient by parameter, and what it took."""
    cost = Cost()
    outcome = hyper.objective(experiment.scheme.using(cost=cost), sample, K)
    learned = [p for p in experiment.omega.parameters() if p.requires_grad]
    found = torch.autograd.grad(outcome.objective, learned, allow_unused=True)
    return outcome, found, cost


@pytest.mark.slow
@pytest.mark.parametrize(
    "hyper, memory", [("unrolled", "segments"), ("bmo", "states"), ("truncated", "segments")]
)
@pytest.mark.parametrize("name", SCHEMES)
def test_the_gradient_is_that_of_the_whole_graph(posed, name, hyper, memory):
    experiment, sample = posed(name, torch.float64)
    exact = sample.initial[0].dtype is torch.float64
    agree(experiment, sample, HYPERS[hyper], memory, 1e-11 if exact else 1e-6)


@pytest.mark.parametrize("memory", ["states", "segments"])
@pytest.mark.parametrize("name", ["prox", "untied", "matrix", "two layers"])
def test_the_gradient_is_that_of_the_whole_graph_in_float32(posed, name, memory):
    agree(*posed(name), HYPERS["bmo"], memory, 1e-6)


def agree(experiment, sample, hyper, memory, bound):
    """The relative difference of gradients is at most `bound`; that of every parameter, 100 x."""
    full, expected, cost = gradients(experiment, sample, hyper(memory="full"))
    lean, found, repeated = gradients(experiment, sample, hyper(memory=memory))
    assert lean.objective.item() == full.objective.item()
    assert lean.residual == full.residual
    pairs = [
        (torch.zeros(1) if a is None else a, torch.zeros(1) if b is None else b)
        for a, b in zip(found, expected, strict=True)
    ]
    size = sum(b.norm() ** 2 for _, b in pairs) ** 0.5
    assert size > 0
    assert sum((a - b).norm() ** 2 for a, b in pairs) ** 0.5 <= bound * size
    for a, b in pairs:
        assert (a - b).norm() <= 100 * bound * b.norm() + 0.1 * bound * size
    assert repeated.vjps == cost.vjps > 0
    assert repeated.evaluations > cost.evaluations


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEMES)
def test_a_plan_that_was_made_before_changes_nothing(posed, name):
    """Training plans once; what a metric computes when it is first needed must keep its graph."""
    experiment, sample = posed(name, torch.float64)
    full, expected, _ = gradients(experiment, sample, HYPERS["bmo"](memory="full"))
    hyper = HYPERS["bmo"](memory="states")
    hyper.plan(experiment.scheme, sample, K, None)
    exact = sample.initial[0].dtype is torch.float64
    for _ in range(2):
        outcome, found, _ = gradients(experiment, sample, hyper)
        assert outcome.objective.item() == full.objective.item()
        for a, b in zip(found, expected, strict=True):
            if b is not None:
                torch.testing.assert_close(
                    a, b, rtol=1e-8 if exact else 1e-3, atol=1e-9 if exact else 1e-7
                )


def test_states_repeat_all_iterations_but_the_last(posed):
    experiment, sample = posed("prox")
    for hyper, repeated in ((Unrolled(memory="states"), K - 1), (Truncated(last=3), 0)):
        hyper.plan(experiment.scheme, sample, K, free=None)
        _, _, cost = gradients(experiment, sample, hyper)
        assert (cost.evaluations, cost.vjps) == (K + repeated, hyper.differentiated_iterations(K))


def test_backward_accumulates_and_can_be_repeated(posed):
    experiment, sample = posed("prox")
    parameters = [p for p in experiment.omega.parameters() if p.requires_grad]
    objective = Unrolled(memory="states").objective(experiment.scheme, sample, 4).objective
    experiment.omega.zero_grad(set_to_none=True)
    objective.backward(retain_graph=True)
    once = [p.grad.clone() for p in parameters]
    objective.backward()
    for p, before in zip(parameters, once, strict=True):
        torch.testing.assert_close(p.grad, 2 * before, rtol=1e-6, atol=1e-12)
    with pytest.raises(RuntimeError, match="second time"):
        objective.backward()
    experiment.omega.zero_grad(set_to_none=True)


def cubic(theta, phi):
    """u -> theta u^3 + phi u: its derivatives are written down below."""
    return FixedPointMap(lambda u, k: (theta * u[0] ** 3 + phi * u[0],), ScaledIdentity(theta**2))


@pytest.mark.parametrize("segment", [1, 2, 3, 4, 5, 9])
def test_segments_of_every_length_against_the_chain_rule(segment):
    theta, phi, start = (
        torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (-0.3, 0.9, 0.8)
    )
    iterations, u, expected = 5, 0.8, [0.0, 0.0, 1.0]
    for _ in range(iterations):
        slope = 3 * -0.3 * u**2 + 0.9
        partial = (u**3, u, 0.0)
        expected = [slope * e + p for e, p in zip(expected, partial, strict=True)]
        u = -0.3 * u**3 + 0.9 * u
    solution = iterate_lean(
        cubic(theta, phi), (start.reshape(1, 1),), iterations=iterations, segment=segment
    )
    assert solution.value[0].item() == pytest.approx(u, rel=1e-14)
    solution.value[0].sum().backward()
    assert [x.grad.item() for x in (theta, phi, start)] == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("segment", [1, 3, 20])
def test_numbers_and_the_last_residual_are_those_of_the_loop(segment):
    numbers = []

    def grow(u, k):
        numbers.append(k)
        return (u[0] * (1e3 if k < 8 else 1e30) * theta,)

    theta = torch.tensor(1.0, requires_grad=True)
    mapping = FixedPointMap(grow, ScaledIdentity(torch.tensor(1.0)))
    initial = (torch.ones(1, 1),)
    for iterations in (3, 6, 20):  # the last becomes infinite on the way
        plain = iterate(mapping, initial, iterations=iterations, start=2)
        expected, numbers[:] = list(numbers), []
        lean = iterate_lean(mapping, initial, iterations=iterations, segment=segment, start=2)
        assert lean.status is plain.status
        if plain.status is not Status.NONFINITE:
            assert numbers == expected
            assert lean.iterations == plain.iterations
            assert lean.residuals == plain.residuals[-1:]
            assert torch.equal(lean.value[0], plain.value[0])
        numbers.clear()
    assert plain.status is Status.NONFINITE


def test_memory_of_states_grows_by_a_state(posed):
    experiment, sample = posed("prox")
    size = sample.initial[0].numel() * sample.initial[0].element_size()

    def saved(hyper, iterations):
        hyper.plan(experiment.scheme, sample, iterations, None)
        with SavedBytes() as bytes_:
            hyper.objective(experiment.scheme, sample, iterations)
        return bytes_.total

    growth = {
        memory: (saved(Unrolled(memory=memory), 30) - saved(Unrolled(memory=memory), 10)) / 20
        for memory in ("states", "full")
    }
    assert growth["states"] == size
    assert growth["full"] > 20 * size


def test_auto_takes_the_longest_segments_that_fit(posed):
    need = Need(state=10, iteration=100, working=150)
    assert need.total(12, 12) == 1350
    assert need.total(12, 1) == 110 + 160 + 150  # segments are packed 1.6 times as loosely
    assert need.longest_segment(12, 1350) == 12
    assert need.longest_segment(12, 1349) == 7  # 10 + 1.6 * 700 + 150; eight take 1440
    assert need.longest_segment(12, 420) == 1
    assert need.longest_segment(12, 419) is None
    for budget in range(420, 1600, 7):  # the closed form against all choices
        fitting = [m for m in range(1, 13) if need.total(12, m) <= budget]
        assert need.longest_segment(12, budget) == max(fitting)
    experiment, sample = posed("prox")
    full, kept = saved_by(experiment, sample, Unrolled(memory="full")), []
    mapping, parameters = experiment.scheme.bind(sample.problem), experiment.scheme.parameters()
    held = measure_need(mapping, sample.initial, None, parameters).working
    for share in (1.3, 0.8, 0.5):
        hyper = Unrolled(memory="auto", memory_mib=(share * full + held) / 2**20)
        assert saved_by(experiment, sample, hyper) <= share * full
        kept.append(next(iter(hyper._segments.values())))
    assert kept[0] == K > kept[1] > kept[2] >= 1


def saved_by(experiment, sample, hyper):
    hyper.plan(experiment.scheme, sample, K, None)
    with SavedBytes() as saved:
        hyper.objective(experiment.scheme, sample, K)
    return saved.total


def test_weights_may_change_between_steps(posed):
    """What was planned is not bound to weights."""
    experiment, sample = posed("prox", torch.float64)
    experiment = copy.deepcopy(experiment)
    hyper = Unrolled(memory="states")
    before = gradients(experiment, sample, hyper)[0].objective.item()
    with torch.no_grad():
        for p in experiment.omega.parameters():
            p.mul_(1.1)
    full, expected, _ = gradients(experiment, sample, Unrolled(memory="full"))
    after, found, _ = gradients(experiment, sample, hyper)
    assert after.objective.item() == full.objective.item() != before
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)
