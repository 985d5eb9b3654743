"""A run goes on, and is certified, with the inputs that it began with; others are named."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import make_photos, result, run_bmo, tiny_words
from PIL import Image
from safetensors.torch import save_file

from bmo_cli.data.kernels import kernels_digest
from bmo_cli.experiment.inputs import hash_weights, list_changed_inputs
from bmo_cli.nets.dncnn import DnCNN

PLUGIN = """
from bmo_cli.nets.convex_potential import ConvexPotential


class Mine(ConvexPotential):
    pass
"""


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run that was interrupted after its training began, with a kernel file and a plug-in."""
    folder = tmp_path_factory.mktemp("inputs")
    make_photos(folder / "photos")
    np.save(folder / "k.npy", np.ones((3, 3)) / 9)
    (folder / "mine.py").write_text(PLUGIN)
    words = [word for word in tiny_words(folder / "photos") if "kernel" not in word]
    words = [word.replace(str(folder) + "/", "") for word in words if "net." not in word]
    done = run_bmo(
        "train", *words, "task.kernels=k.npy", "net=lip", "net._target_=mine.Mine", "net.width=3",
        "net.size=3", "plugins=[mine.py]", "hydra.run.dir=run", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def folder(begun, tmp_path):
    shutil.copytree(begun, tmp_path / "w")
    return tmp_path / "w"


def exchange_kernel(folder):
    np.save(folder / "k.npy", np.eye(5) / 5)


def exchange_photograph(split):
    def exchange(folder):
        pixels = np.random.default_rng(7).integers(0, 256, (40, 36), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / split / f"{split}0.png")

    return exchange


PLUGINS = "plugins=[mine.py]"


@pytest.mark.parametrize(
    ("exchange", "named"),
    [
        (exchange_kernel, "kernel_content"),
        (exchange_photograph("train"), "train"),
        (exchange_photograph("val"), "val"),
        (exchange_photograph("test"), "test"),
    ],
)
def test_resume_refuses_other_inputs(folder, exchange, named):
    before = (folder / "run" / "result.json").read_bytes()
    exchange(folder)
    done = run_bmo("train", "resume=run", "train.steps=6", PLUGINS, cwd=folder)
    assert done.returncode == 2
    assert f"began with other inputs than are found now ({named})" in done.stderr
    assert done.stderr.count("\n") == 1
    assert (folder / "run" / "result.json").read_bytes() == before


@pytest.mark.parametrize(
    ("exchange", "named"),
    [(exchange_kernel, "kernel_content"), (exchange_photograph("val"), "val")],
)
def test_certify_refuses_other_inputs(folder, exchange, named):
    exchange(folder)
    done = run_bmo("certify", "run=run", PLUGINS, cwd=folder)
    assert done.returncode == 2
    assert f"trained with other data ({named})" in done.stderr


@pytest.mark.slow
def test_equal_inputs_elsewhere_are_the_same(folder):
    (folder / "photos").rename(folder / "moved")
    (folder / "k.npy").rename(folder / "kernel.npy")
    where = [f"data.{split}=moved/{split}" for split in ("train", "val", "test")]
    done = run_bmo(
        "train", "resume=run", "train.steps=6", PLUGINS, *where, "task.kernels=kernel.npy",
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert result(folder / "run")["steps"] == 6


@pytest.mark.slow
def test_a_run_with_a_changed_plugin_neither_goes_on_nor_is_certified(folder):
    (folder / "mine.py").write_text(PLUGIN + "\n# changed\n")
    done = run_bmo("certify", "run=run", PLUGINS, cwd=folder)
    assert done.returncode == 2
    assert "the plug-in mine is not the one" in done.stderr
    done = run_bmo("train", "resume=run", "train.steps=6", PLUGINS, cwd=folder)
    assert done.returncode == 2
    assert "began with other inputs than are found now (plug-in mine)" in done.stderr


def test_what_a_run_was_made_from_is_written_when_it_begins(folder):
    data = result(folder / "run")["data"]
    assert data["kernels"] == ["k"]
    assert data["kernel_content"] == kernels_digest({"k": np.ones((3, 3)) / 9})
    assert set(result(folder / "run")["plugins"]) == {"mine"}
    assert result(folder / "run")["weights"] == {}


def test_digest_of_kernels_is_that_of_their_values():
    box, line = np.ones((3, 3)) / 9, np.eye(3) / 3
    assert kernels_digest({"a": box}) == kernels_digest({"b": box.copy()})
    assert kernels_digest({"a": box}) != kernels_digest({"a": line})
    assert kernels_digest({"a": box}) != kernels_digest({"a": box.reshape(1, 9)})


def test_inputs_that_differ():
    recorded = {"train": {"hash": "a", "images": 2}, "kernels": ["k"], "shared": [], "extra": 1}
    present = {"train": {"hash": "a", "images": 2}, "kernels": ["l"], "shared": ["x"]}
    assert list_changed_inputs(recorded, present) == []
    assert list_changed_inputs(recorded, {**present, "train": {"hash": "b"}}) == ["train"]
    assert list_changed_inputs(recorded, {}, ["train"]) == ["train"]
    assert list_changed_inputs({}, present) == []


def test_initial_weights_are_known_by_content(tmp_path):
    file = tmp_path / "w.pth"
    torch.save({"a": torch.zeros(2)}, file)
    config = {"net": {"weights": str(file), "rain": {"weights": None}}, "weights": 3}
    found = hash_weights(config)
    assert set(found) == {"net.weights"}
    torch.save({"a": torch.ones(2)}, file)
    assert hash_weights(config) != found


def save_weights(file, seed):
    tensors = DnCNN(depth=2, width=4, seed=seed).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


@pytest.mark.slow
def test_exchanged_weights_are_noticed(tmp_path):
    file, words = tmp_path / "w.safetensors", tiny_words(make_photos(tmp_path / "photos"))
    for seed in (7, 8):
        save_weights(file, seed)
        done = run_bmo(
            "train", *words, "net.weights=w.safetensors", f"seed={seed}",
            f"hydra.run.dir=runs/{seed}", cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    digests = {result(tmp_path / "runs" / f"{seed}")["weights"]["net.weights"] for seed in (7, 8)}
    assert len(digests) == 2
    done = run_bmo("compare", "runs", cwd=tmp_path)
    assert done.returncode == 0 and "net.weights=w.safetensors (content 2)" in done.stdout
    resume = ["train", "resume=runs/7", "train.steps=5"]
    done = run_bmo(*resume, "net.weights=w.safetensors", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "began with other inputs than are found now (net.weights" in done.stderr
    done = run_bmo(*resume, cwd=tmp_path)  # the checkpoint has its own
    assert done.returncode == 0, done.stderr
    shutil.rmtree(tmp_path / "runs" / "7" / "checkpoints")
    stopped = result(tmp_path / "runs" / "7") | {"status": "running", "steps": 0}
    (tmp_path / "runs" / "7" / "result.json").write_text(json.dumps(stopped))
    done = run_bmo(*resume, "net.weights=w.safetensors", cwd=tmp_path)
    assert done.returncode == 2 and "found now (net.weights" in done.stderr
    for command, more in (("eval", []), ("restore", ["input=a.png", "output=b.png"])):
        given = [*more, "net.weights=w.safetensors"]
        done = run_bmo(command, "run=runs/8", *given, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert "would change nothing: a run has the weights of its checkpoint" in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_reports_show_what_certify_found_elsewhere(folder):
    done = run_bmo("certify", "run=run", PLUGINS, "hydra.run.dir=certificate", cwd=folder)
    assert done.returncode == 0, done.stderr
    verdict = json.loads((folder / "certificate" / "certificate.json").read_text())["verdict"]
    assert verdict in ("as declared", "not certified")  # the network is a plug-in
    done = run_bmo("report", "run", "output=alone.html", cwd=folder)
    assert done.returncode == 0 and "no certificate" in (folder / "alone.html").read_text()
    (folder / "run").rename(folder / "renamed")  # the certificate knows it by its hashes
    done = run_bmo("report", "renamed", "certificate", "output=both.html", cwd=folder)
    assert done.returncode == 0, done.stderr
    page = (folder / "both.html").read_text()
    assert "no certificate" not in page and "left out, about" not in page
    assert "What the theory assumes" in page
    other = result(folder / "certificate")
    other["identity"] = {"checkpoint": "0", "config": "0"}
    (folder / "certificate" / "result.json").write_text(json.dumps(other))
    done = run_bmo("report", "renamed", "certificate", "output=other.html", cwd=folder)
    page = (folder / "other.html").read_text()
    assert "no certificate" in page and "left out, about another run" in page


@pytest.mark.slow
def test_a_refused_certificate_is_a_result_about_a_run(folder):
    """It was recorded as a failed training run."""
    (folder / "mine.py").write_text(
        PLUGIN.replace("pass", "def bind(self, guide=None):\n"
                       "        apply = super().bind(guide)\n"
                       "        return lambda x: 1.05 * apply(x)")
    )  # fmt: skip
    content = result(folder / "run")
    del content["plugins"]  # of another file, which certify would refuse
    (folder / "run" / "result.json").write_text(json.dumps(content))
    done = run_bmo("certify", "run=run", PLUGINS, "hydra.run.dir=refused", cwd=folder)
    assert done.returncode == 1 and "the certificate is refused" in done.stderr
    found = result(folder / "refused")
    assert (found["run"], found["certificate"], found["status"]) == ("run", "refused", "failed")
    done = run_bmo("report", "run", "refused", "output=r.html", cwd=folder)
    page = (folder / "r.html").read_text()
    assert "certificate refused" in page and "1 run, 1 finished" in page
