"""Whole runs: what they leave, that they repeat, stop and go on; what an evaluation changes."""

import math
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import result
from run_content import history, same, weights
from safetensors.torch import save_file

from bmo_cli.commands.evaluate import _require_noise_of_the_test
from bmo_cli.config.locate import choices
from bmo_cli.data.images.file import Photograph, read_image, write_image
from bmo_cli.errors import InputError
from bmo_cli.nets.dncnn import DnCNN
from bmo_cli.results.run_folder import RunFolder


def test_a_run_leaves_what_is_promised(trained):
    found = result(trained)
    assert found["status"] == "ok"
    assert (found["task"], found["gkm"], found["hyper"]) == ("deconv", "prox", "bmo")
    assert found["steps"] == 4
    assert found["parameters"] == 4 * 9 + 4 + 4 * 9 + 1 + 1
    assert found["peak_rss_mib"] > 50
    for key in ("psnr", "ssim", "psnr_input", "ssim_input", "residual", "iterations"):
        assert math.isfinite(found["metrics"][f"test/{key}"])
        images = [row[key] for row in found["images"].values()]
        assert found["metrics"][f"test/{key}"] == pytest.approx(np.mean(images))
    assert set(found["images"]) == {"test0.png", "test1.png"}
    assert {"train", "val", "test"} <= set(found["data"])
    assert found["data"]["train"]["images"] == 2
    assert "float" in found["protocol"]
    rows = history(trained)
    assert list(rows[0]) == ["step", "loss", "val_psnr", "hypergrad_norm", "residual", "lr"]
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    best = max(float(row["val_psnr"]) for row in rows if row["val_psnr"])
    assert found["metrics"]["val/psnr"] == pytest.approx(best)
    assert {f.name for f in (trained / ".hydra").iterdir()} == {
        "config.yaml",
        "hydra.yaml",
        "overrides.yaml",
    }
    assert (trained / "run.log").read_text()
    assert read_image(trained / "curves.png").pixels.std() > 10
    pictures = {f.name for f in (trained / "images").iterdir()}
    assert pictures == {
        f"01_test0_{name}.png" for name in ("clean", "degraded", "restored", "side_by_side")
    }


def test_pictures_show_what_the_numbers_say(trained):
    images = trained / "images"
    clean, degraded, restored = (
        read_image(images / f"01_test0_{name}.png").pixels / 255.0
        for name in ("clean", "degraded", "restored")
    )
    scores = result(trained)["images"]["test0.png"]
    for picture, key in ((degraded, "psnr_input"), (restored, "psnr")):
        psnr = -10 * np.log10(((picture - clean) ** 2).mean())
        assert psnr == pytest.approx(scores[key], abs=0.05)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run(bmo, tiny, trained, tmp_path):
    assert bmo("train", *tiny, "hydra.run.dir=again").returncode == 0
    assert bmo("train", *tiny, "hydra.run.dir=other", "seed=1").returncode == 0
    again, other = tmp_path / "again", tmp_path / "other"
    assert history(again) == history(trained)
    assert same(weights(again), weights(trained))
    assert result(again)["images"].keys() == result(trained)["images"].keys()
    assert result(again)["metrics"]["test/psnr"] == result(trained)["metrics"]["test/psnr"]
    assert history(other) != history(trained)
    assert result(other)["metrics"]["test/psnr_input"] == pytest.approx(
        result(trained)["metrics"]["test/psnr_input"]
    )


@pytest.mark.slow
def test_options_change_what_they_claim(bmo, tiny, trained, tmp_path):
    """Each of these must lead to other weights than the default does."""
    changes = ["hyper.mu=0.5", "train.clip=1e-4", "train.schedule=linear", "gkm.alpha=0.5"]
    for i, change in enumerate(changes):
        assert bmo("train", *tiny, change, f"hydra.run.dir=c{i}").returncode == 0
        assert not same(weights(tmp_path / f"c{i}"), weights(trained)), change


PAIRS = [(hyper, "prox") for hyper in choices()["hyper"]] + [("bmo", "pg")]


@pytest.mark.slow
@pytest.mark.parametrize(("hyper", "gkm"), PAIRS)
def test_every_scheme_trains_with_every_hyper_optimiser(bmo, tiny, tmp_path, hyper, gkm):
    done = bmo("train", *tiny, f"hyper={hyper}", f"gkm={gkm}", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    found = result(tmp_path / "run")
    assert (found["hyper"], found["gkm"]) == (hyper, gkm)


@pytest.mark.slow
def test_colour_and_lip(bmo, tiny, tmp_path):
    done = bmo("train", *tiny, "net=lip", "data.channels=3", "hydra.run.dir=run", "net.size=3")
    assert done.returncode == 0, done.stderr
    done = bmo("train", *tiny, "data.channels=3", "net.channels=1", "hydra.run.dir=by_channel")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_runs_of_one_second_have_their_own_folders(tiny, tmp_path):
    words = [sys.executable, "-m", "bmo_cli", "train", *tiny, "hydra.run.dir=run"]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    jobs = [
        subprocess.Popen(
            words, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=one_thread
        )
        for _ in range(2)
    ]
    for job in jobs:
        _, errors = job.communicate(timeout=300)
        assert job.returncode == 0, errors
    for i in range(2):
        name = f"run_{i}" if i else "run"
        assert result(tmp_path / name)["status"] == "ok"


@pytest.mark.slow
def test_sweep(bmo, tiny, tmp_path):
    done = bmo("train", "-m", *tiny, "seed=0,1", "hydra.sweep.dir=sweep")
    assert done.returncode == 0, done.stderr
    assert [result(tmp_path / "sweep" / str(i))["seed"] for i in (0, 1)] == [0, 1]


@pytest.mark.slow
def test_a_job_that_fails_does_not_stop_the_sweep(bmo, tiny, tmp_path):
    done = bmo("train", "-m", *tiny, "data.crop=99,24", "hydra.sweep.dir=sweep")
    assert done.returncode == 1
    first, second = (result(tmp_path / "sweep" / str(i)) for i in (0, 1))
    assert first["status"] == "failed"
    assert "data.crop" in first["message"]
    assert "Traceback" in (tmp_path / "sweep" / "0" / "run.log").read_text()
    assert second["status"] == "ok"


def wait_for_steps(folder):
    for _ in range(600):
        time.sleep(0.1)
        if (folder / "checkpoints" / "last.safetensors").exists() and len(history(folder)) > 4:
            return
    raise AssertionError("the run did not get going")


INTERRUPTS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)]


def interrupted(tiny, tmp_path, number):
    ahead = ["data.cache_mib=1e-6", "data.workers=2"]
    words = [*tiny, *ahead, "train.steps=100000", "train.validate_every=3", "hydra.run.dir=run"]
    job = subprocess.Popen(
        [sys.executable, "-m", "bmo_cli", "train", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_steps(tmp_path / "run")
    job.send_signal(number)
    _, errors = job.communicate(timeout=60)
    return job.returncode, errors


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), INTERRUPTS)
def test_interrupted_run_is_saved_and_says_how_to_go_on(tiny, tmp_path, number, code):
    returned, errors = interrupted(tiny, tmp_path, number)
    assert returned == code, errors
    assert errors.count("\n") == 1
    assert "bmo train resume=" in errors
    found = result(tmp_path / "run")
    assert found["status"] == "interrupted"
    assert found["metrics"] == {}
    assert found["task"] == "deconv"
    assert found["steps"] > 4
    assert not (tmp_path / "run" / "images").exists()


@pytest.mark.slow
def test_resumed_run_equals_the_uninterrupted_one(bmo, tiny, tmp_path):
    steps = ["train.steps=6", "train.schedule=constant"]
    assert bmo("train", *tiny, *steps, "hydra.run.dir=whole").returncode == 0
    first = ["train.steps=3", "train.schedule=constant", "hydra.run.dir=parts"]
    assert bmo("train", *tiny, *first).returncode == 0
    done = bmo("train", "resume=parts", "train.steps=6")
    assert done.returncode == 0, done.stderr
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert same(weights(whole), weights(parts))
    assert [row["step"] for row in history(parts)] == [str(i) for i in range(1, 7)]
    assert [row["loss"] for row in history(whole)] == [row["loss"] for row in history(parts)]
    assert result(parts)["metrics"]["test/psnr"] == result(whole)["metrics"]["test/psnr"]


def test_divergence_keeps_the_last_good_checkpoint(bmo, tiny, tmp_path):
    words = ["train.steps=400", "train.clip=null", "optim=sgd", "optim.lr=1e12"]
    done = bmo("train", *tiny, *words, "hydra.run.dir=run")
    assert done.returncode == 3, done.stderr
    assert done.stderr.count("\n") == 1
    assert "step" in done.stderr
    assert "optim.lr" in done.stderr
    found = result(tmp_path / "run")
    assert found["status"] == "failed"
    assert re.search("non-finite|beyond the range of float32", found["message"])
    assert all(np.isfinite(value).all() for value in weights(tmp_path / "run", "best").values())


@pytest.mark.parametrize(
    ("task", "refused"),
    [
        ({"noise": 9, "test_noise": 2.55}, True),  # task.noise=9, hidden by that of the test
        ({"noise": 9, "test_noise": 9}, False),
        ({"noise": 9, "test_noise": None}, False),
        ({"noise": 2.55, "test_noise": 2.55}, False),
        ({}, False),
    ],
)
def test_a_noise_that_the_test_does_not_have_is_refused(tmp_path, task, refused):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("task: {noise: 2.55, test_noise: 2.55}\n")
    with pytest.raises(InputError, match=r"give task\.test_noise=9") if refused else nullcontext():
        _require_noise_of_the_test(SimpleNamespace(task=task), RunFolder(tmp_path))


@pytest.mark.slow
def test_eval_on_other_noise_data_and_iterations(bmo, trained, photos, tmp_path):
    before = {f: f.stat().st_mtime_ns for f in trained.rglob("*")}
    done = bmo("eval", "run=run", "hydra.run.dir=same")
    assert done.returncode == 0, done.stderr
    assert result(tmp_path / "same")["metrics"]["test/psnr"] == pytest.approx(
        result(trained)["metrics"]["test/psnr"], abs=1e-6
    )
    done = bmo("eval", "run=run", "task.noise=25", "eval.iterations=7", "hydra.run.dir=noisy")
    assert done.returncode == 0, done.stderr
    noisy = result(tmp_path / "noisy")["metrics"]
    assert noisy["test/psnr_input"] < result(trained)["metrics"]["test/psnr_input"] - 0.3
    assert noisy["test/iterations"] == 7
    done = bmo("eval", "run=run", "task.test_noise=25", "eval.iterations=7", "hydra.run.dir=split")
    assert done.returncode == 0, done.stderr
    split = result(tmp_path / "split")["metrics"]
    scores = ("test/psnr_input", "test/psnr", "test/ssim")
    assert [split[key] for key in scores] == [noisy[key] for key in scores]
    done = bmo("eval", "run=run", "data=folder", "data.test=photos/val", "hydra.run.dir=other")
    assert done.returncode == 0, done.stderr
    assert set(result(tmp_path / "other")["images"]) == {"val0.png", "val1.png"}
    assert before == {f: f.stat().st_mtime_ns for f in trained.rglob("*")}


def test_refused_run_removes_no_folder_that_was_there(bmo, tmp_path):
    for name in ("mine", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    words = ["gkm.alpha=3", "hydra.output_subdir=null"]
    assert bmo("train", *words, "hydra.run.dir=mine").returncode == 2
    assert bmo("train", *words, "hydra.run.dir=empty/new/run").returncode == 2
    assert sorted(f.name for f in tmp_path.iterdir()) == ["empty", "mine"]
    assert list((tmp_path / "empty").iterdir()) == []
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "x"


@pytest.mark.slow
def test_refused_resume_leaves_the_run_as_it_was(bmo, trained):
    def content():
        files = [f for f in trained.rglob("*") if f.is_file() and f.name != "run.log"]
        return {f: f.read_bytes() for f in files}

    before = content()
    for word in ("gkm.alpha=3", "net.width=5", "optim=sgd", "data.train=nowhere"):
        done = bmo("train", "resume=run", word)
        assert done.returncode == 2, (word, done.stderr)
        assert content() == before, word
    assert bmo("eval", "run=run", "hydra.run.dir=e").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_failure_in_the_middle_keeps_what_was_trained(tiny, photos, tmp_path, workers):
    words = [*tiny, "data.cache_mib=1e-6", f"data.workers={workers}", "train.steps=100000"]
    job = subprocess.Popen(
        [sys.executable, "-m", "bmo_cli", "train", *words, "hydra.run.dir=run"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_steps(tmp_path / "run")
    (photos / "train" / "train0.png").unlink()
    _, errors = job.communicate(timeout=60)
    assert job.returncode == 2
    assert "no image file" in errors
    assert (tmp_path / "run" / "checkpoints" / "best.safetensors").is_file()
    assert result(tmp_path / "run")["status"] == "failed"
    assert "Traceback" in (tmp_path / "run" / "run.log").read_text()


@pytest.mark.slow
def test_eval_sees_images_that_the_run_was_trained_on(bmo, trained, photos, tmp_path):
    done = bmo("eval", "run=run", f"data.test={photos / 'train'}", "hydra.run.dir=e")
    assert done.returncode == 0
    shared = result(tmp_path / "e")["data"]["shared"]
    assert shared == [f"train{i}.png (train of the run) = train{i}.png (test)" for i in (0, 1)]
    assert "the same image is in two splits" in done.stdout


@pytest.mark.slow
def test_flags_and_sweeps_of_eval(bmo, trained, tmp_path):
    done = bmo("eval", "-m", "run=run", "task.noise=1,5", "hydra.sweep.dir=s")
    assert done.returncode == 0, done.stderr
    low, high = (result(tmp_path / "s" / str(i))["metrics"]["test/psnr_input"] for i in (0, 1))
    assert low > high
    assert "noise: 9" in bmo("eval", "run=run", "--cfg", "job", "task.noise=9").stdout
    done = bmo("eval", "run=run", "~train.clip")
    assert done.returncode == 2


@pytest.mark.slow
def test_pictures_of_odd_shape_or_name(bmo, tiny, photos, tmp_path, rng):
    pixels = rng.integers(0, 256, (40, 7, 1), dtype=np.uint8)
    write_image(photos / "test" / ("a$_$" + "x" * 200 + ".png"), Photograph(pixels))
    done = bmo("train", *tiny, "eval.images=3", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "run" / "images").iterdir())) == 12


@pytest.mark.slow
def test_an_operator_of_ones_own_is_one_file_and_one_yaml(bmo, tiny, tmp_path):
    (tmp_path / "my_operator.py").write_text(
        "from bmo_cli.config.checks import Positive, checked\n"
        "from bmo_cli.gkm.proximal import Resolvent\n\n\n"
        "@checked\n"
        "class Relaxed(Resolvent):\n"
        "    def __init__(self, *, strength: Positive = 1.0) -> None:\n"
        "        super().__init__(gamma=strength)\n"
    )
    (tmp_path / "conf" / "gkm").mkdir(parents=True)
    (tmp_path / "conf" / "gkm" / "mine.yaml").write_text(
        "# an operator of my own\n_target_: bmo_cli.gkm.scheme.GKM\nalpha: 0.5\nnet: ${net}\n"
        "operator:\n  _target_: my_operator.Relaxed\n  strength: 20.0\n"
    )
    words = ["--config-dir", "conf", "gkm=mine", "plugins=[my_operator.py]"]
    script = [Path(sys.executable).with_name("bmo"), "train", *tiny, *words, "hydra.run.dir=run"]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = bmo("eval", "run=run", "plugins=[my_operator.py]", "hydra.run.dir=e")
    assert done.returncode == 0, done.stderr
    assert result(tmp_path / "e")["gkm"] == "mine"
    done = bmo("train", "resume=run", "plugins=[my_operator.py]", "train.steps=5")
    assert done.returncode == 0, done.stderr
    assert result(tmp_path / "run")["gkm"] == "mine"
    done = bmo("eval", "run=run", "hydra.run.dir=f")
    assert done.returncode == 2
    assert "plugins=[my_file.py]" in done.stderr
    assert result(tmp_path / "run")["gkm"] == "mine"
    done = bmo("train", *tiny, *words, "gkm.operator.strength=-1")
    assert done.returncode == 2
    assert "gkm.operator.strength must be finite and > 0, got -1" in done.stderr
    done = bmo("train", *tiny, *words[:-1])
    assert done.returncode == 2
    assert "plugins=[my_file.py]" in done.stderr
    assert not (tmp_path / "outputs").exists()


REFUSED = [
    (["hyper=implicit", "gkm.stages=3"], "use gkm.stages=1"),
    (["hyper=separate", "gkm.stages=2"], "but gkm.stages=2; use gkm.stages=1"),
    (["gkm=lista"], "gkm.operator.rows is taken from 'task.rows', which this configuration"),
    (["gkm=ladmm"], "LADMM needs a problem with a linear relation A u + z = b"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "message"), REFUSED, ids=[" ".join(w) for w, _ in REFUSED])
def test_parts_that_do_not_fit_are_refused(bmo, tiny, tmp_path, words, message):
    done = bmo("train", *tiny, *words, "hydra.run.dir=run")
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_unmet_tolerance_is_flagged_and_its_values_are_kept(bmo, trained, tmp_path):
    plain = ["eval", "run=run", "eval.iterations=3"]
    assert bmo(*plain, "hydra.run.dir=plain").returncode == 0
    done = bmo(*plain, "eval.tolerance=1e-12", "hydra.run.dir=strict")
    assert done.returncode == 0, done.stderr
    flag = "eval.tolerance=1e-12 was not reached within eval.iterations=3"
    assert f"{flag} on 2 of 2 cases" in done.stdout
    strict = result(tmp_path / "strict")
    assert strict["status"] == "ok"
    assert strict["flags"] == {flag: 2}
    assert result(tmp_path / "plain")["flags"] == {}
    assert strict["metrics"]["test/iterations"] == 3
    for key in ("test/psnr", "test/ssim", "test/residual"):
        assert strict["metrics"][key] == result(tmp_path / "plain")["metrics"][key]
    done = bmo(*plain, "eval.tolerance=0.9", "hydra.run.dir=easy")
    assert done.returncode == 0, done.stderr
    assert "was not reached" not in done.stdout
    easy = result(tmp_path / "easy")
    assert easy["flags"] == {}
    assert easy["metrics"]["test/iterations"] < 3


@pytest.mark.slow
def test_a_run_outlives_the_file_that_its_weights_came_from(bmo, tiny, tmp_path):
    file = tmp_path / "net.safetensors"
    tensors = DnCNN(depth=2, width=4, seed=7).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    done = bmo("train", *tiny, f"net.weights={file}", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert bmo("train", *tiny, "hydra.run.dir=fresh").returncode == 0
    file.unlink()
    done = bmo("eval", "run=run", "hydra.run.dir=e")
    assert done.returncode == 0, done.stderr
    expected = result(tmp_path / "run")["metrics"]["test/psnr"]
    assert result(tmp_path / "e")["metrics"]["test/psnr"] == pytest.approx(expected, abs=1e-6)
    assert result(tmp_path / "fresh")["metrics"]["test/psnr"] != pytest.approx(expected, abs=1e-6)
    done = bmo("train", "resume=run", "train.steps=5")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_notes_say_what_the_theory_lacks(bmo, tiny, trained, tmp_path):
    expected = "bmo converges for a nonexpansive D, but DnCNN is unconstrained"
    found = result(trained)
    assert (found["notes"], found["nonexpansive"]) == ([expected], False)
    words = [word for word in tiny if word != "net.depth=2"]
    done = bmo("train", *words, "net=lip", "net.depth=1", "hydra.run.dir=lip")
    assert done.returncode == 0, done.stderr
    found = result(tmp_path / "lip")
    assert (found["notes"], found["nonexpansive"]) == ([], True)
    assert "bmo converges" not in done.stdout


@pytest.mark.slow
def test_evaluations_and_products_are_counted(bmo, tiny, tmp_path):
    """4 iterations, so that the measurement of memory before training runs some as well."""
    words = ["hyper=unrolled", "train.steps=3", "train.iterations=4", "hydra.run.dir=run"]
    done = bmo("train", *tiny, *words)
    assert done.returncode == 0, done.stderr
    found = result(tmp_path / "run")
    assert (found["steps"], found["evaluations"], found["products"]) == (3, 12, 12)
    done = bmo("train", "resume=run", "train.steps=5")
    assert done.returncode == 0, done.stderr
    found = result(tmp_path / "run")
    assert (found["steps"], found["evaluations"], found["products"]) == (5, 20, 20)


@pytest.mark.slow
def test_evaluation_crop_curve_and_penalty(bmo, tiny, trained, tmp_path):
    words = ("train", *tiny, "train.penalty=1e-3", "data.eval_crop=20", "eval.score_at=[2,1]")
    done = bmo(*words, "eval.images=1", "hydra.run.dir=penalised")
    assert done.returncode == 0, done.stderr
    found, plain = result(tmp_path / "penalised"), result(trained)
    metrics = found["metrics"]
    assert metrics["test/psnr@2"] == pytest.approx(metrics["test/psnr"], abs=1e-9)
    assert metrics["test/psnr@1"] != metrics["test/psnr"]
    assert metrics["test/psnr_input"] != plain["metrics"]["test/psnr_input"]
    picture = next((tmp_path / "penalised" / "images").glob("*_clean.png"))
    assert read_image(picture).pixels.shape[:2] == (20, 20)
    done = bmo("train", *tiny, "data.eval_crop=5")
    assert done.returncode == 2 and "data.eval_crop=5 is smaller than the kernel" in done.stderr
    done = bmo("train", "task=toy", "debug=tiny", "train.penalty=1")
    assert done.returncode == 2 and "train.penalty is about a network" in done.stderr


@pytest.mark.slow
def test_a_guided_run_restores_and_other_tasks_refuse_the_network(bmo, tiny, tmp_path):
    words = [word for word in tiny if "net." not in word]
    small = ("net=guided", "net.widths=[3,3,3]")
    done = bmo("train", *words, *small, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    images = tmp_path / "photos" / "test"
    photo = next(images.iterdir())
    np.save(tmp_path / "kernel.npy", np.ones((3, 3)) / 9)
    done = bmo("restore", "run=run", f"input={photo}", "kernel=kernel.npy", "output=out.png")
    assert done.returncode == 0, done.stderr
    assert read_image(tmp_path / "out.png").pixels.shape == read_image(photo).pixels.shape
    done = bmo("train", *words, *small, "hyper=separate")
    assert done.returncode == 2 and "looks at the observation" in done.stderr


JUMPING = """
import time
from bmo_cli.hyper.aggregation import Unrolled

now = time.time

class Jumping(Unrolled):
    def objective(self, scheme, sample, iterations):
        time.time = lambda: now() - 3600
        return super().objective(scheme, sample, iterations)
"""


@pytest.mark.slow
def test_a_clock_that_jumps_back_changes_no_duration(bmo, tiny, tmp_path):
    (tmp_path / "jumping.py").write_text(JUMPING)
    own = ["hyper=unrolled", "hyper._target_=jumping.Jumping", "plugins=[jumping.py]"]
    words = [*tiny, *own, "train.steps=6", "train.log_every=1"]
    done = bmo("train", *words, "train.max_minutes=5", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    seconds = [row["seconds"] for row in RunFolder(tmp_path / "run").read_history()]
    assert len(seconds) == 6 and seconds[0] > 0 and seconds == sorted(seconds)
    assert 0 < result(tmp_path / "run")["train_seconds"] < 300
    (tmp_path / "run" / "result.json").touch()
    future = time.time() + 3600
    os.utime(tmp_path / "run" / "result.json", (future, future))
    assert bmo("runs", ".").stdout.rstrip().endswith("  0 s")
