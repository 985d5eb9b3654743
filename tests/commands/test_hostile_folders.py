"""Run folders that are damaged or come from a stranger: refused in one line, and nothing runs."""

import itertools
import json
import os

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir

from bmo_cli.config.locate import config_dir
from bmo_cli.config.snapshot import apply_changes


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), "no checkpoint"),
        (lambda file: file.write_bytes(file.read_bytes()[:200]), "truncated or damaged"),
        (lambda file: file.write_bytes(b""), "truncated or damaged"),
    ],
)
def test_unusable_checkpoints(bmo, trained, damage, message):
    damage(trained / "checkpoints" / "best.safetensors")
    done = bmo("eval", "run=run")
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_checkpoint_of_another_network(bmo, trained):
    done = bmo("eval", "run=run", "net.width=5")
    assert done.returncode == 2
    assert "is of another network" in done.stderr


HOSTILE_TARGETS = [
    ("hyper", {"_target_": "os.system", "command": "touch touched"}),
    ("hyper", {"_target_": "builtins.exec", "source": "open('touched', 'w')"}),
    ("hyper", {"_target_": "pathlib.Path.touch"}),
    ("hyper", {"_target_": "bmo_cli.experiment.build.load_plugins", "plugins": ["evil.py"]}),
    ("data", {"_target_": "bmo_cli.experiment.build.instantiate", "plugins": ["evil"]}),
    ("data", {"_target_": "bmo_cli.data.images.file.write_image", "file": "touched"}),
    ("optim", {"_target_": "torch.optim.lr_scheduler.os.system", "lr": 1}),
    ("net", {"_target_": "evil.Evil"}),
    ("plugins", ["evil.py"]),
]


@pytest.mark.parametrize(("key", "value"), HOSTILE_TARGETS)
def test_hostile_snapshot_runs_nothing(bmo, trained, tmp_path, key, value):
    (tmp_path / "evil.py").write_text("open('touched', 'w')\n")
    snapshot = trained / ".hydra" / "config.yaml"
    content = yaml.safe_load(snapshot.read_text()) | {key: value}
    if key == "net":
        content["gkm"]["net"] = value
    snapshot.write_text(yaml.safe_dump(content))
    done = bmo("eval", "run=run", "hydra.run.dir=e")
    never_built = key in ("plugins", "optim")  # by eval
    assert done.returncode == (0 if never_built else 2), done.stderr
    assert done.stderr.count("\n") <= 1, done.stderr
    assert not (tmp_path / "touched").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "--experimental-rerun=run/config.pickle",
        "--config-dir=run/evil",
        "plugins=[evil.py]",
        "hydra.callbacks.evil._target_=bmo_cli.experiment.build.load_plugins",
        "+hydra/callbacks=evil",
        "overwrite=true",
        "experiment=../../evil",
    ],
)
def test_hostile_overrides_are_not_typed_again(bmo, trained, tmp_path, line):
    (tmp_path / "evil.py").write_text("open('touched', 'w')\n")
    (trained / "config.pickle").write_bytes(b"cos\nsystem\n(S'touch touched'\ntR.")
    overrides = trained / ".hydra" / "overrides.yaml"
    overrides.write_text(f"- {line}\n" + overrides.read_text())
    done = bmo("eval", "run=run", "hydra.run.dir=e")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "touched").exists()


def test_alias_bomb_is_refused(bmo, trained):
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for before, name in itertools.pairwise("abcdefghij"):
        bomb += f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n"
    (trained / ".hydra" / "config.yaml").write_text(bomb)
    done = bmo("eval", "run=run")
    assert done.returncode == 2
    assert "aliases are not allowed" in done.stderr


def test_run_folder_cannot_ask_for_overwriting(bmo, trained, tmp_path, photos):
    snapshot = trained / ".hydra" / "config.yaml"
    snapshot.write_text(snapshot.read_text() + "overwrite: true\n")
    np.save(tmp_path / "k.npy", np.ones((3, 3)))
    (tmp_path / "precious.png").write_bytes(b"mine")
    image = photos / "test" / "test0.png"
    done = bmo("restore", "run=run", f"input={image}", "kernel=k.npy", "output=precious.png")
    assert done.returncode == 2
    assert (tmp_path / "precious.png").read_bytes() == b"mine"


WAYS_OUT = ("run.log", "curves.png", "history.csv", "checkpoints", "images", ".hydra")


@pytest.mark.parametrize("name", WAYS_OUT)
def test_nothing_is_written_through_a_link_of_a_run_folder(bmo, trained, tmp_path, name):
    own = trained / name
    victim = tmp_path / "victim"
    own.rename(victim)  # of the right kind, so that nothing else is wrong
    own.symlink_to(victim)
    before = {file: file.read_bytes() for file in [victim, *victim.rglob("*")] if file.is_file()}
    done = bmo("train", "resume=run", "train.steps=8")
    assert done.returncode == 2
    assert f"run/{name} is a link out of run" in done.stderr and done.stderr.count("\n") == 1
    assert {f: f.read_bytes() for f in [victim, *victim.rglob("*")] if f.is_file()} == before


def test_a_sweep_does_not_go_on_in_a_run_elsewhere(bmo, trained, tiny, tmp_path):
    content = {"hydra": {"overrides": {"task": list(tiny), "hydra": []}}}
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    (sweep / "multirun.yaml").write_text(yaml.safe_dump(content))
    (sweep / "0").symlink_to(trained)
    done = bmo("train", "resume=sweep")
    assert done.returncode == 2 and "sweep/0 is a link out of sweep" in done.stderr


def test_a_pipe_is_not_waited_for(bmo, trained):
    snapshot = trained / ".hydra" / "config.yaml"
    snapshot.unlink()
    os.mkfifo(snapshot)
    done = bmo("eval", "run=run", "hydra.run.dir=e")
    assert done.returncode == 2
    assert "config.yaml is no regular file" in done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "${oc.select:train.steps}",
        "${train[steps]}",
        "${oc.decode:'/evil.pth'}",
        "a${oc.create:{}}",
        "${oc.env:X,${oc.env:Y,${oc.select:z}}}",
    ],
)
def test_interpolations_that_call_functions_are_not_read(bmo, trained, text):
    snapshot = trained / ".hydra" / "config.yaml"
    content = yaml.safe_load(snapshot.read_text())
    content["task"]["kernels"] = text
    snapshot.write_text(yaml.safe_dump(content))
    done = bmo("eval", "run=run", "hydra.run.dir=e")
    assert done.returncode == 2
    assert "an interpolation that is not read from a run folder" in done.stderr


@pytest.mark.parametrize("text", ["/evil.pth", "${seed}", "/x/${oc.env:HOME}", "${optim._target_}"])
def test_weights_are_never_those_that_a_folder_names(trained, text):
    snapshot = trained / ".hydra" / "config.yaml"
    content = yaml.safe_load(snapshot.read_text())
    content["net"]["weights"] = text
    snapshot.write_text(yaml.safe_dump(content))
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        merged = apply_changes(trained, compose("eval", ["run=run"]), [])
    assert merged.net.weights is None


@pytest.mark.slow
def test_a_name_from_a_result_is_no_line_of_the_log(bmo, trained):
    file = trained / "result.json"
    content = json.loads(file.read_text())
    content["task"] = "x\ntouch evil #"
    file.write_text(json.dumps(content))
    done = bmo("train", "resume=run", "train.steps=8")
    assert done.returncode == 0, done.stderr
    assert "touch evil" not in (trained / "run.log").read_text()
