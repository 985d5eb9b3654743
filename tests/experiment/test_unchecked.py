"""Outputs that arithmetic would broadcast, and gradients that reach nothing."""

import re

import pytest
import torch
from conftest import plain_config, result
from torch import nn

from bmo_cli.config.locate import choices
from bmo_cli.config.schema import check_config
from bmo_cli.errors import InputError
from bmo_cli.experiment.behaviour import observe_training_mode, require_map
from bmo_cli.experiment.build import Experiment, build
from bmo_cli.gkm.augmented import LADMM
from bmo_cli.gkm.operator import BoundOperator, NumericalOperator
from bmo_cli.gkm.proximal import ProximalGradient, Resolvent
from bmo_cli.gkm.scheme import GKM
from bmo_cli.hyper.aggregation import Unrolled
from bmo_cli.hyper.separate import Separate
from bmo_cli.hyper.truncated import Truncated
from bmo_cli.linear.map import LinearMap
from bmo_cli.nets.dncnn import DnCNN
from bmo_cli.nets.execution import Execution
from bmo_cli.nets.guided import GuidedPotential
from bmo_cli.nets.layers import Layers
from bmo_cli.nets.mode import Behaviour
from bmo_cli.nets.network import Network
from bmo_cli.solver.functions import LeastSquares, SquaredNorm
from bmo_cli.solver.metric import ScaledIdentity
from bmo_cli.solver.problem import Charbonnier, Coupling, Problem, Sample, SquaredError
from bmo_cli.tasks.toy import Toy
from bmo_cli.training.gradient_check import GradientCheck
from bmo_cli.training.hypergradient import HyperGradient
from bmo_cli.training.optimizer import build_optimizer

X = torch.rand(2, 1, 8, 6, generator=torch.Generator().manual_seed(0))


class Identity(LinearMap):
    norm_squared = 1.0

    def __call__(self, u):
        return u

    def adjoint(self, y):
        return y

    def shifted_inverse(self, gamma):
        return lambda v: v / (1 + gamma)


def problem(a=None, y=X):
    guide = lambda: torch.cat([y] * 7, 1)  # noqa: E731
    return Problem(LeastSquares(a or Identity(), y), noise=torch.full((2,), 0.01), guide=guide)


def sample():
    return Sample(problem(), (X,), SquaredError(1 - X), seed=3)


class Returning(Network):
    """Returns what `function` makes of the image and a convolution of it."""

    channels = 1

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.function = function

    def forward(self, x):
        return self.function(self, x, self.conv(x))


SHAPES = {
    "mean": (
        lambda n, x, z: z.mean((1, 2, 3), keepdim=True),
        r"returned shape \(2, 1, 1, 1\) for an",
    ),
    "one image": (lambda n, x, z: z[:1], r"returned shape \(1, 1, 8, 6\)"),
    "no batch": (lambda n, x, z: z[0], r"returned shape \(1, 8, 6\)"),
    "channels": (lambda n, x, z: z.repeat(1, 3, 1, 1), r"returned shape \(2, 3, 8, 6\)"),
    "smaller": (lambda n, x, z: z[..., 1:], r"returned shape \(2, 1, 8, 5\)"),
    "transposed": (lambda n, x, z: z.mT, r"returned shape \(2, 1, 6, 8\)"),
    "number": (lambda n, x, z: 3.0, "returned a float; expected a tensor"),
    "pair": (lambda n, x, z: (z, z), r"returned a tuple; expected a tensor \(2, 1, 8, 6\)"),
    "nothing": (lambda n, x, z: None, "returned a NoneType"),
    "type": (lambda n, x, z: z.double(), "returned torch.float64 on cpu for an image of torch.flo"),
    "half": (lambda n, x, z: z.half(), "returned torch.float16"),
    "whole": (lambda n, x, z: z.long(), "returned torch.int64"),
    "device": (
        lambda n, x, z: z.to("meta"),
        "returned torch.float32 on meta for an image of torch.float32 on cpu",
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_output_of_a_network_is_an_image_as_its_input(name):
    function, message = SHAPES[name]
    net = Returning(function)
    scheme = GKM(operator=Resolvent(), net=net)
    bound = [
        scheme.bind(problem()).D,
        lambda u, k: (scheme.bind_network(net)(u[0]),),
        lambda u, k: Layers(background=DnCNN(), rain=net)(torch.cat([u[0], u[0]], 1)),
    ]
    for apply in bound:
        with pytest.raises(InputError, match=f"Returning {message}") as said:
            apply((X,), 0)
        assert "\n" not in str(said.value) and "expected" in str(said.value)


def test_every_application_is_checked():
    """Also at sizes that were not met before, and in lower precision."""
    net = Returning(lambda n, x, z: z if x.shape[-1] == 6 else z.mean((2, 3), keepdim=True))
    for execution in (Execution(), Execution(torch.bfloat16)):
        network = execution.bind(net)
        assert network(X).dtype == torch.float32
        with pytest.raises(
            InputError, match=r"shape \(2, 1, 1, 1\) for an image of shape \(2, 1, 8"
        ):
            network(torch.rand(2, 1, 8, 7))


def test_a_network_without_a_map():
    class Empty(Network):
        channels = 1

    with pytest.raises(InputError, match="Empty has no `forward`"):
        require_map(GKM(operator=Resolvent(), net=Empty()), problem(), (X,))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite(value):
    net = Returning(lambda n, x, z: z)
    scheme = GKM(operator=Resolvent(), net=net)
    require_map(scheme, problem(), (X,))
    net.conv.weight.data[0, 0, 0, 0] = value
    with pytest.raises(InputError, match="Returning returned values that are not finite for a fin"):
        require_map(scheme, problem(), (X,))
    scheme.bind(problem()).D((X,), 0)  # an iteration that diverges is another matter


def test_layers_without_a_size_are_refused():
    class Lazy(Network):
        channels = 1

        def __init__(self):
            super().__init__()
            self.conv = nn.LazyConv2d(1, 3, padding=1)

    with pytest.raises(InputError, match=r"Lazy has a layer without a size \(conv\.weight\)"):
        GKM(operator=Resolvent(), net=Lazy())


def test_the_image_of_an_operator_is_a_state_as_its_argument():
    class Shrinking(NumericalOperator):
        def bind(self, problem):
            unit = torch.ones(())
            return BoundOperator(self.image, ScaledIdentity(unit))

    mapping = GKM(operator=Shrinking())
    for image in (lambda u, k: (u[0].mean((2, 3), keepdim=True),), lambda u, k: (u[0], u[0])):
        Shrinking.image = staticmethod(image)
        with pytest.raises(InputError, match=r"Shrinking returned blocks of shapes \[\(2, 1, "):
            mapping.bind(problem()).D((X,), 0)


class Averaging(Identity):
    def adjoint(self, y):
        return y.mean((2, 3), keepdim=True)

    def normal(self, u):
        return u


class Summing(Identity):
    def __call__(self, u):
        return u.mean((2, 3), keepdim=True)

    def normal(self, u):
        return u


@pytest.mark.parametrize("a", [Averaging(), Summing()], ids=lambda a: type(a).__name__)
def test_maps_whose_results_would_be_broadcast(a):
    coupled = Problem(coupling=Coupling(a, X, SquaredNorm()))
    for operator, given in ((ProximalGradient(), problem(a)), (LADMM(), coupled)):
        with pytest.raises(InputError, match=f"{type(a).__name__}: A u and A.T y have shapes"):
            require_map(GKM(operator=operator), given, (X,))


def test_losses_compare_equal_shapes():
    for loss in (SquaredError(X[0]), Charbonnier(X[0]), SquaredError(X[..., :1])):
        for compare in (loss.value, loss.grad):
            with pytest.raises(
                InputError, match=r"estimate of shape \(2, 1, 8, 6\) with a target of"
            ):
                compare((X,))


# --- gradients ------------------------------------------------------------------------------------


def looked_at(net, *, hyper=None, operator=None, steps=3, stages=1):
    """Remarks of every step, before an optimiser's."""
    hyper = Unrolled() if hyper is None else hyper
    scheme = GKM(operator=operator or Resolvent(), net=net, stages=stages)
    learned = [p for p in scheme.parameters() if p.requires_grad]
    gradient = HyperGradient(hyper, scheme, learned, iterations=3)
    check = GradientCheck(Experiment(Toy(), scheme, hyper, torch.device("cpu"), ()))
    check._weights.pop("task.x", None)  # the unknown of another task
    optimizer = torch.optim.SGD(learned, lr=1e-3)
    remarks = []
    for step in range(steps):
        gradient(sample(), step=step)
        remarks.append(check())
        optimizer.step()
    return remarks


@pytest.mark.parametrize(
    "function",
    [
        lambda n, x, z: z.detach(),
        lambda n, x, z: torch.from_numpy(z.detach().numpy()),
        lambda n, x, z: z.data,
        lambda n, x, z: 0.9 * x,
    ],
)
@pytest.mark.parametrize("learn", [True, False])
def test_a_network_without_gradients_is_refused(function, learn):
    """Whether or not something else is learned."""
    with pytest.raises(InputError) as said:
        looked_at(Returning(function), operator=Resolvent(learn=learn))
    text = str(said.value)
    assert "Returning" in text and "gradient" in text and "detach" in text and "\n" not in text


class Partly(Network):
    """Of its layers `unused` do not reach the output."""

    channels = 1

    def __init__(self, unused):
        super().__init__()
        self.used = nn.Conv2d(1, 1, 3, padding=1)
        self.unused = nn.ModuleList(nn.Conv2d(1, 1, 3) for _ in range(unused))

    def forward(self, x):
        return x - 0.1 * self.used(x)


def test_weights_without_a_gradient_are_named_once():
    few, *later = looked_at(Partly(1))
    assert later == [[], []]
    assert few == [
        "no gradient reaches 2 of 4 weights, which stay as they are: net.unused.0.weight, "
        "net.unused.0.bias"
    ]
    (many,) = looked_at(Partly(5), steps=1)
    assert many[0].startswith("no gradient reaches 10 of 12 weights")
    assert many[0].endswith("net.unused.1.weight, net.unused.1.bias, ...")


def test_gradients_that_vanish_are_said_after_the_second_step():
    class Dead(Returning):
        def forward(self, x):
            return x - torch.relu(self.conv(x) - 100)

    first, second, third = looked_at(Dead(None))
    assert first == third == []
    assert len(second) == 1 and "gradient of every weight of Dead was exactly zero" in second[0]
    frozen = looked_at(Returning(lambda n, x, z: x - 0 * z))
    assert "exactly zero in the first 2 steps" in frozen[1][0]


class LearnedMatrix(NumericalOperator):
    """A matrix that the step does not use, and a number that it does."""

    def __init__(self, *, use):
        super().__init__()
        self.matrix, self.use = nn.Parameter(torch.eye(3)), use
        self.step, self.unused = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(1.0))

    def bind(self, problem):
        step = self.step * self.matrix[0, 0] if self.use else self.step
        return BoundOperator(lambda u, k: (step * u[0],), ScaledIdentity(torch.ones(())))


def test_learned_matrices_count_and_numbers_do_not():
    assert looked_at(None, operator=LearnedMatrix(use=True))[0] == []
    fitted_alone = looked_at(
        DnCNN(depth=2, width=3), operator=LearnedMatrix(use=False), hyper=Separate(sigma=10.0)
    )
    assert fitted_alone[0] == []
    (remark,) = looked_at(None, operator=LearnedMatrix(use=False))[0]
    assert remark == "no gradient reaches 1 of 1 weights, which stay as they are: operator.matrix"


@pytest.mark.parametrize(
    ("net", "options"),
    [
        (lambda: GuidedPotential(widths=(4, 4, 4)), {}),
        (lambda: DnCNN(depth=2, width=3), {"hyper": Separate()}),
        (lambda: DnCNN(depth=2, width=3), {"hyper": Truncated(last=1), "stages": 3}),
        (lambda: DnCNN(depth=2, width=3), {"stages": 5}),
        (lambda: DnCNN(depth=2, width=3), {"operator": Resolvent(learn=False)}),
        (lambda: None, {"operator": ProximalGradient()}),
    ],
)
def test_what_is_as_it_should_be_is_not_remarked_on(net, options):
    assert looked_at(net(), **options) == [[], [], []]


GROUPS = choices(groups=("net", "hyper", "method"))
OWN_SIZES = {
    "dncnn17": ["net.width=4"],
    "drunet": ["net.widths=[4,4,4,4]", "net.blocks=1"],
    "dictionary_layers": [
        *("task=derain", "gkm=rain_dictionary", "gkm.operator.kernels=4"),
        *("net.background.widths=[4,4,4]", "net.rain.widths=[4,4,4]"),
    ],
    "guided_layers": ["task=derain"],
    "layers": ["task=derain"],
    "separate": ["net=lip"],  # it fits no guided network
    "unet": ["net.widths=[4,4,4]"],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("group", "option"),
    [(group, option) for group, options in GROUPS.items() for option in options],
)
def test_what_is_shipped_is_not_remarked_on(group, option):
    """Every network, hyper-optimiser and method: two steps on the data that come with it."""
    words = [f"{group}={option}", "debug=tiny", "data.crop=24", *OWN_SIZES.get(option, [])]
    if "task=derain" in words:
        words.append("data.channels=3")
    elif group != "method":
        words.append("task.kernel_size=7")
    if option in ("pnp", "dpir"):
        words.append("net.weights=null")
    config = plain_config(*words, "device=cpu")
    experiment = build(check_config(config))
    if not experiment.hyper.trains:
        return
    experiment.task.prepare(["train"])
    optimizer = build_optimizer(config["optim"], [], experiment.omega, 10)
    learned = [p for group in optimizer.param_groups for p in group["params"]]
    gradient = HyperGradient(experiment.hyper, experiment.scheme, learned, iterations=2)
    check = GradientCheck(experiment)
    for step, batch in enumerate(experiment.task.samples(range(2), 2)):
        if step == 0:
            observe_training_mode(experiment.scheme, batch)
            assert experiment.scheme.behaviour == Behaviour()
        gradient(batch, step=step)
        assert check() == []
        optimizer.step()
    assert check._looked == 2


OWN = """
from pathlib import Path

import torch
from torch import nn
from bmo_cli.nets.mode import Behaviour
from bmo_cli.nets.network import Network


class Own(Network):
    def __init__(self, *, channels: int = 1, where: str = "nowhere"):
        super().__init__()
        self.channels, self.where = channels, where
        self.conv, self.idle = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x):
        z = x - 0.1 * self.conv(x)
        if self.where == "detached":
            return z.detach()
        if self.where == "other sizes" and x.shape[-1] != 24:
            return z.mean((2, 3), keepdim=True)
        if self.where == "divided" or Path("broken").exists():
            return z / 0 * 0
        return z
"""


@pytest.fixture
def own(tmp_path, tiny):
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "net").mkdir()
    text = "_target_: own.Own\nchannels: ${data.channels}\nwhere: nowhere\n"
    (tmp_path / "net" / "own.yaml").write_text(text)
    words = [word for word in tiny if not word.startswith("net.")]
    return [*words, "--config-dir", ".", "plugins=[own.py]", "net=own", "eval.images=0"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "message", "begins"),
    [
        ("detached", r"no weight of Own has a gradient \(net\.conv\.weight, net\.conv\.bias", True),
        (
            "other sizes",
            r"Own returned shape \(1, 1, 1, 1\) for an image of shape \(1, 1, 40",
            False,
        ),
        ("divided", "Own returned values that are not finite", False),
    ],
)
def test_runs_end_in_one_line(bmo, own, tmp_path, where, message, begins):
    done = bmo("train", *own, f"net.where={where}", "hydra.run.dir=run")
    assert done.returncode == 2, done.stderr
    assert re.search(message, done.stderr), done.stderr
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "run").exists() == begins
    if begins:
        assert result(tmp_path / "run")["status"] == "failed"
        assert re.search(message, result(tmp_path / "run")["message"])


@pytest.mark.slow
def test_a_run_names_what_it_does_not_train_and_so_does_its_second_session(bmo, own, tmp_path):
    line = (
        "no gradient reaches 2 of 4 weights, which stay as they are: net.idle.weight, net.idle.bi"
    )
    done = bmo("train", *own, "train.steps=2", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(line) == 1
    done = bmo("train", "resume=run", "plugins=[own.py]", "train.steps=4")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(line) == 1
    (flag,) = [flag for flag in result(tmp_path / "run")["flags"] if flag.startswith("no gradient")]
    assert result(tmp_path / "run")["flags"][flag] == 1


@pytest.mark.slow
def test_eval_and_certify_look_at_the_network_before_they_begin(bmo, own, tmp_path):
    done = bmo("train", *own, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    (tmp_path / "broken").touch()
    for command in ("eval", "certify"):
        done = bmo(command, "run=run", "plugins=[own.py]", f"hydra.run.dir={command}")
        assert done.returncode == 2
        assert "Own returned values that are not finite" in done.stderr
        assert not (tmp_path / command).exists()
