"""`bmo audit` passes on what the package promises, and fails on what is wrong by a thousandth."""

import csv
import json
import math

import pytest
import torch
import yaml
from conftest import ROOT, plain_config

from bmo_cli.commands.audit import OPERATORS
from bmo_cli.config.locate import config_dir
from bmo_cli.experiment.build import instantiate
from bmo_cli.gkm.proximal import ProximalGradient
from bmo_cli.gkm.rain_dictionary import RainDictionary
from bmo_cli.gkm.scheme import GKM
from bmo_cli.hyper.aggregation import Unrolled
from bmo_cli.hyper.base import HyperOptimizer, Outcome
from bmo_cli.hyper.implicit import Implicit
from bmo_cli.solver.fixed_point import Status
from bmo_cli.verification.audit import audit_gradient, audit_norm, compare
from bmo_cli.verification.audit_problems import PROBLEMS

METHODS = yaml.safe_load((config_dir() / "audit.yaml").read_text())["methods"]
EXAMPLE = ROOT / "examples"
EXACT = {
    *("unrolled", "bmo", "truncated (M = K)"),
    *("implicit (GMRES)", "implicit (Anderson)", "implicit (fixed point)"),
}


def record(problem, method, hyper):
    small = PROBLEMS[problem]()
    scheme = GKM(operator=small.operator, net=small.net, alpha=0.9).double()
    return audit_gradient(problem, small, method, hyper, scheme)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_promise_holds(problem, method):
    hyper = instantiate(plain_config(*METHODS[method])["hyper"], "hyper", [], HyperOptimizer)
    found = record(problem, method, hyper)
    assert not found.failed
    if method == "separate":
        assert (found.bound == 1e-6) == (problem == "deconvolution")
    elif method in EXACT:
        singular = problem == "convex" and method.startswith("implicit")
        assert (found.bound is None) == singular  # flagged: I - J has no inverse there
        assert found.error < 1e-5
    else:
        assert found.bound is None
        assert found.error > 1e-6  # the bias is visible


def test_the_cost_is_counted():
    unrolled = record("convex", "unrolled", Unrolled())
    assert (unrolled.evaluations, unrolled.products) == (60, 60)
    implicit = record("strongly_convex", "implicit", Implicit(tolerance=1e-12))
    assert implicit.products < implicit.evaluations < 150
    assert implicit.memory < record("strongly_convex", "unrolled", Unrolled()).memory


class Scaled(HyperOptimizer):
    """Unrolling, its gradient multiplied by a factor and its value left alone."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def objective(self, scheme, sample, iterations):
        value = Unrolled().objective(scheme, sample, iterations).objective
        return Outcome(
            self.factor * value + (1 - self.factor) * value.detach(), 0.0, Status.ITERATIONS
        )


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "fails"), [(1.001, True), (0.999, True), (1 + 3e-7, False)])
@pytest.mark.parametrize("problem", ["convex", "strongly_convex", "nonsymmetric"])
def test_a_scaled_gradient_is_found(problem, factor, fails):
    found = record(problem, "scaled", Scaled(factor))
    assert found.failed == fails
    assert found.error == pytest.approx(abs(factor - 1), rel=0.02)


def test_angle_and_error():
    a, b = torch.tensor([3.0, 0.0]).double(), torch.tensor([3.0, 3.0]).double()
    error, angle = compare(b, a)
    assert error == pytest.approx(1.0)
    assert angle == pytest.approx(45.0)
    assert compare(a * (1 + 1e-9), a)[1] < 1e-6
    assert compare(torch.zeros(2), torch.zeros(2)) == (0.0, 0.0)


@pytest.mark.slow
def test_an_operator_that_lies_about_its_norm_is_found():
    class Longer(ProximalGradient):
        def bind(self, problem):
            bound = super().bind(problem)
            return type(bound)(
                lambda u, k: tuple(1.01 * a for a in bound.apply(u, k)), bound.metric
            )

    broken = audit_norm("longer", Longer())
    assert len(broken) == 3 and all(r.failed for r in broken)
    kept = audit_norm("pg", ProximalGradient())
    assert len(kept) == 3 and not any(r.failed for r in kept)
    assert all(r.broken > 1.5 for r in kept)  # gamma = 2 / L_f becomes 2.6 / L_f


@pytest.mark.slow
def test_the_dictionary_of_rain_keeps_its_norm_and_reads_no_constant():
    (norm,) = audit_norm("rain", RainDictionary(kernels=4, size=5))
    assert norm.problem == "two layers" and not norm.failed
    assert 0.999 < norm.inside == norm.broken


SCALED = """
from bmo_cli.hyper.aggregation import Unrolled
from bmo_cli.hyper.base import Outcome


class Scaled(Unrolled):
    def __init__(self, *, factor: float = 1.001) -> None:
        super().__init__()
        self.factor = factor

    def objective(self, scheme, sample, iterations):
        found = super().objective(scheme, sample, iterations)
        value = found.objective
        wrong = self.factor * value + (1 - self.factor) * value.detach()
        return Outcome(wrong, found.residual, found.status)
"""


@pytest.mark.slow
def test_command_fails_on_a_gradient_scaled_by_a_thousandth(tmp_path, bmo):
    (tmp_path / "scaled.py").write_text(SCALED)
    (tmp_path / "conf" / "hyper").mkdir(parents=True)
    (tmp_path / "conf" / "hyper" / "scaled.yaml").write_text(
        "# wrong by a thousandth\n_target_: scaled.Scaled\nfactor: 1.001\n"
    )
    words = ["audit", "--config-dir", "conf", "hyper=scaled", "plugins=[scaled.py]"]
    words.append("problem=strongly_convex")
    done = bmo(*words, "hydra.run.dir=bad")
    assert done.returncode == 1
    assert "scaled on strongly_convex: error 1.0e-03" in done.stderr
    assert "Traceback" not in done.stderr
    assert "BROKEN" in (tmp_path / "bad" / "audit.md").read_text()
    assert json.loads((tmp_path / "bad" / "result.json").read_text())["status"] == "failed"
    assert bmo(*words, "hyper.factor=1", "hydra.run.dir=good").returncode == 0


@pytest.mark.slow
def test_command_writes_a_report(tmp_path, bmo):
    done = bmo("audit", "problem=[convex]", "hydra.run.dir=a")
    assert done.returncode == 0, done.stderr
    assert "none is broken" in done.stdout
    report = (tmp_path / "a" / "audit.md").read_text()
    for name in (*METHODS, "pdhg", "ladmm", "rain_dictionary", "two layers", "30 % beyond"):
        assert name in report
    norms = json.loads((tmp_path / "a" / "result.json").read_text())["norms"]
    assert {record["operator"] for record in norms} == set(OPERATORS)
    with (tmp_path / "a" / "audit.csv").open() as stream:
        rows = {row["method"]: row for row in csv.DictReader(stream)}
    assert float(rows["unrolled"]["error"]) < 1e-6 < float(rows["onestep"]["error"])
    assert math.isnan(float(rows["separate"]["error"]))
    assert (tmp_path / "a" / "audit.png").stat().st_size > 5000


@pytest.mark.slow
def test_command_refuses_an_unknown_problem(tmp_path, bmo):
    done = bmo("audit", "problem=cnvex")
    assert done.returncode == 2
    assert "did you mean 'convex'?" in done.stderr
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_examples_outside_the_package_are_audited_and_run(tmp_path, bmo, tiny):
    files = [EXAMPLE / "half_step.py", EXAMPLE / "averaged.py"]
    mine = ["--config-dir", EXAMPLE, f"plugins=[{files[0]},{files[1]}]"]
    done = bmo("audit", *mine, "hyper=averaged", "problem=[convex]")
    assert done.returncode == 0, done.stderr
    done = bmo("audit", *mine, "gkm=half", "problem=[convex]", "hydra.run.dir=h")
    assert done.returncode == 0, done.stderr
    norms = json.loads((tmp_path / "h" / "result.json").read_text())["norms"]
    assert {record["operator"] for record in norms} == {"half"}
    done = bmo("train", *mine, *tiny, "gkm=half", "hyper=averaged")
    assert done.returncode == 0, done.stderr
