"""Networks are in training mode in training steps alone, and these can be repeated and resumed."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import result
from safetensors import safe_open
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from bmo_cli.errors import InputError
from bmo_cli.experiment.behaviour import observe_training_mode, require_map
from bmo_cli.experiment.build import Experiment
from bmo_cli.gkm.proximal import ProximalGradient, Resolvent
from bmo_cli.gkm.scheme import GKM
from bmo_cli.hyper.aggregation import BMO, Unrolled
from bmo_cli.hyper.implicit import Implicit
from bmo_cli.hyper.separate import Separate
from bmo_cli.hyper.truncated import Truncated
from bmo_cli.linear.blur import PeriodicBlur, transfer_function
from bmo_cli.nets.dncnn import DnCNN
from bmo_cli.nets.guided import GuidedPotential
from bmo_cli.nets.mode import (
    Behaviour,
    fixed_seed,
    generator_states,
    preserved_state,
    training_mode,
)
from bmo_cli.nets.network import Network
from bmo_cli.solver.functions import LeastSquares
from bmo_cli.solver.problem import Problem, Sample, SquaredError
from bmo_cli.tasks.toy import Toy
from bmo_cli.training.distributed import SINGLE_PROCESS, ProcessGroup
from bmo_cli.training.hypergradient import HyperGradient
from bmo_cli.training.prepare import _choose_threads

CPU = torch.device("cpu")
SIZE = (12, 10)


def sample(problems=4):
    generator = torch.Generator().manual_seed(0)
    clean, y = (torch.rand(problems, 1, *SIZE, generator=generator) for _ in range(2))
    kernel = torch.rand(1, 3, 3, generator=generator)
    blur = PeriodicBlur(transfer_function(kernel / kernel.sum(), SIZE), SIZE)
    guide = lambda: torch.cat([y] * 7, 1)  # noqa: E731
    problem = Problem(LeastSquares(blur, y), noise=torch.full((problems,), 0.01), guide=guide)
    return Sample(problem, (y,), SquaredError(clean), seed=5)


class Own(Network):
    """x - f(x); `head` is the factor on the last layer's initial weights."""

    channels = 1

    def __init__(self, *layers, head=1.0):
        super().__init__()
        torch.manual_seed(1)
        last = nn.Conv2d(4, 1, 3, padding=1)
        last.weight.data.mul_(head)
        last.bias.data.mul_(head)
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), *layers, nn.ReLU(), last)
        self.modes = []

    def forward(self, x):
        self.modes.append(self.training)
        return x - 0.1 * self.body(x)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def noisy(source):
    class Noisy(nn.Module):
        def forward(self, x):
            return x * (1 + source()) if self.training else x

    return Noisy()


class Batch(nn.Module):
    """Subtracts the mean of the whole batch."""

    def forward(self, x):
        return x - x.mean()


class Counting(nn.Module):
    """A buffer that another tensor takes the place of."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean()
        return x - self.mean


SEEN = {
    "plain": (lambda: [], Behaviour()),
    "dropout": (lambda: [nn.Dropout(0.5)], Behaviour(random=True)),
    "batch norm": (lambda: [nn.BatchNorm2d(4)], Behaviour(remembers=True, mixes=True)),
    "batch norm without averages": (
        lambda: [nn.BatchNorm2d(4, track_running_stats=False)],
        Behaviour(mixes=True),
    ),
    "both": (lambda: [nn.BatchNorm2d(4), nn.Dropout(0.1)], Behaviour(random=True, remembers=True)),
    "instance norm": (lambda: [nn.InstanceNorm2d(4)], Behaviour()),
    "mean of the batch": (lambda: [Batch()], Behaviour(mixes=True)),
    "own buffer": (lambda: [Counting()], Behaviour(remembers=True)),
    "spectral norm": (
        lambda: [spectral_norm(nn.Conv2d(4, 4, 3, padding=1))],
        Behaviour(remembers=True),
    ),
    "Python's generator": (lambda: [noisy(random.random)], Behaviour(random=True)),
    "NumPy's generator": (lambda: [noisy(np.random.rand)], Behaviour(random=True)),
}


@pytest.mark.parametrize("head", [1.0, 0.0])
@pytest.mark.parametrize("name", SEEN)
def test_what_a_network_does_in_training_is_found(name, head):
    """Also where its last layer starts at zero; and nothing changes by it."""
    layers, expected = SEEN[name]
    scheme = GKM(operator=Resolvent(), net=Own(*layers(), head=head))
    before = {k: v.clone() for k, v in scheme.state_dict().items()}
    states = generator_states(CPU)
    observe_training_mode(scheme, sample())
    assert scheme.behaviour == expected
    assert generator_states(CPU) == states
    assert all(torch.equal(v, before[k]) for k, v in scheme.state_dict().items())
    assert not any(part.training for part in scheme.modules())
    assert scheme.behaviour.divisible == (expected == Behaviour())
    assert scheme.behaviour.repeatable == (not expected.random and not expected.remembers)


def test_shipped_networks_and_single_problems_show_nothing():
    for net in (None, DnCNN(depth=2, width=3), GuidedPotential(widths=(4, 4, 4))):
        scheme = GKM(operator=Resolvent(), net=net)
        observe_training_mode(scheme, sample())
        assert scheme.behaviour == Behaviour()
    scheme = GKM(operator=Resolvent(), net=Own(Batch()))
    observe_training_mode(scheme, sample(1))
    assert scheme.behaviour == Behaviour()


class Unsaved(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()), persistent=False)

    def forward(self, x):
        if self.training:
            self.mean.add_(x.detach().mean())
        return x - self.mean


class Hidden(nn.Module):
    """An average that is a plain attribute."""

    mean = 0.0

    def forward(self, x):
        if self.training:
            self.mean = self.mean + float(x.detach().mean())
        return x - self.mean


class Late(nn.Module):
    """A buffer that only a training pass makes."""

    def forward(self, x):
        if self.training:
            self.register_buffer("mean", x.detach().mean())
        return x


class Drawing(nn.Module):
    """A generator of its own, which it leaves where it was."""

    generator = torch.Generator()

    def forward(self, x):
        return x + torch.randn(x.shape, generator=self.generator)


class Calls(nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            lambda: Function(lambda x: F.dropout(x, 0.5)),
            r"Own is no map in evaluation mode.*F\.drop",
        ),
        (Drawing, "Own is no map in evaluation mode: called again with the same image"),
        (Calls, "Own is no map in evaluation mode"),
        (
            Unsaved,
            r"in training Resolvent with Own changes stages\.0\.net\.body\.1\.mean, which c",
        ),
        (Hidden, "Own keeps something of training passes that is no parameter and no buffer"),
        (
            Late,
            r"in training Resolvent with Own changes stages\.0\.net\.body\.1\.mean, which c",
        ),
    ],
)
def test_what_is_no_map_is_refused(layer, message):
    scheme = GKM(operator=Resolvent(), net=Own(layer()))
    with pytest.raises(InputError, match=message):
        observe_training_mode(scheme, sample())


def test_what_is_no_map_is_refused_behind_a_layer_of_zeros():
    scheme = GKM(operator=Resolvent(), net=Own(Function(lambda x: F.dropout(x, 0.5)), head=0.0))
    with pytest.raises(InputError, match="Own is no map in evaluation mode"):
        require_map(scheme, sample().problem, sample().initial)


def test_random_numbers_without_an_effect_on_the_map_are_ignored():
    """A norm that is estimated from a random start when the problem is bound."""

    class Estimated(PeriodicBlur):
        @property
        def norm_squared(self):
            torch.randn(3)
            return 1.0

    given = sample()
    blur = given.problem.f.a
    problem = Problem(LeastSquares(Estimated(blur.transfer, SIZE), given.problem.f.y))
    scheme = GKM(operator=ProximalGradient(), net=Own())
    observe_training_mode(scheme, Sample(problem, given.initial, given.loss))
    assert scheme.behaviour == Behaviour()


def test_generators_are_seeded_and_put_back():
    states = generator_states(CPU)
    draws = []
    for seed in ([3, 1], [3, 1], [3, 2], [4, 1]):
        with fixed_seed(seed, CPU):
            draws.append((torch.rand(1).item(), np.random.rand(), random.random()))
        assert generator_states(CPU) == states
    assert draws[0] == draws[1]
    for i in range(3):  # every generator depends on every part of the seed
        assert len({draw[i] for draw in draws}) == 3
    assert len(set(draws[0])) == 3
    with pytest.raises(ZeroDivisionError), fixed_seed([0], CPU):
        torch.rand(1)
        raise ZeroDivisionError
    assert generator_states(CPU) == states
    torch.rand(1)
    assert generator_states(CPU) != states


def test_a_rehearsal_leaves_no_trace():
    net = Own(nn.BatchNorm2d(4), Counting(), nn.Dropout(0.5))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    buffers = dict(net.named_buffers())
    states = generator_states(CPU)
    with preserved_state(net, CPU), training_mode(net):
        net(torch.rand(2, 1, 5, 5)).sum().backward()
        with torch.no_grad():
            net.body[0].weight.add_(1)
        assert not torch.equal(net.body[1].running_mean, before["body.1.running_mean"])
        assert generator_states(CPU) != states
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(buffer is buffers[name] for name, buffer in net.named_buffers())
    assert generator_states(CPU) == states and not net.training


@pytest.mark.parametrize(
    "hyper", [Unrolled(), BMO(), Truncated(last=2), Implicit(), Separate()], ids=lambda h: type(h)
)
def test_training_mode_is_that_of_training_steps(hyper):
    net = Own(nn.BatchNorm2d(4))
    scheme = GKM(operator=Resolvent(), net=net)
    gradient = HyperGradient(hyper, scheme, list(scheme.parameters()), iterations=3)
    observe_training_mode(scheme, sample())
    mean = net.body[1].running_mean.clone()
    gradient.prepare(sample(), None)
    assert torch.equal(net.body[1].running_mean, mean)
    net.modes.clear()
    gradient(sample())
    assert net.modes and all(net.modes) and not net.training
    assert not torch.equal(net.body[1].running_mean, mean)


def test_training_mode_ends_with_an_error():
    class Failing(Unrolled):
        def objective(self, scheme, sample, iterations):
            assert scheme.net.training
            raise ZeroDivisionError

    scheme = GKM(operator=Resolvent(), net=Own())
    with pytest.raises(ZeroDivisionError):
        HyperGradient(Failing(), scheme, list(scheme.parameters()), iterations=2)(sample())
    assert not scheme.net.training


def test_steps_have_random_numbers_of_their_own():
    """Those of (seed, step), whatever was drawn before."""
    scheme = GKM(operator=Resolvent(), net=Own(nn.Dropout(0.5)))

    def gradients(seed, step):
        torch.rand(3)
        gradient = HyperGradient(
            Unrolled(), scheme, list(scheme.parameters()), iterations=2, seed=seed
        )
        outcome = gradient(sample(), step=step)
        return outcome.objective.item(), scheme.net.body[0].weight.grad.clone()

    first, again = gradients((0, 0), 3), gradients((0, 0), 3)
    assert first[0] == again[0] and torch.equal(first[1], again[1])
    values = {gradients(*key)[0] for key in (((0, 0), 3), ((0, 0), 4), ((1, 0), 3), ((0, 1), 3))}
    assert len(values) == 4


# --- iterations that are repeated -----------------------------------------------------------------


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm2d(4)], ids=str)
def test_iterations_are_not_repeated_where_they_would_be_others(layer):
    scheme = GKM(operator=Resolvent(), net=Own(layer))
    observe_training_mode(scheme, sample())
    for memory in ("states", "segments"):
        with pytest.raises(
            InputError, match=rf"in training Resolvent with Own .*hyper\.memory={memory} would do"
        ):
            Unrolled(memory=memory).plan(scheme, sample(), 9, None)
        Unrolled(memory=memory).plan(scheme, sample(), 1, None)  # there is nothing to repeat
    tight = Unrolled(memory_mib=0.3)
    with pytest.raises(InputError, match=r"hyper\.memory=full, which takes about"):
        tight.plan(scheme, sample(), 60, None)
    plain = GKM(operator=Resolvent(), net=Own())
    observe_training_mode(plain, sample())
    tight.plan(plain, sample(), 60, None)
    for memory in ("full", "auto"):
        hyper = Unrolled(memory=memory)
        hyper.plan(scheme, sample(), 9, None)
        assert set(hyper._segments.values()) == {9}
        assert not hyper.reduce_memory()


def test_the_gradient_through_batch_norm_is_that_of_finite_differences():
    """Batch statistics couple the problems; every iteration is differentiated as it was run."""
    scheme = GKM(operator=Resolvent(gamma=2.0), net=Own(nn.BatchNorm2d(4))).double()
    given = sample()
    blur = given.problem.f.a
    y = given.problem.f.y.double()
    problem = Problem(LeastSquares(PeriodicBlur(blur.transfer.to(torch.complex128), SIZE), y))
    given = Sample(problem, (y,), SquaredError(given.loss.target.double()))
    observe_training_mode(scheme, given)
    weight = scheme.net.body[0].weight
    gradient = HyperGradient(Unrolled(), scheme, list(scheme.parameters()), iterations=3)

    def value():
        with preserved_state(scheme, CPU):
            return gradient(given).objective.item()

    gradient(given)
    exact = weight.grad.clone()
    for index in ((0, 0, 1, 1), (3, 0, 0, 2)):
        kept, ends = weight.data[index].item(), []
        for sign in (1, -1):
            weight.data[index] = kept + sign * 1e-6
            ends.append(value())
        weight.data[index] = kept
        assert exact[index].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-12)


def test_implicit_differentiation_needs_one_map():
    scheme = GKM(operator=Resolvent(), net=Own(nn.Dropout(0.5)))
    observe_training_mode(scheme, sample())
    gradient = HyperGradient(Implicit(), scheme, list(scheme.parameters()), iterations=3)
    with pytest.raises(
        InputError, match="but in training Resolvent with Own draws random numbers; use hyper=unr"
    ):
        gradient.prepare(sample(), None)


# --- whole runs -----------------------------------------------------------------------------------

OWN = """
from torch import nn
from bmo_cli.nets.network import Network


class Own(Network):
    def __init__(self, *, channels: int = 1):
        super().__init__()
        self.channels = channels
        self.m = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5),
            nn.Conv2d(8, channels, 3, padding=1),
        )

    def forward(self, x):
        with open("modes", "a") as stream:
            stream.write(f"{self.m.training}\\n")
        return x - 0.05 * self.m(x)
"""


@pytest.fixture
def own(tmp_path, tiny):
    """Overrides of a run with dropout and batch norm."""
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "own.yaml").write_text("_target_: own.Own\nchannels: ${data.channels}\n")
    words = [word for word in tiny if not word.startswith("net.")]
    constant = ["train.schedule=constant", "train.validate_every=2", "eval.images=0"]
    return [*words, "--config-dir", ".", "plugins=[own.py]", "net=own", *constant]


def tensors(file):
    with safe_open(file, framework="pt") as archive:
        return {key: archive.get_tensor(key) for key in archive.keys()}  # noqa: SIM118


@pytest.mark.slow
def test_scores_of_a_checkpoint_do_not_depend_on_the_seed(bmo, own, tmp_path, photos):
    done = bmo("train", *own, "train.steps=3", "hydra.run.dir=run", "certify=true")
    assert done.returncode == 0, done.stderr
    assert result(tmp_path / "run")["status"] == "ok"
    (tmp_path / "modes").unlink()
    mine = ["run=run", "plugins=[own.py]"]
    for name, more in {"same": (), "other": ("seed=7",)}.items():
        done = bmo("eval", *mine, *more, "eval.images=0", f"hydra.run.dir={name}")
        assert done.returncode == 0, done.stderr
    np.save(tmp_path / "k.npy", np.ones((3, 3)))
    picture = f"input={photos / 'test' / 'test0.png'}"
    assert bmo("restore", *mine, picture, "kernel=k.npy", "output=o.png").returncode == 0
    assert bmo("certify", *mine, "hydra.run.dir=c", "certificate.cases=1").returncode == 0
    assert set((tmp_path / "modes").read_text().split()) == {"False"}
    scores = [result(tmp_path / name)["images"] for name in ("run", "same", "other")]
    for name in scores[0]:
        assert len({images[name]["psnr"] for images in scores}) == 1
        assert len({images[name]["residual"] for images in scores}) == 1


@pytest.mark.slow
def test_a_resumed_run_has_the_random_numbers_of_the_uninterrupted_one(bmo, own, tmp_path):
    """Weights, running averages, optimiser's state and history, time aside."""
    assert bmo("train", *own, "train.steps=6", "hydra.run.dir=whole").returncode == 0
    assert bmo("train", *own, "train.steps=2", "hydra.run.dir=parts").returncode == 0
    resumed = ["resume=parts", "plugins=[own.py]"]
    for steps in (4, 6):
        done = bmo("train", *resumed, f"train.steps={steps}")
        assert done.returncode == 0, done.stderr
    whole, parts = (
        tensors(tmp_path / name / "checkpoints" / "last.safetensors") for name in ("whole", "parts")
    )
    assert any("running_mean" in name for name in whole)
    assert whole.keys() == parts.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name
    rows = [
        [
            [v for k, v in zip(head.split(","), row.split(","), strict=True) if k != "seconds"]
            for row in lines
        ]
        for name in ("whole", "parts")
        for head, *lines in [(tmp_path / name / "history.csv").read_text().split()]
    ]
    assert rows[0] == rows[1] and len(rows[0]) >= 3
    assert result(tmp_path / "whole")["metrics"]["test/psnr"] == pytest.approx(
        result(tmp_path / "parts")["metrics"]["test/psnr"], abs=0
    )


@pytest.mark.parametrize("layer", [None, nn.Dropout(0.5), nn.BatchNorm2d(4), Batch()], ids=str)
@pytest.mark.parametrize("count", [1, 2])
def test_batches_are_divided_only_where_that_changes_nothing(caplog, layer, count):
    net = Own(*([] if layer is None else [layer]))
    scheme = GKM(operator=Resolvent(), net=net)
    experiment = Experiment(Toy(), scheme, Unrolled(), CPU, ())
    torch.set_num_threads(count)
    try:
        with caplog.at_level("INFO", "bmo"):
            threads = _choose_threads(experiment, sample(), SINGLE_PROCESS)
    finally:
        torch.set_num_threads(1)
    assert threads.count == (count if layer is None else 1)
    said = [record.getMessage() for record in caplog.records]
    if layer is None or count == 1:
        assert said == []
    else:
        what = f"in training Resolvent with Own {scheme.behaviour}"
        assert said == [f"{what}: batches are not divided among threads"]


def test_batches_of_several_devices_say_that_they_are_parts(caplog):
    class Two(ProcessGroup):
        count = 2

    scheme = GKM(operator=Resolvent(), net=Own(nn.BatchNorm2d(4)))
    with caplog.at_level("INFO", "bmo"):
        _choose_threads(Experiment(Toy(), scheme, Unrolled(), CPU, ()), sample(), Two())
    assert "every device does so on its part of a batch" in caplog.text
