"""The same numbers on a GPU as on the processor; skipped where there is none."""

import gc

import pytest
import torch
from conftest import result
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from bmo_cli.config.locate import config_dir
from bmo_cli.config.schema import check_config
from bmo_cli.errors import is_out_of_memory
from bmo_cli.experiment.build import build
from bmo_cli.experiment.evaluation import Settings, solve
from bmo_cli.nets.execution import Execution

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

SMALL = ("data.crop=32", "train.batch=2", "train.iterations=3")
SCHEMES = {
    "prox, bmo": ["hyper=bmo", "net=dncnn", "net.width=8"],
    "pg, unrolled": ["gkm=pg", "hyper=unrolled", "net=dncnn", "net.width=8"],
    "dr, truncated": ["gkm=dr", "net=none", "hyper=truncated"],
    "dpir": ["gkm=dpir", "gkm.operator.learn=true", "hyper=unrolled", "net=dncnn", "net.width=8"],
    "guided, implicit": ["net=guided", "hyper=implicit", "gkm.operator.gamma=5"],
    "norm_conv": ["net=norm_conv", "hyper=onestep"],
    "convex ridge, implicit": ["net=crr", "hyper=implicit", "gkm.operator.gamma=5"],
    "drunet": ["net=drunet", "net.widths=[4,4,8,8]", "net.blocks=1"],
    "split, ladmm": ["task.form=split", "gkm=ladmm", "net=dncnn", "net.width=8"],
    "total variation, pdhg": ["task.form=tv", "gkm=pdhg", "net=none"],
    "exact, alm": ["task.form=exact", "gkm=alm", "net=dncnn", "net.width=8"],
    "rain": ["task=derain", "net.widths=[8,8,8]"],
    "dictionary of rain": ["task=derain", "gkm=rain_dictionary", "net.widths=[8,8,8]"],
    "sparse coding": ["task=sparse_coding", "method=dladmm"],
    "toy": ["task=toy"],
}


def on(device, words):
    """Objective, hyper-gradients and estimate of one training sample."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("train", [f"device={device}", *words])
    experiment = build(check_config(OmegaConf.to_container(config, resolve=True)))
    experiment.task.prepare(["train"])
    sample = next(experiment.task.samples(range(1), config.train.batch))
    outcome = experiment.hyper.objective(experiment.scheme, sample, config.train.iterations)
    learned = [p for p in experiment.omega.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(outcome.objective, learned, allow_unused=True)
    estimate = solve(experiment.scheme, sample.problem, sample.initial, Settings(3)).value
    assert outcome.objective.device.type == estimate[0].device.type == device
    flat = [g.flatten().cpu() for g in gradients if g is not None]
    return outcome.objective.item(), torch.cat(flat), estimate[0].detach().cpu()


@pytest.fixture(autouse=True)
def full_precision():
    """TF32 keeps three decimal digits: too few to compare by."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("words", SCHEMES.values(), ids=SCHEMES)
def test_objective_gradient_and_estimate_agree(words):
    image = [] if any("sparse" in word or "toy" in word for word in words) else SMALL
    (loss, gradient, estimate), (loss2, gradient2, estimate2) = (
        on(device, [*image, *words]) for device in ("cpu", "cuda")
    )
    assert loss2 == pytest.approx(loss, rel=1e-4)
    assert (estimate2 - estimate).norm() <= 1e-4 * estimate.norm()
    assert gradient.norm() > 0
    assert (gradient2 - gradient).norm() <= 1e-2 * gradient.norm()
    assert torch.nn.functional.cosine_similarity(gradient, gradient2, 0) > 0.9999


def test_a_run_on_the_gpu_repeats_itself_and_is_evaluated_on_the_processor(bmo, tiny, tmp_path):
    for name in ("one", "two"):
        done = bmo("train", *tiny, "device=cuda", f"hydra.run.dir={name}")
        assert done.returncode == 0, done.stderr
    one, two = (result(tmp_path / name) for name in ("one", "two"))
    assert one["metrics"]["test/psnr"] == two["metrics"]["test/psnr"]
    done = bmo("eval", "run=one", "device=cpu", "hydra.run.dir=again")
    assert done.returncode == 0, done.stderr
    again = result(tmp_path / "again")["metrics"]["test/psnr"]
    assert again == pytest.approx(one["metrics"]["test/psnr"], abs=0.01)


def step(memory, iterations=12, precision=None):
    """Gradient of a step, and the bytes that it took at its peak beside what was there."""
    words = ["device=cuda", "data.crop=64", "train.batch=4", "hyper=unrolled"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("train", [*words, f"hyper.memory={memory}"])
    experiment = build(check_config(OmegaConf.to_container(config, resolve=True)))
    experiment.task.prepare(["train"])
    sample = next(experiment.task.samples(range(1), 4))
    experiment.hyper.plan(experiment.scheme, sample, iterations, None)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    scheme = experiment.scheme.using(execution=Execution(precision))
    outcome = experiment.hyper.objective(scheme, sample, iterations)
    learned = [p for p in experiment.omega.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(outcome.objective, learned)
    peak = torch.cuda.max_memory_allocated() - before
    return torch.cat([g.flatten() for g in gradients]), peak


@pytest.mark.parametrize("memory", ["states", "segments"])
def test_less_memory_gives_the_same_gradient(memory):
    full, most = step("full")
    lean, least = step(memory)
    assert (lean - full).norm() <= 1e-5 * full.norm()
    assert least < 0.6 * most


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_lower_precision_keeps_the_direction(precision):
    full, _ = step("full")
    lowered, _ = step("states", precision=precision)
    assert not torch.equal(lowered, full)
    assert torch.nn.functional.cosine_similarity(lowered, full, 0) > 0.99


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_run_in_lower_precision_can_be_resumed(bmo, tiny, tmp_path, precision):
    words = [*tiny, "device=cuda", f"precision={precision}", "hydra.run.dir=run"]
    done = bmo("train", *words)
    assert done.returncode == 0, done.stderr
    plain = bmo("train", *tiny, "device=cuda", "hydra.run.dir=plain")
    assert plain.returncode == 0, plain.stderr
    found, expected = (result(tmp_path / name)["metrics"]["test/psnr"] for name in ("run", "plain"))
    assert found == pytest.approx(expected, abs=0.1)
    done = bmo("train", "resume=run", "train.steps=6")
    assert done.returncode == 0, done.stderr


def test_memory_that_runs_out_is_met_with_less():
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("train", ["device=cuda", "data.crop=64"])
    experiment = build(check_config(OmegaConf.to_container(config, resolve=True)))
    experiment.task.prepare(["train"])
    sample = next(experiment.task.samples(range(1), 16))
    hyper, iterations = experiment.hyper, 200
    hyper.plan(experiment.scheme, sample, iterations, None)  # nothing is known: all of the graph
    assert set(hyper._segments.values()) == {iterations}
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(1.5 * 2**30 / total)  # of 8 GiB
    try:
        with pytest.raises(torch.OutOfMemoryError) as error:
            hyper.objective(experiment.scheme, sample, iterations)
        assert is_out_of_memory(error.value)
        del error
        while True:
            assert hyper.reduce_memory()
            gc.collect()
            torch.cuda.empty_cache()
            try:
                hyper.objective(experiment.scheme, sample, iterations).objective.backward()
                break
            except torch.OutOfMemoryError:
                pass
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert all(p.grad is not None for p in experiment.omega.parameters() if p.requires_grad)
