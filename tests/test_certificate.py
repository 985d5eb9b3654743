"""Certificates: verdicts on maps whose constants are known, and on trained runs."""

import json
import math
import shutil

import pytest
import torch
from conftest import result, tiny_words
from safetensors.torch import load_file

from bmo_cli.certificate.certify import Settings, Subject, bound_of, certify
from bmo_cli.certificate.findings import fall, stationary
from bmo_cli.certificate.horizon import Trajectory, follow, starts
from bmo_cli.experiment.saved import load_run
from bmo_cli.gkm.augmented import LADMM
from bmo_cli.gkm.proximal import ProximalGradient, Resolvent
from bmo_cli.gkm.scheme import GKM
from bmo_cli.linear.blur import PeriodicBlur, transfer_function
from bmo_cli.nets.dncnn import DnCNN
from bmo_cli.nets.drunet import DRUNet
from bmo_cli.nets.lip import ConvexPotential
from bmo_cli.solver.fixed_point import FixedPointMap
from bmo_cli.solver.functions import L1, Quadratic
from bmo_cli.solver.metric import ScaledIdentity
from bmo_cli.solver.nonexpansive import compare, worst_pair
from bmo_cli.solver.problem import Problem
from bmo_cli.tasks.deconvolution import blur_problem
from bmo_cli.tasks.sparse_coding import SparseCoding

ONE = ScaledIdentity(torch.ones((), dtype=torch.float64))


def linear(matrix, alpha=1.0, metric=ONE, shift=1.0):
    """D(u) = M u + shift on vectors."""
    m = torch.tensor(matrix, dtype=torch.float64)
    return FixedPointMap(lambda u, k: (u[0] @ m.mT + shift,), metric, alpha)


POINT = (torch.tensor([[0.3, -1.0]], dtype=torch.float64),)


def test_worst_pair_is_the_spectral_norm_of_a_linear_map():
    matrix = [[0.4, 0.9], [-0.2, 0.7]]
    pair = worst_pair(linear(matrix), POINT, turns=50)
    expected = torch.linalg.matrix_norm(torch.tensor(matrix, dtype=torch.float64), 2).item()
    assert pair.ratio == pytest.approx(expected, rel=1e-9)
    again = compare(linear(matrix), pair.a, pair.b)
    assert again.ratio == pytest.approx(pair.ratio, rel=1e-12)


@pytest.mark.parametrize("theta", [0.1, 0.5, 0.9])
def test_averaging_constant_of_an_averaged_rotation(theta):
    """(1 - theta) I + theta R with R a rotation is theta-averaged, and no better."""
    c, s = math.cos(2.0), math.sin(2.0)
    matrix = [[1 - theta + theta * c, -theta * s], [theta * s, 1 - theta + theta * c]]
    assert worst_pair(linear(matrix), POINT, turns=3).averaging == pytest.approx(theta, rel=1e-9)


def test_trajectory_of_a_linear_map():
    found = follow(linear([[0.5, 0.0], [0.0, 0.8]]), POINT, 60)
    assert found.behaviour(1e-4) == "converged"
    assert found.rate == pytest.approx(0.8, rel=1e-3)
    assert found.growth <= 1
    assert follow(linear([[1.2, 0.0], [0.0, 0.5]]), POINT, 60).behaviour(1e-4) != "converged"
    assert follow(linear([[3.0, 0.0], [0.0, 0.5]]), POINT, 2000).behaviour(1e-4) == "diverges"
    circle = follow(linear([[0.0, -1.0], [1.0, 0.0]], shift=0), POINT, 61)
    assert circle.behaviour(1e-4) == "does not settle"
    assert follow(linear([[0.99, 0.0], [0.0, 0.5]]), POINT, 60).behaviour(1e-4) == "converging"


def test_growth_sees_an_expansion():
    assert follow(linear([[1.05, 0.0], [0.0, 0.5]]), POINT, 30).growth == pytest.approx(
        1.05, rel=0.05
    )


def lasso(scale=1.0):
    h = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    quadratic = Quadratic(h, torch.tensor([[1.0, -2.0]], dtype=torch.float64))
    quadratic.lipschitz = quadratic.lipschitz * scale
    return Problem(quadratic, L1(0.1))


def subject(problem, **changes):
    settings = {
        "scheme": GKM(operator=ProximalGradient().double(), alpha=0.9),
        "convex": True,
        "iterations": 40,
        "step": None,
        "problems": [(problem, (torch.zeros(1, 2, dtype=torch.float64),))],
        "sample": None,
        "gradients": [1.0, 0.5, 0.1, 0.01],
    }
    return Subject(**{**settings, **changes})


def verdicts(certificate):
    return [finding.verdict for finding in certificate.assumptions]


def test_a_classical_solver_is_certified():
    found = certify(subject(lasso()), Settings())
    assert found.verdict == "certified"
    assert verdicts(found) == ["holds"] * 5 + ["not used"]
    assert [finding.verdict for finding in found.predictions] == ["holds"] * 4
    assert found.bound.value == 1
    assert 0.3 < found.ratio <= 1 + 1e-9


def test_a_certificate_is_refused_when_a_pair_contradicts_the_bound():
    """Steps longer than declared: the operator claims to be nonexpansive and is not."""
    operator = ProximalGradient(gamma=1.9).double()
    scheme = GKM(operator=operator, alpha=0.9)
    found = certify(subject(lasso(scale=0.5), scheme=scheme), Settings())
    assert found.verdict == "refused"
    assert found.assumptions[0].verdict == "violated"
    assert found.ratio > 1.5


def test_a_problem_that_is_not_convex_is_not_certified():
    found = certify(subject(lasso(), convex=False), Settings())
    assert found.verdict == "not certified"
    assert verdicts(found) == [
        "not verifiable",
        "not verifiable",
        "holds",
        "holds",
        "violated",
        "not used",
    ]


def test_several_fixed_points_are_told_from_one():
    h = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))
    problem = Problem(Quadratic(h, torch.zeros(1, 2, dtype=torch.float64)))
    found = certify(subject(problem), Settings())
    assert found.verdict == "certified"
    assert found.predictions[2].verdict == "several"
    assert "several fixed points" in found.predictions[2].meaning


def test_a_scheme_without_fixed_point_is_not_certified():
    """f = 1/2 u_1^2 - u_2 has no minimiser, and the relative residual falls all the same."""
    h = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))
    problem = Problem(Quadratic(h, torch.tensor([[0.0, 1.0]], dtype=torch.float64)))
    found = certify(subject(problem), Settings())
    assert found.verdict == "not certified"
    assert found.assumptions[2].verdict == "not verifiable"


def test_a_minimiser_at_zero_counts_as_converged():
    h = torch.diag(torch.tensor([1.0, 0.5], dtype=torch.float64))
    problem = Problem(Quadratic(h, torch.zeros(1, 2, dtype=torch.float64)))
    scheme = GKM(operator=ProximalGradient(gamma=0.5).double(), alpha=0.9)
    start = (torch.ones(1, 2, dtype=torch.float64),)
    found = certify(subject(problem, scheme=scheme, problems=[(problem, start)]), Settings())
    assert found.predictions[0].verdict == "holds"


class Lost(ConvexPotential):
    """A network that returns nan."""

    def bind(self, guide=None):
        return lambda x: x * float("nan")


def test_a_network_that_is_not_finite_is_refused(rng):
    size = (6, 5)
    blur = PeriodicBlur(transfer_function(torch.ones(1, 3, 3) / 9, size), size)
    y = torch.tensor(rng.random((1, 1, *size)), dtype=torch.float32)
    scheme = GKM(operator=Resolvent(), net=Lost(width=2, size=3))
    problem = blur_problem(y, blur)
    found = certify(subject(problem, scheme=scheme, problems=[(problem, (y,))]), Settings())
    assert found.verdict == "refused"
    assert found.ratio == math.inf


def test_undamped_ladmm_is_not_said_to_be_averaged():
    task = SparseCoding(rows=6, columns=8, form="split", val_count=2)
    case = next(iter(task.cases("val")))
    scheme = GKM(operator=LADMM(), alpha=None)
    found = certify(
        subject(case.problem, scheme=scheme, problems=[(case.problem, case.initial)]), Settings()
    )
    assert found.assumptions[1].verdict == "not used"
    assert "not averaged on all states" in found.assumptions[1].meaning


def test_bounds():
    lip, free = ConvexPotential(width=4, size=3), DnCNN(depth=2, width=3)
    assert bound_of(GKM(operator=Resolvent(), net=lip), True).proves
    unproved = bound_of(GKM(operator=Resolvent(), net=free), True)
    assert unproved.value > 1 and not unproved.proves
    unknown = bound_of(GKM(operator=Resolvent(), net=DRUNet(widths=(2, 2, 2, 2), blocks=1)), True)
    assert unknown.value is None and "DRUNet" in unknown.why
    assert bound_of(GKM(operator=Resolvent(), net=lip, stages=2), True).value is None
    assert bound_of(GKM(operator=Resolvent(), net=lip), False).value is None


def test_fall():
    assert fall([4.0, 3.0, 2.0, 1.0]) == pytest.approx(0.25)
    assert math.isnan(fall([1.0, 2.0]))
    values = [10.0] * 10 + [1.0] * 80 + [0.1] * 10
    assert fall(values) == pytest.approx(0.01)
    assert stationary(values).verdict == "holds"
    assert stationary([1.0] * 20).verdict == "not verifiable"


def test_starts_differ_and_a_zero_start_is_not_repeated():
    assert set(starts((torch.ones(1, 2),))) == {"the task's start", "zero", "noise"}
    assert set(starts((torch.zeros(1, 2),))) == {"the task's start", "noise"}
    assert Trajectory((1.0,), 1.0, 1.0, (), False).behaviour(1.0) == "diverges"


@pytest.fixture(scope="module")
def lip_run(tmp_path_factory):
    from conftest import make_photos, run_bmo

    folder = tmp_path_factory.mktemp("lip")
    words = [word for word in tiny_words(make_photos(folder / "photos")) if "net." not in word]
    done = run_bmo(
        "train", *words, "net=lip", "net.width=4", "net.size=3", "hydra.run.dir=run",
        "certify=true", "certificate.tolerance=1e-3", "eval.curve=[1,4]", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "run"


FAST = ("certificate.turns=5", "certificate.cases=1", "certificate.tolerance=1e-3", "device=cpu")


def test_train_writes_a_certificate(lip_run):
    found = json.loads((lip_run / "certificate.json").read_text())
    assert found["verdict"] == "certified"
    assert found["bound"]["value"] == pytest.approx(1, abs=1e-6)
    assert set(found["ratios"]) == {"random", "data", "adversarial"}
    for name in ("certificate.md", "certificate.png"):
        assert (lip_run / name).stat().st_size > 500
    metrics = result(lip_run)["metrics"]
    assert metrics["certificate/bound"] == pytest.approx(1, abs=1e-6)
    assert 0.3 < metrics["certificate/ratio"] <= 1 + 1e-4
    assert metrics["test/psnr@4"] != metrics["test/psnr@1"]
    pair = load_file(lip_run / "worst_pair.safetensors")
    _, experiment = load_run(lip_run)
    experiment.task.prepare(["val"])
    gaps = []
    for case in experiment.task.cases("val"):
        if pair["a.0"].shape == case.initial[0].shape:
            mapping = experiment.scheme.bind(case.problem)
            gaps.append(compare(mapping, (pair["a.0"],), (pair["b.0"],)).ratio)
    worst = max(found["ratios"].values())
    assert min(abs(gap - worst) for gap in gaps) < 1e-3 * worst


def test_certify_again_and_unconstrained(lip_run, trained, bmo, tmp_path):
    done = bmo("certify", f"run={lip_run}", *FAST, "hydra.run.dir=again")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "again" / "certificate.json").read_text())
    assert found["verdict"] == "certified"
    done = bmo("certify", f"run={trained}", *FAST, "hydra.run.dir=free")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "free" / "certificate.json").read_text())
    assert found["verdict"] == "not certified"
    assert found["assumptions"][1]["verdict"] in ("violated", "not verifiable")


PLUGIN = '''
from bmo_cli.nets.lip import ConvexPotential


class Expanding(ConvexPotential):
    """A network that was made expansive by 1 % by hand, and still claims that it is not."""

    def bind(self, guide=None):
        apply = super().bind(guide)
        return lambda x: 1.01 * apply(x)
'''


def test_a_network_made_expansive_by_one_percent_is_refused(photos, bmo, tmp_path):
    (tmp_path / "expanding.py").write_text(PLUGIN)
    words = [word for word in tiny_words(photos) if "net." not in word]
    done = bmo(
        "train", *words, "net=lip", "net._target_=expanding.Expanding", "net.width=4",
        "net.size=3", "plugins=[expanding.py]", "hydra.run.dir=run", "certify=true",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr  # the training is not undone
    assert result(tmp_path / "run")["certificate"] == "refused"
    assert result(tmp_path / "run")["status"] == "ok"
    done = bmo("certify", "run=run", "plugins=[expanding.py]", *FAST, "hydra.run.dir=refused")
    assert done.returncode == 1
    assert "the certificate is refused" in done.stderr
    assert done.stderr.count("\n") == 1
    found = json.loads((tmp_path / "refused" / "certificate.json").read_text())
    assert found["verdict"] == "refused"
    assert found["network_ratio"] == pytest.approx(1.01, abs=1e-3)
    assert found["assumptions"][0]["verdict"] == "violated"


def test_what_does_not_belong_together_is_refused(lip_run, trained, bmo, tmp_path):
    copy = trained
    (copy / "checkpoints" / "best.safetensors").write_bytes(
        (copy / "checkpoints" / "last.safetensors").read_bytes()
    )
    done = bmo("certify", f"run={copy}", *FAST)
    assert done.returncode == 2
    assert "best.safetensors is not the one" in done.stderr
    other = tmp_path / "photos" / "val"
    done = bmo("certify", f"run={lip_run}", *FAST, "task.noise=5")
    assert done.returncode == 2 and "would change the run" in done.stderr
    from conftest import make_photos

    make_photos(tmp_path / "photos")
    next(other.glob("*1.png")).unlink()
    done = bmo("certify", f"run={lip_run}", *FAST, f"data.val={other}")
    assert done.returncode == 2 and "other data (val)" in done.stderr
    content = result(lip_run)
    del content["identity"]
    shutil.copytree(lip_run, tmp_path / "anonymous")
    (tmp_path / "anonymous" / "result.json").write_text(json.dumps(content))
    done = bmo("certify", "run=anonymous", *FAST)
    assert done.returncode == 2 and "does not say which checkpoint" in done.stderr
    done = bmo("certify", "run=nowhere", *FAST)
    assert done.returncode == 2 and "no run folder" in done.stderr
