"""Several processes that share a batch: parts of a batch add up, and runs on them are one run."""

import csv
import time

import pytest
import torch
from conftest import result
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from bmo_cli.config.locate import config_dir
from bmo_cli.config.schema import check_config
from bmo_cli.errors import InputError
from bmo_cli.experiment.build import build
from bmo_cli.gkm.proximal import ProximalGradient
from bmo_cli.gkm.scheme import GKM
from bmo_cli.hyper.aggregation import Unrolled
from bmo_cli.linear.map import LinearMap
from bmo_cli.linear.matrix import Matrix
from bmo_cli.solver.functions import L1, LeastSquares
from bmo_cli.solver.problem import Loss, Problem, Sample, SquaredError
from bmo_cli.training.hypergradient import HyperGradient
from bmo_cli.training.threads import CpuThreads

SMALL = ("data.crop=32", "train.batch=4", "train.iterations=3", "hyper=bmo")
BY_NOISE = ("task.noise=[0.5,15]", "gkm.operator.noise_power=2")
SCHEMES = {
    "prox": [*SMALL, "net=dncnn", "net.width=6"],
    "guided": [*SMALL, "net=guided", "task.noise=[1,8]"],
    "separate": [*SMALL, "net=dncnn", "net.width=6", "hyper=separate", "task.noise=[1,8]"],
    "step by noise": [*SMALL, "net=lip", *BY_NOISE],
    "separate, step by noise": [*SMALL, "net=lip", "hyper=separate", *BY_NOISE],
    "split, ladmm": [*SMALL, "task.form=split", "gkm=ladmm", "net=dncnn", "net.width=6"],
    "exact, alm": [*SMALL, "task.form=exact", "gkm=alm", "net=dncnn", "net.width=6"],
    "total variation, pdhg": [*SMALL, "task.form=tv", "gkm=pdhg", "net=none"],
    "anisotropic": [*SMALL, "task.form=tv_anisotropic", "gkm=pdhg", "net=none"],
    "rain": [*SMALL, "task=derain", "net.widths=[4,4,4]", "task.loss=charbonnier"],
    "dictionary of rain": [
        *SMALL,
        "task=derain",
        "gkm=rain_dictionary",
        "gkm.operator.kernels=4",
        "net.widths=[4,4,4]",
    ],
    "sparse rain": [*SMALL, "task=derain", "task.form=sparse", "gkm=pdhg", "net=none"],
    "positive rain": [*SMALL, "task=derain", "task.rain_weight=0.01", "net.widths=[4,4,4]"],
    "sparse coding": ["task=sparse_coding", "method=dladmm", "train.batch=4"],
    "lista": ["task=sparse_coding", "method=lista", "train.batch=4"],
}


def gradient(experiment, sample, iterations=3):
    outcome = experiment.hyper.objective(experiment.scheme, sample, iterations)
    learned = [p for p in experiment.omega.parameters() if p.requires_grad]
    found = torch.autograd.grad(outcome.objective, learned, allow_unused=True)
    return outcome.objective.item(), torch.cat([g.flatten() for g in found if g is not None])


@pytest.mark.parametrize("words", SCHEMES.values(), ids=SCHEMES)
def test_gradients_of_parts_average_to_that_of_the_batch(words):
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("train", ["device=cpu", *words])
    experiment = build(check_config(OmegaConf.to_container(config, resolve=True)))
    experiment.task.prepare(["train"])
    sample = next(experiment.task.samples(range(1), 4))
    value, expected = gradient(experiment, sample)
    for count in (2, 4):
        rounding = 1e-4 if "net=guided" in words else 1e-5 if BY_NOISE[1] in words else 2e-6
        average(experiment, sample, count, value, expected, rounding)


def average(experiment, sample, count, value, expected, rounding):
    """The mean over parts is the whole; levels of a guided network are clipped or not, by a bit."""
    parts = [gradient(experiment, sample.equal_part(i, count)) for i in range(count)]
    assert sum(v for v, _ in parts) / count == pytest.approx(value, rel=1e-6)
    mean = torch.stack([g for _, g in parts]).mean(0)
    assert expected.norm() > 0
    assert (mean - expected).norm() <= rounding * expected.norm()
    assert len({v for v, _ in parts}) == count  # parts of different content


def test_a_part_keeps_the_constants_of_the_whole(rng):
    """Step sizes are given in units of 1/L_f, which is that of the batch."""
    from bmo_cli.linear.blur import PeriodicBlur, transfer_function

    kernels = torch.tensor(rng.random((4, 3, 3)))
    blur = PeriodicBlur(transfer_function(kernels, (8, 8)), (8, 8))
    norms = [PeriodicBlur(blur.transfer[i : i + 1], (8, 8)).norm_squared for i in range(4)]
    least = norms.index(min(norms))
    taken = LeastSquares(blur, torch.tensor(rng.random((4, 1, 8, 8)))).select(torch.tensor([least]))
    assert taken.lipschitz == max(norms) > min(norms)
    assert taken.a.norm_squared == max(norms)
    shared = PeriodicBlur(blur.transfer[:1], (8, 8))
    assert shared.select(torch.tensor([0, 3])) is shared


def test_what_does_not_divide_says_so(rng):
    x = torch.tensor(rng.random((3, 5)))

    class Map(LinearMap):
        norm_squared = 1.0

        def __call__(self, u):
            return u

        def adjoint(self, y):
            return y

        def shifted_inverse(self, gamma):
            return lambda v: v / (1 + gamma)

    class Cubes(Loss):
        def value(self, u):
            return u[0].abs().pow(3).sum(1)

    own = Sample(Problem(LeastSquares(Map(), x)), (x,), SquaredError(x))
    with pytest.raises(InputError, match="3 problems a step do not divide by train"):
        own.equal_part(0, 2)
    with pytest.raises(InputError, match="Map has no `select`"):
        own.equal_part(0, 3)
    with pytest.raises(InputError, match="Cubes has no `select`"):
        Sample(Problem(), (x,), Cubes()).equal_part(0, 3)


PAIR = ("train.batch=4", "train.devices=2")


def rows(folder):
    with (folder / "history.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
def test_a_run_on_two_devices_is_the_run_on_one(bmo, tiny, tmp_path):
    for name, words in (("one", PAIR[:1]), ("two", PAIR)):
        done = bmo("train", *tiny, *words, f"hydra.run.dir={name}")
        assert done.returncode == 0, done.stderr
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert [row["step"] for row in one] == [row["step"] for row in two]
    for a, b in zip(one, two, strict=True):
        for key in ("loss", "hypergrad_norm", "residual", "lr"):
            assert float(b[key]) == pytest.approx(float(a[key]), rel=1e-4), key
    assert float(two[0]["hypergrad_norm"]) == pytest.approx(
        float(one[0]["hypergrad_norm"]), rel=1e-6
    )
    first, second = result(tmp_path / "one"), result(tmp_path / "two")
    assert (first["devices"], second["devices"]) == (1, 2)
    assert second["metrics"]["test/psnr"] == pytest.approx(first["metrics"]["test/psnr"], abs=1e-3)
    assert second["status"] == "ok"
    log = (tmp_path / "two" / "run.log").read_text()
    assert log.count("evaluating the checkpoint") == 1
    done = bmo("train", "resume=two", "train.steps=8")
    assert done.returncode == 0, done.stderr
    assert result(tmp_path / "two")["steps"] == 8


ENDING = """
import os
import signal
import sys

import torch.distributed as dist

from bmo_cli.hyper.aggregation import Unrolled


class Ending(Unrolled):
    def __init__(self, *, end, of=1, memory="auto", memory_mib=None):
        super().__init__(memory=memory, memory_mib=memory_mib)
        self.end, self.of, self.calls = end, of, 0

    def objective(self, scheme, sample, iterations):
        self.calls += 1
        if dist.is_initialized() and dist.get_rank() == self.of and self.calls >= 3:
            if self.end.startswith("SIG"):
                os.kill(os.getpid(), getattr(signal, self.end))
            if self.end == "silent":
                os._exit(0)
            if self.end == "exit":
                sys.exit(5)
            raise MemoryError if self.end == "memory" else ZeroDivisionError("on purpose")
        return super().objective(scheme, sample, iterations)
"""
ENDS = [
    ("SIGKILL", 1, 1, "process 1 was ended by SIGKILL (out of memory?)", "interrupted"),
    ("SIGKILL", 0, 1, "process 0 was ended by SIGKILL (out of memory?)", "interrupted"),
    ("SIGSEGV", 1, 1, "process 1 was ended by SIGSEGV", "interrupted"),
    ("silent", 1, 1, "process 1 ended without an error message", "interrupted"),
    ("exit", 1, 1, "process 1: sys.exit(5) was called", "failed"),
    ("memory", 1, 2, "process 1: memory ran out", "interrupted"),
    ("error", 0, 2, "process 0: ending.py, line 25, in objective: ZeroDivisionError", "failed"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("end", "of", "code", "said", "status"), ENDS)
def test_every_end_of_a_process_is_a_line_that_names_it(
    bmo, tiny, tmp_path, end, of, code, said, status
):
    (tmp_path / "ending.py").write_text(ENDING)
    words = ["hyper._target_=ending.Ending", f"+hyper.end={end}", f"+hyper.of={of}"]
    words += ["plugins=[ending.py]", "hydra.run.dir=bad"]
    done = bmo("train", *tiny, "hyper=unrolled", *PAIR, *words)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(f"bmo: {said}") and done.stderr.count("\n") == 1
    found = result(tmp_path / "bad")
    assert found["status"] == status and found["message"].startswith(said)
    if end == "SIGSEGV":  # its stack is in the log, and not on the screen
        assert "in objective" in (tmp_path / "bad" / "run.log").read_text()


FAILING = """
import torch.distributed as dist

from bmo_cli.hyper.aggregation import Unrolled


class Failing(Unrolled):
    def objective(self, scheme, sample, iterations):
        if dist.is_initialized() and dist.get_rank() == 1 and sample.seed:
            raise ZeroDivisionError("on purpose")
        return super().objective(scheme, sample, iterations)
"""


@pytest.mark.slow
def test_a_process_that_fails_ends_the_job_with_its_traceback(bmo, tiny, tmp_path):
    (tmp_path / "failing.py").write_text(FAILING)
    words = ["hyper._target_=failing.Failing", "plugins=[failing.py]", "hydra.run.dir=bad"]
    done = bmo("train", *tiny, "hyper=unrolled", *PAIR, *words)
    assert done.returncode == 2
    assert "failing.py, line 10, in objective: ZeroDivisionError: on purpose" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    found = result(tmp_path / "bad")
    assert found["status"] == "failed"
    assert "on purpose" in found["message"]
    log = (tmp_path / "bad" / "run.log").read_text()
    assert "in objective" in log and "ZeroDivisionError" in log


REMARKING = """
import dataclasses

import torch.distributed as dist

from bmo_cli.hyper.aggregation import Unrolled


class Remarking(Unrolled):
    def objective(self, scheme, sample, iterations):
        found = super().objective(scheme, sample, iterations)
        return dataclasses.replace(found, flags=(f"seen by {dist.get_rank()}", "seen by all"))
"""


@pytest.mark.slow
def test_what_any_process_remarks_is_in_the_result(bmo, tiny, tmp_path):
    (tmp_path / "remarking.py").write_text(REMARKING)
    words = ["hyper._target_=remarking.Remarking", "plugins=[remarking.py]", "hydra.run.dir=run"]
    done = bmo("train", *tiny, "hyper=unrolled", *PAIR, *words)
    assert done.returncode == 0, done.stderr
    found = result(tmp_path / "run")
    flags = {name: found["flags"].get(name) for name in ("seen by 0", "seen by 1", "seen by all")}
    assert set(flags.values()) == {found["steps"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    "words, said",
    [
        (["train.batch=3"], "3 problems a step do not divide by train.devices=2"),
        (["train.devices=4096"], "but there are"),
        (["device=cuda:1"], "device=cuda"),
        (["train.penalty=0.1"], "train.devices=1"),
    ],
)
def test_impossible_wishes_are_refused(bmo, tiny, tmp_path, words, said):
    done = bmo("train", *tiny, *PAIR, *words, "hydra.run.dir=refused")
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "refused").exists()


def test_threads_have_their_share_and_meet_at_errors():
    before, whole = torch.get_num_threads(), 4
    torch.set_num_threads(whole)
    threads = CpuThreads(2)
    assert threads.run(lambda _: torch.get_num_threads(), [0, 1]) == [2, 2]
    assert torch.get_num_threads() == whole
    torch.set_num_threads(before)
    ended = []

    def work(i):
        if i == 0:
            raise ZeroDivisionError
        time.sleep(0.2)
        ended.append(i)

    with pytest.raises(ZeroDivisionError):
        threads.run(work, [0, 1])
    assert ended == [1]


def test_parts_of_a_learned_problem_share_its_graph(rng):
    """A forward model that is learned is one graph for all parts."""
    a = torch.nn.Parameter(torch.tensor(rng.normal(size=(4, 6))))
    scheme = GKM(operator=ProximalGradient(), alpha=None).double()
    parameters = [a, *(p for p in scheme.parameters() if p.requires_grad)]
    y, x = (torch.tensor(rng.normal(size=(4, n))) for n in (4, 6))
    found = []
    for count in (1, 2):
        problem = Problem(LeastSquares(Matrix(1.0 * a), y), L1(0.1))
        sample = Sample(problem, (torch.zeros_like(x),), SquaredError(x))
        gradient = HyperGradient(
            Unrolled(), scheme, parameters, iterations=5, threads=CpuThreads(count)
        )
        gradient(sample)
        found.append([p.grad for p in parameters])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)
    assert found[0][0].norm() > 0
