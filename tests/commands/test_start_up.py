"""Runs that were killed while they started: they know what they are, or say what to do."""

import json
import logging
import os
import shutil

import pytest
import yaml
from conftest import result
from hydra import compose, initialize_config_dir
from run_content import history, same, weights
from safetensors.torch import save_file

from bmo_cli.commands import launch
from bmo_cli.commands.invocation import Invocation
from bmo_cli.config.locate import config_dir
from bmo_cli.config.names import read_recorded_choices
from bmo_cli.config.snapshot import apply_changes, read_snapshot, require_weights
from bmo_cli.errors import InputError
from bmo_cli.nets.dncnn import DnCNN
from bmo_cli.results.runs import EMPTY, find_runs, list_runs

NAMES = {"task": "deconv", "method": None, "gkm": "prox", "net": "dncnn", "hyper": "bmo"}
LATER = ("checkpoints", "images", "history.csv", "curves.png", "result.json")


def killed(run, *without):
    """The run as it was when it had not written these yet, beside all that comes later."""
    for name in (*LATER, *without):
        entry = run / name
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    return run


def begun(run):
    """As `killed`, after the first result.json and before the first checkpoint."""
    found = result(run)
    killed(run)
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "best.safetensors").write_bytes(b"half")
    kept = {key: found[key] for key in (*NAMES, "seed", "metric", "code")}
    content = {"status": "running", "message": "", "metrics": {}, **kept, "steps": 0}
    (run / "result.json").write_text(json.dumps(content))


def rewrite(file, change):
    content = yaml.safe_load(file.read_text())
    change(content)
    file.write_text(yaml.safe_dump(content))


MOMENTS = {
    "before result.json": killed,
    "before hydra.yaml, as a cell of a table": lambda run: killed(run, ".hydra/hydra.yaml"),
    "before the first checkpoint": begun,
    "hydra.yaml of a stranger": lambda run: rewrite(
        killed(run) / ".hydra" / "hydra.yaml",
        lambda content: content["hydra"]["runtime"]["choices"].update(task="x\ntouch evil"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_it_goes_on_as_what_it_is(bmo, trained_once, trained, moment):
    MOMENTS[moment](trained)
    done = bmo("train", "resume=run")
    assert done.returncode == 0, done.stderr
    found = result(trained)
    assert {key: found[key] for key in NAMES} == NAMES
    assert found["status"] == "ok" and found["steps"] == 4
    assert "deconv: bmo, prox + dncnn" in done.stdout
    assert history(trained) == history(trained_once)
    assert same(weights(trained), weights(trained_once))
    done = bmo("compare", "run")
    assert done.returncode == 0 and "of 1 run," in done.stdout


@pytest.mark.slow
def test_other_choices_and_overlays_are_remembered(bmo, tiny, tmp_path):
    words = [word for word in tiny if not word.startswith(("net", "hyper"))]
    done = bmo("train", *words, "method=tv", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    expected = {key: result(tmp_path / "run")[key] for key in NAMES}
    assert expected["method"] == "tv" and expected["net"] == "none"
    for more in ((), (".hydra/hydra.yaml",)):
        killed(tmp_path / "run", *more)
        done = bmo("train", "resume=run")
        assert done.returncode == 0, done.stderr
        assert {key: result(tmp_path / "run")[key] for key in NAMES} == expected


@pytest.mark.slow
def test_a_result_that_lost_its_names_is_mended(bmo, trained):
    """As an earlier version left it."""
    found = result(trained) | dict.fromkeys(NAMES)
    (trained / "result.json").write_text(json.dumps(found))
    done = bmo("train", "resume=run", "train.steps=5")
    assert done.returncode == 0, done.stderr
    assert {key: result(trained)[key] for key in NAMES} == NAMES


EARLY = {
    "an empty folder": lambda run: [shutil.rmtree(run), run.mkdir()],
    "a log": lambda run: [shutil.rmtree(run), run.mkdir(), (run / "run.log").touch()],
    "config.yaml alone": lambda run: killed(run, ".hydra/hydra.yaml", ".hydra/overrides.yaml"),
    "before overrides.yaml": lambda run: killed(run, ".hydra/overrides.yaml"),
    "half of overrides.yaml": lambda run: (killed(run) / ".hydra" / "overrides.yaml").write_text(
        "- debug=tiny\n- data=folder\n- dev"
    ),
}


@pytest.mark.parametrize("moment", EARLY)
def test_before_its_configuration_is_whole_one_line_says_what_to_do(bmo, trained, moment):
    EARLY[moment](trained)
    before = {file: file.read_bytes() for file in trained.rglob("*") if file.is_file()}
    done = bmo("train", "resume=run")
    assert done.returncode == 2
    assert "give the command that started it once more" in done.stderr
    assert done.stderr.count("\n") == 1
    assert {f: f.read_bytes() for f in trained.rglob("*") if f.is_file()} == before


@pytest.mark.slow
def test_an_emptied_file_is_one_line(bmo, trained):
    """As a power failure leaves it."""
    for name in ("config.yaml", "overrides.yaml"):
        kept = (trained / ".hydra" / name).read_bytes()
        (trained / ".hydra" / name).write_bytes(b"")
        done = bmo("train", "resume=run", "train.steps=5")
        assert done.returncode == 2 and "is damaged: expected a" in done.stderr
        (trained / ".hydra" / name).write_bytes(kept)


def test_runs_without_a_result_are_listed(trained, monkeypatch):
    monkeypatch.chdir(trained.parent)
    killed(trained)
    config = trained / ".hydra" / "config.yaml"
    os.utime(config)  # a copy is as old as what was copied
    (run,) = find_runs([trained])
    assert run.status == "starting"
    os.utime(config, (0, config.stat().st_mtime - 3600))
    line = list_runs(["run"]).splitlines()[1].split()
    assert line[:6] == ["run", "killed", "deconv", "prox", "dncnn", "bmo"]
    rewrite(trained / ".hydra" / "hydra.yaml", lambda c: c["hydra"]["job"].update(name="eval"))
    assert read_recorded_choices(trained) == {}
    assert find_runs([trained])[0].status == "killed"


def test_a_run_that_was_killed_before_its_configuration_is_listed(bmo, trained):
    """Its folder has no name in it: what it was cannot be said."""
    shutil.rmtree(trained)
    (trained / ".hydra").mkdir(parents=True)
    (run,) = find_runs([trained.parent])
    assert (run.status, run.result) == ("starting", EMPTY)
    os.utime(trained / ".hydra", (0, 0))
    (run,) = find_runs([trained.parent])
    assert run.status == "killed" and "once more" in run.message
    line = bmo("runs", ".").stdout.splitlines()[1].split()
    assert line[:2] == ["run", "killed"]
    done = bmo("compare", ".")
    assert (
        done.returncode == 2 and "without a record of what was chosen: 1 run (run)" in done.stderr
    )


@pytest.fixture
def kept_logging():
    """Hydra configures the log of this process, which other tests look at."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_folder_is_known_as_a_run_from_its_first_instant(monkeypatch, tmp_path, kept_logging):
    monkeypatch.chdir(tmp_path)
    seen = []

    def look(**_):
        seen.extend(run.name for run in find_runs([tmp_path]))
        raise InputError("enough")

    monkeypatch.setattr(launch, "run_job", look)
    with pytest.raises(InputError, match="enough"):
        launch.launch(Invocation("train", ("hydra.run.dir=run",), ()), "", "")
    assert seen == ["run"]
    assert not (tmp_path / "run").exists()  # refused, so that nothing is left of it


@pytest.mark.slow
def test_initial_weights_are_typed_again_where_no_checkpoint_has_them(bmo, tiny, tmp_path):
    file, run = tmp_path / "net.safetensors", tmp_path / "run"
    tensors = DnCNN(depth=2, width=4, seed=7).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    done = bmo("train", *tiny, f"net.weights={file}", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    whole = weights(run), history(run)
    killed(run)
    done = bmo("train", "resume=run")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"was started with net.weights={file}, and no checkpoint holds" in done.stderr
    assert "type net.weights=FILE again" in done.stderr
    for _ in range(2):
        done = bmo("train", "resume=run", f"net.weights={file}")
        assert done.returncode == 0, done.stderr
        assert same(weights(run), whole[0]) and history(run) == whole[1]
        killed(run)


@pytest.mark.slow
def test_a_run_that_goes_on_still_says_where_its_weights_came_from(bmo, tiny, tmp_path):
    file, run = tmp_path / "net.safetensors", tmp_path / "run"
    tensors = DnCNN(depth=2, width=4, seed=7).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    done = bmo("train", *tiny, f"net.weights={file}", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    file.unlink()
    done = bmo("train", "resume=run", "train.steps=5")
    assert done.returncode == 0, done.stderr
    recorded = yaml.safe_load((run / ".hydra" / "config.yaml").read_text())
    assert recorded["net"]["weights"] == str(file) and recorded["train"]["steps"] == 5


def test_typed_weights_of_a_nested_network_are_taken(bmo, trained):
    words = ["task=derain", "net=layers", "net@net.background=dncnn"]
    composed = bmo("train", *words, "net.background.weights=b.pth", "--cfg", "job").stdout
    (trained / ".hydra" / "config.yaml").write_text(composed)
    (trained / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(words))
    shown = bmo("train", "resume=run", "net.background.weights=a.pth", "--cfg", "job")
    assert "weights: a.pth" in shown.stdout, shown.stderr
    found = read_snapshot(trained)
    assert found["net"]["background"]["weights"] is None
    require_weights(trained, {"net": {"background": {"weights": "a.pth"}}})
    require_weights(trained, {"net": {"width": 4}})  # another network was typed
    with pytest.raises(InputError, match=r"type net\.background\.weights=FILE again"):
        require_weights(trained, found)


def test_typed_weights_are_taken_and_those_of_a_yaml_of_ones_own(trained):
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        composed = compose("eval", ["run=run", "net=dncnn", "net.weights=a.pth"])
    file = trained / ".hydra" / "config.yaml"
    rewrite(file, lambda content: content["net"].update(weights="b.pth"))
    for typed, expected in (([], None), (["net.weights=a.pth"], "a.pth"), (["net=dncnn"], "a.pth")):
        assert apply_changes(trained, composed, typed).net.weights == expected
