"""precision=bf16, and what happens where memory runs out."""

import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from conftest import composed, result
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from run_content import same, weights

from bmo_cli.config.locate import config_dir
from bmo_cli.config.schema import check_config
from bmo_cli.experiment.build import build
from bmo_cli.experiment.evaluation import Settings, solve
from bmo_cli.hyper.reverse import ReverseMode
from bmo_cli.nets.execution import Execution
from bmo_cli.training import prepare
from bmo_cli.training.distributed import SINGLE_PROCESS
from bmo_cli.training.hypergradient import HyperGradient
from bmo_cli.training.precision import bfloat16_slowdown

SMALL = ("device=cpu", "data.crop=32", "train.batch=2", "train.iterations=4")


NETS = ["net=dncnn", "net=guided", "net=lip", "net=norm_conv", "net=crr", "net=drunet"]


@pytest.fixture(scope="module", params=NETS)
def posed(request):
    words = [request.param]
    if request.param == "net=drunet":
        words += ["net.widths=[4,4,8,8]", "net.blocks=1"]
    return built(words)


@pytest.fixture(scope="module")
def small():
    return built(["net=dncnn", "net.depth=3", "net.width=4"])


def built(words):
    words = [*SMALL, *words]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("train", words)
    experiment = build(check_config(OmegaConf.to_container(config, resolve=True)))
    experiment.task.prepare(["train"])
    return experiment, next(experiment.task.samples(range(1), 2))


def gradient(experiment, sample, precision):
    scheme = experiment.scheme
    lowered = scheme.using(execution=Execution(precision))
    outcome = experiment.hyper.objective(lowered, sample, 4)
    learned = [p for p in experiment.omega.parameters() if p.requires_grad]
    found = torch.autograd.grad(outcome.objective, learned)
    assert all(g.dtype is torch.float32 for g in found)
    return outcome.objective.item(), torch.cat([g.flatten() for g in found])


@pytest.mark.slow
def test_bf16_keeps_eight_bits_of_the_gradient(posed):
    experiment, sample = posed
    value, exact = gradient(experiment, sample, None)
    lowered, found = gradient(experiment, sample, torch.bfloat16)
    assert lowered != value
    assert lowered == pytest.approx(value, rel=0.02)
    assert 1e-5 < (found - exact).norm() / exact.norm() < 0.1
    assert torch.nn.functional.cosine_similarity(found, exact, 0) > 0.995


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["states", "segments"])
def test_recomputed_iterations_are_lowered_alike(posed, memory):
    experiment, sample = posed
    assert isinstance(experiment.hyper, ReverseMode)
    value, expected = gradient(experiment, sample, torch.bfloat16)
    experiment.hyper.memory, before = memory, experiment.hyper.memory
    experiment.hyper._segments.clear()
    try:
        lean, found = gradient(experiment, sample, torch.bfloat16)
    finally:
        experiment.hyper.memory = before
        experiment.hyper._segments.clear()
    assert lean == value
    assert (found - expected).norm() <= 1e-4 * expected.norm()  # one digit of bfloat16 is 8e-3


@pytest.mark.slow
def test_evaluation_is_not_lowered(posed):
    experiment, sample = posed
    before = solve(experiment.scheme, sample.problem, sample.initial, Settings(3)).value[0]
    gradient(experiment, sample, torch.bfloat16)
    after = solve(experiment.scheme, sample.problem, sample.initial, Settings(3)).value[0]
    assert torch.equal(before, after)


@pytest.mark.slow
def test_a_run_in_bf16(bmo, tiny, tmp_path):
    scores = {}
    for precision in ("fp32", "bf16"):
        done = bmo("train", *tiny, f"precision={precision}", f"hydra.run.dir={precision}")
        assert done.returncode == 0, done.stderr
        scores[precision] = result(tmp_path / precision)["metrics"]["test/psnr"]
    replaced = "precision=bf16 is not used" in done.stdout  # this processor has no bfloat16
    assert (scores["bf16"] == scores["fp32"]) == replaced
    assert scores["bf16"] == pytest.approx(scores["fp32"], abs=0.05)


@pytest.mark.slow
def test_fp16_is_for_gpus(bmo, tiny, tmp_path):
    done = bmo("train", *tiny, "precision=fp16", "hydra.run.dir=refused")
    assert done.returncode == 2
    assert "precision=fp16 is for CUDA devices" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "refused").exists()


@pytest.mark.slow
@pytest.mark.parametrize("word", ["precision=bf16", "compile=true"])
def test_precision_and_compilation_are_about_a_network(bmo, tiny, tmp_path, word):
    words = [other for other in tiny if not other.startswith("net.")]
    done = bmo("train", *words, "net=none", word, "hydra.run.dir=refused")
    assert done.returncode == 2
    assert f"{word} is about a network, but net=none" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "refused").exists()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch looks at it while it traces
def test_compiled_networks_have_the_gradient_of_written_ones(small):
    experiment, sample = small
    scheme, hyper = experiment.scheme, experiment.hyper
    learned = [p for p in experiment.omega.parameters() if p.requires_grad]
    found = []
    for compiled in (False, True):
        gradient = HyperGradient(hyper, scheme, learned, iterations=2, compiled=compiled)
        gradient.warm_up(sample)
        assert gradient.execution.compiled == compiled
        gradient(sample)
        found.append(torch.cat([p.grad.flatten() for p in learned]))
    assert (found[1] - found[0]).norm() <= 1e-6 * found[0].norm()
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] >= 1 and not counters["graph_break"]


@pytest.mark.slow
def test_without_a_compiler_networks_stay_as_they_are(bmo, tiny, tmp_path):
    nothing = {"CXX": "/nonexistent", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    assert bmo("train", *tiny, "hydra.run.dir=plain").returncode == 0
    words = [sys.executable, "-m", "bmo_cli", "train", *tiny, "compile=true"]
    done = subprocess.run(  # the compiler is looked for when torch is imported
        [*words, "hydra.run.dir=compiled"],
        cwd=tmp_path,
        env={**os.environ, **nothing, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("compile=true is not used: ") == 1
    scores = [result(tmp_path / name)["metrics"] for name in ("plain", "compiled")]
    assert scores[0]["test/psnr"] == scores[1]["test/psnr"]


SHORT = """
from bmo_cli.hyper.aggregation import Unrolled


class Short(Unrolled):
    def objective(self, scheme, sample, iterations):
        found = super().objective(scheme, sample, iterations)
        if max(self._segments.values()) > FITS:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
        return found
"""


@pytest.mark.slow
@pytest.mark.parametrize("fits", [2, 0])
def test_less_is_kept_where_memory_runs_out(bmo, tiny, tmp_path, fits):
    (tmp_path / "short.py").write_text(SHORT.replace("FITS", str(fits)))
    words = ["hyper=unrolled", "hyper._target_=short.Short", "plugins=[short.py]"]
    words += ["train.iterations=8"]
    done = bmo("train", *tiny, *words, "hydra.run.dir=run")
    if fits:
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("keeping less from now on") == 2  # 8, 4, 2
        assert result(tmp_path / "run")["status"] == "ok"
    else:
        assert done.returncode == 2
        assert "bmo: memory ran out; use hyper.memory=states" in done.stderr
        assert done.stderr.count("\n") == 1


def prepared(monkeypatch, slowdown, device="cpu"):
    """Precision and notes of a run in bf16 where the probe measures this."""
    asked = []
    monkeypatch.setattr(prepare, "bfloat16_slowdown", lambda: asked.append(1) or slowdown)
    experiment = replace(
        built(["net=dncnn", "net.depth=3", "net.width=4"])[0], device=torch.device(device)
    )
    config = composed("precision=bf16")
    config, found = prepare._avoid_slow_bfloat16(config, experiment, SINGLE_PROCESS)
    return config.precision, found.notes[len(experiment.notes) :], len(asked)


@pytest.mark.slow
def test_bf16_is_used_where_it_is_no_slower_than_twice_fp32(monkeypatch):
    assert prepared(monkeypatch, 1.99) == ("bf16", (), 1)
    precision, (note,), _ = prepared(monkeypatch, 2.01)
    assert precision == "fp32"
    assert note.startswith("precision=bf16 is not used: this processor takes 2.0 times as long")
    assert prepared(monkeypatch, 99.0, device="cuda") == ("bf16", (), 0)  # it has instructions
    experiment = built(["net=dncnn", "net.depth=3", "net.width=4"])[0]
    assert prepare._avoid_slow_bfloat16(composed(), experiment, SINGLE_PROCESS)[1] is experiment


def test_the_probe_changes_nothing_and_is_short():
    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    started = time.monotonic()
    assert 0.05 < bfloat16_slowdown() < 1000
    assert time.monotonic() - started < 5
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="instructions of x86")
def test_a_processor_without_instructions_for_bf16_trains_in_fp32(bmo, tiny, tmp_path):
    old = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = bmo("train", *tiny, "precision=bf16", "hydra.run.dir=bf16", **old)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if "bf16" in line and "note" in line)
    assert line.removeprefix("note: ") in result(tmp_path / "bf16")["notes"]
    assert bmo("train", *tiny, "hydra.run.dir=fp32", **old).returncode == 0
    assert same(weights(tmp_path / "bf16"), weights(tmp_path / "fp32"))
