"""Certificates: verdicts on maps whose constants are known, and on trained runs."""

import json
import math
import shutil

import pytest
import torch
import yaml
from conftest import SEARCH, make_photos, plain_config, result, run_bmo, tiny_words
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bmo_cli.config.schema import Certify, check_config
from bmo_cli.config.snapshot import apply_changes, read_snapshot
from bmo_cli.errors import Interrupted
from bmo_cli.experiment.certificate_page import explain_verdict, format_line
from bmo_cli.experiment.checkpoint import _digest
from bmo_cli.experiment.load import load_run
from bmo_cli.gkm.augmented import ALM, LADMM, PDHG
from bmo_cli.gkm.proximal import ProximalGradient, Resolvent
from bmo_cli.gkm.scheme import GKM
from bmo_cli.hyper.aggregation import BMO
from bmo_cli.linear.blur import PeriodicBlur, transfer_function
from bmo_cli.nets.convex_potential import ConvexPotential
from bmo_cli.nets.dncnn import DnCNN
from bmo_cli.nets.drunet import DRUNet
from bmo_cli.results.run import Run, RunSpec
from bmo_cli.solver.fixed_point import FixedPointMap
from bmo_cli.solver.functions import L1, Quadratic
from bmo_cli.solver.metric import ScaledIdentity
from bmo_cli.solver.nonexpansive import compare, worst_pair
from bmo_cli.solver.problem import LogSquaredError, Problem, Sample, SquaredError
from bmo_cli.tasks.deconvolution import blur_problem
from bmo_cli.tasks.sparse_coding import SparseCoding
from bmo_cli.training import run as training
from bmo_cli.verification.bound import bound_of
from bmo_cli.verification.certificate import certify
from bmo_cli.verification.examination import Subject
from bmo_cli.verification.predictions import assess_stationarity, assess_uniqueness, gradient_decay
from bmo_cli.verification.trajectory import TASK_START, Motion, Trajectory, follow, starts

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


def test_a_line_says_why_nothing_is_certified():
    line = format_line(certify(subject(lasso()), Certify(turns=1)))
    assert line.startswith("certificate: NOT CERTIFIED; ")
    assert line.endswith(
        "; the search is as hard as the default one: violated "
        "(certificate.turns=1 (20): a weak search finds little)"
    )
    assert format_line(certify(subject(lasso()), Certify())).endswith(" iterations")


def verdicts(certificate):
    """Of the theory's assumptions: nonexpansive, averaged, solvable, positive, convex, step."""
    return [finding.verdict for finding in certificate.assumptions[:6]]


def finding(certificate, name):
    """The finding whose name contains `name`."""
    found = [f for f in certificate.assumptions if name in f.name]
    assert len(found) == 1
    return found[0]


def test_a_classical_solver_is_certified():
    found = certify(subject(lasso()), Certify())
    assert found.verdict == "certified"
    assert verdicts(found) == ["holds"] * 5 + ["not used"]
    assert [finding.verdict for finding in found.predictions] == ["holds"] * 4
    assert found.bound.value == 1
    assert 0.3 < found.ratio <= 1 + 1e-9
    evidence = [f.evidence for f in found.assumptions[:6]]
    assert evidence == ["proved", "proved", "measured", "proved", "proved", None]
    assert found.measurements == 0  # nothing is declared


@pytest.mark.parametrize(
    ("loss", "expected"), [(SquaredError, "holds"), (LogSquaredError, "not verifiable")]
)
def test_aggregation_with_a_loss_that_is_not_convex_is_not_certified(loss, expected):
    problem = lasso()
    zero = torch.zeros(1, 2, dtype=torch.float64)
    sample = Sample(problem, (zero,), loss(zero + 1))
    certificate = certify(subject(problem, step=0.9, sample=sample, hyper=BMO()), Certify())
    assert finding(certificate, "lambda_min(G) / L_l").verdict == expected
    assert (certificate.verdict == "certified") == (expected == "holds")


def test_a_certificate_is_refused_when_a_pair_contradicts_the_bound():
    """Steps longer than declared: the operator claims to be nonexpansive and is not."""
    operator = ProximalGradient(gamma=1.9).double()
    scheme = GKM(operator=operator, alpha=0.9)
    found = certify(subject(lasso(scale=0.5), scheme=scheme), Certify())
    assert found.verdict == "refused"
    assert found.assumptions[0].verdict == "violated"
    assert found.ratio > 1.5
    stated = finding(found, "declared agrees")
    assert stated.verdict == "violated" and "Quadratic: L_f" in stated.meaning


def test_a_problem_that_is_not_convex_is_not_certified():
    found = certify(subject(lasso(), convex=False), Certify())
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
    found = certify(subject(problem), Certify())
    assert found.verdict == "certified"
    assert found.predictions[2].verdict == "several"
    assert "several fixed points" in found.predictions[2].meaning


def test_a_scheme_without_fixed_point_is_not_certified():
    """f = 1/2 u_1^2 - u_2 has no minimiser, and the relative residual falls all the same."""
    h = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))
    problem = Problem(Quadratic(h, torch.tensor([[0.0, 1.0]], dtype=torch.float64)))
    found = certify(subject(problem), Certify())
    assert found.verdict == "not certified"
    assert found.assumptions[2].verdict == "not verifiable"
    assert "none found" in found.assumptions[2].meaning
    # D moves u_2 by gamma = 1 for ever, and G = I.
    assert found.assumptions[2].number == pytest.approx(1, rel=1e-6)
    assert found.predictions[0].verdict == "not verifiable"
    assert "moves on" in found.predictions[0].meaning


def test_a_far_solution_is_not_said_to_be_none():
    """prox_{|.|} moves u_1 by 1 an iteration, from 1e5 to 0: equal steps, and a solution."""
    h = torch.diag(torch.tensor([0.0, 1.0], dtype=torch.float64))
    problem = Problem(Quadratic(h, torch.zeros(1, 2, dtype=torch.float64)), L1(1.0))
    far = (torch.tensor([[1e5, 0.0]], dtype=torch.float64),)
    found = certify(subject(problem, problems=[(problem, far)]), Certify())
    assert "none found" in finding(found, "has a fixed point").meaning
    assert found.verdict == "not certified"
    assert "violated" not in {f.verdict for f in (*found.assumptions, *found.predictions)}


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_rounding_is_no_growth(size):
    """A slow contraction far from 0 in float32: its last steps are a few roundings of u."""
    shift = torch.tensor([[size, 0.0]])
    one = ScaledIdentity(torch.ones(()))
    mapping = FixedPointMap(lambda u, k: (0.995 * (u[0] - shift) + shift,), one, 0.9)
    trajectory = follow(mapping, (torch.tensor([[0.9 * size, 0.1 * size]]),), 4000)
    assert trajectory.growth <= 1


@pytest.mark.parametrize("shift", [1e-3, 1e-2, 1.0])
@pytest.mark.parametrize("start", [0.0, 1.0, 1e3])
def test_no_fixed_point_is_seen_behind_a_decaying_transient(shift, start):
    """u_1 contracts slowly from far away, while u_2 moves by a constant for ever."""
    matrix = [[0.97, 0.0], [0.0, 1.0]]
    m = torch.tensor(matrix, dtype=torch.float64)
    moved = torch.tensor([0.0, shift], dtype=torch.float64)
    mapping = FixedPointMap(lambda u, k: (u[0] @ m.mT + moved,), ONE, 0.9)
    begin = (torch.tensor([[start, 0.0]], dtype=torch.float64),)
    trajectory = follow(mapping, begin, 200, search=3800, tolerance=1e-5)
    assert not trajectory.has_stopped(1e-5)
    assert trajectory.behaviour(1e-5) == "moves on"
    assert trajectory.motion.displacement == pytest.approx(shift, rel=1e-3)
    assert min(trajectory.residuals) < 1e-2  # the relative residual falls all the same


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.5, 0.9, 0.99, 0.997])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_slow_and_fast_contractions_stop(rate, size):
    mapping = linear([[rate, 0.0], [0.0, -rate]], alpha=0.9, shift=size)
    for dtype in (torch.float64, torch.float32):
        start = (torch.zeros(1, 2, dtype=dtype),)
        single = FixedPointMap(
            lambda u, k: tuple(x.to(u[0]) for x in mapping.D((u[0].double(),), k)),
            ScaledIdentity(torch.ones((), dtype=dtype)),
            0.9,
        )
        trajectory = follow(single, start, 400, search=7600, tolerance=1e-5)
        assert trajectory.has_stopped(1e-5), (rate, size, dtype)


@pytest.mark.slow
def test_steps_that_fall_like_a_power_stop():
    """Gradient steps on |u|^4 go in one direction, and fall like k^{-3/2}."""
    mapping = FixedPointMap(lambda u, k: (u[0] - 0.1 * u[0] ** 3,), ONE, 0.9)
    start = (torch.ones(1, 1, dtype=torch.float64),)
    trajectory = follow(mapping, start, 100, search=20000, tolerance=1e-5)
    assert trajectory.has_stopped(1e-5)
    assert trajectory.motion.alignment > 0.999 and trajectory.motion.fall < 0.75


def test_a_rotation_neither_stops_nor_moves_on():
    c, s = math.cos(0.3), math.sin(0.3)
    trajectory = follow(linear([[c, -s], [s, c]], shift=0.0), POINT, 400)
    assert trajectory.behaviour(1e-5) == "does not settle"


def inconsistent(form):
    """A x = y for a tall A and a y outside of its range."""
    task = SparseCoding(rows=24, columns=12, form=form, snr=10.0, val_count=1)
    case = next(iter(task.cases("val")))
    return case.problem, case.initial


@pytest.mark.slow
@pytest.mark.parametrize("kind", [ALM, LADMM, PDHG])
def test_an_inconsistent_constraint_is_not_certified(kind):
    problem, initial = inconsistent("exact")
    scheme = GKM(operator=kind(), alpha=0.9)
    found = certify(
        subject(problem, scheme=scheme, problems=[(problem, initial)]), Certify(horizon=25)
    )
    assert found.verdict == "not certified"
    assert "none found" in finding(found, "has a fixed point").meaning
    assert found.trajectories[TASK_START].residuals[-1] < 1e-2  # relative to |u|, which grows


def slow(**changes):
    """Contracts by 0.95 an iteration or so, and is trained with K = 2."""
    h = torch.diag(torch.tensor([1.0, 0.05], dtype=torch.float64))
    problem = Problem(Quadratic(h, torch.tensor([[1.0, 1.0]], dtype=torch.float64)))
    return certify(subject(problem, iterations=2, **changes), Certify(horizon=10))


def test_what_was_found_beyond_the_horizon_is_what_the_page_says():
    found = slow()
    assert found.verdict == "certified"
    solvable, residual, unique = found.assumptions[2], found.predictions[0], found.predictions[2]
    assert [finding.verdict for finding in (solvable, residual, unique)] == ["holds"] * 3
    needed = {name: t.iterations_to(1e-5) for name, t in found.trajectories.items()}
    assert all(20 < count < 400 for count in needed.values())
    assert f"within {len(found.trajectories[TASK_START].residuals)} iterations" in solvable.meaning
    assert f"after {max(needed.values())} iterations" in residual.meaning
    for name, count in needed.items():  # the residual before was above the tolerance
        assert found.trajectories[name].residuals[count] <= 1e-5
        assert found.trajectories[name].residuals[count - 1] > 1e-5


def test_without_a_proof_nothing_is_searched_and_the_setting_is_named():
    found = slow(convex=False)
    assert found.verdict == "not certified"
    assert {len(t.residuals) for t in found.trajectories.values()} == {20}
    for finding in (found.assumptions[2], found.predictions[0], found.predictions[2]):
        assert finding.verdict == "not verifiable"
        assert "larger certificate.horizon" in finding.meaning


def test_ends_that_creep_are_not_taken_for_several_fixed_points():
    creeping = Trajectory(
        tuple(0.02 * 0.999**k for k in range(8000)), Motion(1e-6, 1.0), 1.0, (), True
    )
    trajectories = {TASK_START: creeping, "noise": creeping}
    assert creeping.behaviour(1e-5) == "converged"
    assert assess_uniqueness(trajectories, 1e-5, 5e-3).verdict == "holds"
    assert assess_uniqueness(trajectories, 1e-5, 1.2e-2).verdict == "not verifiable"
    assert assess_uniqueness(trajectories, 1e-5, 5e-2).verdict == "several"


def test_a_minimiser_at_zero_counts_as_converged():
    h = torch.diag(torch.tensor([1.0, 0.5], dtype=torch.float64))
    problem = Problem(Quadratic(h, torch.zeros(1, 2, dtype=torch.float64)))
    scheme = GKM(operator=ProximalGradient(gamma=0.5).double(), alpha=0.9)
    start = (torch.ones(1, 2, dtype=torch.float64),)
    found = certify(subject(problem, scheme=scheme, problems=[(problem, start)]), Certify())
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
    found = certify(subject(problem, scheme=scheme, problems=[(problem, (y,))]), Certify())
    assert found.verdict == "refused"
    assert found.ratio == math.inf
    assert found.bound.declared_by == ("Lost",)


@pytest.mark.slow
def test_undamped_ladmm_is_not_said_to_be_averaged():
    task = SparseCoding(rows=6, columns=8, form="split", val_count=2)
    case = next(iter(task.cases("val")))
    scheme = GKM(operator=LADMM(), alpha=None)
    found = certify(
        subject(case.problem, scheme=scheme, problems=[(case.problem, case.initial)]), Certify()
    )
    assert found.assumptions[1].verdict == "not used"
    assert "not averaged on all states" in found.assumptions[1].meaning
    assert found.verdict == "certified"
    assert "and T is not averaged on all states, but LADMM converges undamped" in explain_verdict(
        found
    )


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
    assert gradient_decay([4.0, 3.0, 2.0, 1.0]) == pytest.approx(0.25)
    assert math.isnan(gradient_decay([1.0, 2.0]))
    values = [10.0] * 10 + [1.0] * 80 + [0.1] * 10
    assert gradient_decay(values) == pytest.approx(0.01)
    assert assess_stationarity(values).verdict == "holds"
    assert assess_stationarity([1.0] * 20).verdict == "not verifiable"


def test_starts_differ_and_a_zero_start_is_not_repeated():
    assert set(starts((torch.ones(1, 2),))) == {"the task's start", "zero", "noise"}
    assert set(starts((torch.zeros(1, 2),))) == {"the task's start", "noise"}
    assert Trajectory((1.0,), Motion(1.0, 1.0), 1.0, (), False).behaviour(1.0) == "diverges"


@pytest.fixture(scope="module")
def lip_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lip")
    words = [word for word in tiny_words(make_photos(folder / "photos")) if "net." not in word]
    done = run_bmo(
        "train", *words, "net=lip", "net.width=4", "net.size=3", "hydra.run.dir=run",
        "certify=true", "certificate.horizon=40", "gkm.operator.gamma=2", "eval.score_at=[1,4]",
        *SEARCH, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "run"


LONG = ("certificate.horizon=40", "device=cpu")


def test_train_writes_a_certificate(lip_run):
    found = json.loads((lip_run / "certificate.json").read_text())
    assert found["verdict"] == "certified"
    assert found["bound"]["value"] == pytest.approx(1, abs=1e-6)
    assert set(found["ratios"]) == {"random", "data", "adversarial"}
    for name in ("certificate.md", "certificate.png"):
        assert (lip_run / name).stat().st_size > 500
    page = (lip_run / "certificate.md").read_text()
    assert "from every start, iterating T leads to a fixed point" in page
    assert "averaging: the least theta" in page and "up to 20 times as long" in page
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


def flagged(checkpoint):
    """A checkpoint of a training that remarked something."""
    with safe_open(checkpoint, "pt") as archive:
        tensors = {key: archive.get_tensor(key) for key in archive.keys()}  # noqa: SIM118
        meta = archive.metadata()
    meta["progress"] = json.dumps(json.loads(meta["progress"]) | {"flags": {"of training": 1}})
    del meta["digest"]
    save_file(tensors, checkpoint, {**meta, "digest": _digest(tensors, meta)})


@pytest.mark.slow
def test_a_certificate_that_is_missing_is_made(lip_run, bmo, tmp_path, monkeypatch):
    """It was stopped during certification: resuming it does what is left, and that alone."""
    run = tmp_path / "run"
    shutil.copytree(lip_run, run)
    whole, recorded = result(run), read_snapshot(run) | {"resume": str(run)}
    config = check_config(recorded)
    assert config.certify is True  # what was typed once holds for the resumed run

    def stopped(*_, **__):
        raise KeyboardInterrupt

    def without():
        for file in run.glob("certificate.*"):
            file.unlink()
        metrics = {key: v for key, v in whole["metrics"].items() if "certificate" not in key}
        kept = {key: value for key, value in whole.items() if key != "certificate"}
        (run / "result.json").write_text(json.dumps(kept | {"metrics": metrics, "flags": {}}))

    flagged(run / "checkpoints" / "last.safetensors")
    without()
    monkeypatch.setattr(training, "write_certificate", stopped)
    with pytest.raises(Interrupted, match=r"the certificate with 'bmo train resume=") as raised:
        training.train(Run(RunSpec(config, {}, run)))
    assert raised.value.exit_code == 130
    assert (result(run)["status"], "certificate" in result(run)) == ("ok", False)
    without()
    weights = (run / "checkpoints" / "best.safetensors").read_bytes()
    done = bmo("train", "resume=run")
    assert done.returncode == 0, done.stderr
    found = result(run)
    assert found["certificate"] == whole["certificate"] == "certified"
    far = [flag for flag in found["flags"] if "end far from the fixed point" in flag]
    assert found["flags"] == {"of training": 1, **dict.fromkeys(far, 1)} and len(far) == 1
    assert json.loads((run / "certificate.json").read_text())["search"]["horizon"] == 40
    changing = ("test/seconds",)
    assert {k: v for k, v in found["metrics"].items() if k not in changing} == pytest.approx(
        {k: v for k, v in whole["metrics"].items() if k not in changing}
    )
    assert (run / "checkpoints" / "best.safetensors").read_bytes() == weights
    done = bmo("train", "resume=run")
    assert done.returncode == 2
    assert "nothing left to do" in done.stderr and "'bmo certify run=" in done.stderr


@pytest.mark.slow
def test_a_run_made_before_there_were_certificates_goes_on(trained):
    file = trained / ".hydra" / "config.yaml"
    old = yaml.safe_load(file.read_text())
    assert old.pop("certify") is False
    old["train"]["steps"], own = 7, old.pop("certificate")
    file.write_text(yaml.safe_dump(old))
    today = OmegaConf.create(plain_config())
    for typed in ([], ["certify=true"]):
        today.certify = bool(typed)
        merged = apply_changes(trained, today, typed)
        assert (merged.train.steps, merged.certify) == (7, bool(typed))
        assert merged.certificate.turns == 20  # today's, the run has none
    file.write_text(yaml.safe_dump(old | {"certify": True, "certificate": {**own, "turns": 3}}))
    merged = apply_changes(trained, OmegaConf.create(plain_config()), [])
    assert (merged.certify, merged.certificate.turns) == (True, 3)


@pytest.mark.slow
def test_certify_again_and_unconstrained(lip_run, trained, bmo, tmp_path):
    done = bmo("certify", f"run={lip_run}", *LONG, "hydra.run.dir=again")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "again" / "certificate.json").read_text())
    assert found["verdict"] == "certified"
    done = bmo("certify", f"run={trained}", *LONG, "hydra.run.dir=free")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "free" / "certificate.json").read_text())
    assert found["verdict"] == "not certified"
    assert found["assumptions"][1]["verdict"] in ("violated", "not verifiable")


PLUGIN = '''
from bmo_cli.nets.convex_potential import ConvexPotential


class Expanding(ConvexPotential):
    """A network that was made expansive by 1 % by hand, and still claims that it is not."""

    def bind(self, guide=None):
        apply = super().bind(guide)
        return lambda x: 1.01 * apply(x)
'''


@pytest.mark.slow
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
    done = bmo("certify", "run=run", "plugins=[expanding.py]", *LONG, "hydra.run.dir=refused")
    assert done.returncode == 1
    assert "the certificate is refused" in done.stderr
    assert done.stderr.count("\n") == 1
    found = json.loads((tmp_path / "refused" / "certificate.json").read_text())
    assert found["verdict"] == "refused"
    assert found["network_ratio"] == pytest.approx(1.01, abs=1e-3)
    assert found["assumptions"][0]["verdict"] == "violated"


@pytest.mark.slow
def test_what_does_not_belong_together_is_refused(lip_run, trained, bmo, tmp_path):
    copy = trained
    (copy / "checkpoints" / "best.safetensors").write_bytes(
        (copy / "checkpoints" / "last.safetensors").read_bytes()
    )
    done = bmo("certify", f"run={copy}", *LONG)
    assert done.returncode == 2
    assert "best.safetensors is not the one" in done.stderr
    other = tmp_path / "photos" / "val"
    done = bmo("certify", f"run={lip_run}", *LONG, "task.noise=5")
    assert done.returncode == 2 and "would change the run" in done.stderr
    make_photos(tmp_path / "photos")
    next(other.glob("*1.png")).unlink()
    done = bmo("certify", f"run={lip_run}", *LONG, f"data.val={other}")
    assert done.returncode == 2 and "other data (val)" in done.stderr
    content = result(lip_run)
    del content["identity"]
    shutil.copytree(lip_run, tmp_path / "anonymous")
    (tmp_path / "anonymous" / "result.json").write_text(json.dumps(content))
    done = bmo("certify", "run=anonymous", *LONG)
    assert done.returncode == 2 and "does not say which checkpoint" in done.stderr
    content["status"] = "interrupted"
    (tmp_path / "anonymous" / "result.json").write_text(json.dumps(content))
    done = bmo("certify", "run=anonymous", *LONG)
    assert done.returncode == 2 and "finish it with 'bmo train resume=anonymous'" in done.stderr
    done = bmo("certify", "run=nowhere", *LONG)
    assert done.returncode == 2 and "no run folder" in done.stderr


@pytest.mark.parametrize(("size", "slope"), [(1.0, 5e-7), (1e3, 1e-3), (1e5, 1e-2)])
def test_small_steps_that_add_up_are_no_rounding(size, slope):
    """f = 1/2 u_1^2 - size u_1 - slope u_2 has no minimiser; a step is some roundings of |u|."""
    h = torch.diag(torch.tensor([1.0, 0.0]))
    problem = Problem(Quadratic(h, torch.tensor([[size, slope]])))
    scheme = GKM(operator=ProximalGradient(), alpha=0.9)
    found = certify(
        subject(problem, scheme=scheme, problems=[(problem, (torch.zeros(1, 2),))]), Certify()
    )
    assert found.verdict == "not certified"
    assert "none found" in finding(found, "has a fixed point").meaning


@pytest.mark.slow
@pytest.mark.parametrize("size", [1e-10, 1e-20, 1e-24])
def test_steps_whose_squares_vanish_are_no_fixed_point(size):
    h = torch.diag(torch.tensor([1.0, 0.0]))
    problem = Problem(Quadratic(h, torch.tensor([[size, 0.3 * size]])))
    scheme = GKM(operator=ProximalGradient(), alpha=0.9)
    found = certify(
        subject(problem, scheme=scheme, problems=[(problem, (torch.zeros(1, 2),))]), Certify()
    )
    assert finding(found, "has a fixed point").verdict == "not verifiable"
