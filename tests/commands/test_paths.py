"""One rule for every key that holds a path: of any script and length, `~` is the home folder."""

import shutil

import numpy as np
import pytest
import yaml
from conftest import SMALL_NET, TINY, make_photos, result
from run_content import same, weights
from safetensors.torch import save_file

from bmo_cli.config.commands import quote_if_needed
from bmo_cli.config.paths import PATHS, expand_home, expand_paths, is_path
from bmo_cli.errors import InputError
from bmo_cli.nets.dncnn import DnCNN

PLACE = "ordner ü 書"


def test_every_path_is_opened_and_nothing_else(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = {
        "run": "~/a",
        "resume": None,
        "data": {"train": "~", "test": "b/~", "crop": 3, "_target_": "~/x"},
        "task": {"kernels": "~/k.npy", "kernel": "~/no"},
        "net": {"background": {"weights": "~nobody-of-this-name/w"}},
        "plugins": ["~/own.py", "module"],
        "table": {"title": "~/t"},
    }
    assert expand_paths(config) == {
        "run": "/home/me/a",
        "resume": None,
        "data": {"train": "/home/me", "test": "b/~", "crop": 3, "_target_": "~/x"},
        "task": {"kernels": "/home/me/k.npy", "kernel": "~/no"},
        "net": {"background": {"weights": "~nobody-of-this-name/w"}},
        "plugins": ["/home/me/own.py", "module"],
        "table": {"title": "~/t"},
    }
    assert config["run"] == "~/a"
    assert expand_home("~/ü") == "/home/me/ü" and is_path("gkm.net.weights") and not is_path("net")


@pytest.mark.parametrize("key", [key for key in PATHS if not key.startswith("hydra")])
def test_an_empty_path_is_refused(key):
    section, _, name = key.rpartition(".")
    with pytest.raises(InputError, match=f"{key} is empty; expected a path"):
        expand_paths({section: {name: ""}} if section else {name: ""})
    with pytest.raises(InputError, match=r"plugins\.1 is empty"):
        expand_paths({"plugins": ["a", ""]})


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder below home with photographs, a kernel, weights and a plug-in."""
    folder = tmp_path / "home" / PLACE
    folder.mkdir(parents=True)
    make_photos(folder / "photos")
    np.save(folder / "kernel.npy", np.ones((3, 3)) / 9)
    tensors = DnCNN(depth=2, width=4, seed=7).state_dict()
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "w.safetensors")
    (folder / "own.py").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return folder


def placed(root):
    data = [f"data.{split}={root}/photos/{split}" for split in ("train", "val", "test")]
    more = [f"task.kernels={root}/kernel.npy", f"net.weights={root}/w.safetensors"]
    return [*TINY, *SMALL_NET, *data, *more, f"plugins=[{quote_if_needed(f'{root}/own.py')}]"]


@pytest.mark.slow
def test_home_and_relative_paths_of_any_script_lead_to_the_same_run(bmo, home, tmp_path):
    tilde = f"~/{PLACE}"
    assert bmo("train", *placed(tilde), f"hydra.run.dir={tilde}/run").returncode == 0
    relative = f"home/{PLACE}"
    done = bmo("train", *placed(relative), f"hydra.run.dir={relative}/again")
    assert done.returncode == 0, done.stderr
    assert same(weights(home / "run"), weights(home / "again"))
    assert not (tmp_path / "~").exists()
    done = bmo("train", f"resume={tilde}/run", "train.steps=5", f"plugins=['{tilde}/own.py']")
    assert done.returncode == 0, done.stderr
    photo = f"{tilde}/photos/test/test0.png"
    words = [f"input={photo}", f"kernel={tilde}/kernel.npy", f"output={tilde}/out é.png"]
    done = bmo("restore", f"run={tilde}/run", *words)
    assert done.returncode == 0, done.stderr
    assert (home / "out é.png").is_file()
    for words in (["eval", f"run={tilde}/run"], ["certify", f"run={tilde}/again"]):
        done = bmo(*words, f"hydra.run.dir={tilde}/{words[0]}")
        assert done.returncode == 0, done.stderr
        assert (home / words[0] / "result.json").is_file()
    for command in ("runs", "compare", "report"):
        done = bmo(command, f"{tilde}/run")
        assert done.returncode == 0, done.stderr
    assert (home / "run" / "report.html").is_file()
    done = bmo("report", f"{tilde}/run", f"output={tilde}/r.html")
    assert done.returncode == 0 and (home / "r.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_jobs_of_a_sweep_read_the_same_paths(bmo, home, jobs):
    words = [*placed(f"~/{PLACE}"), "seed=0,1", f"jobs={jobs}", f"hydra.sweep.dir=~/{PLACE}/s"]
    done = bmo("train", "-m", *words)
    assert done.returncode == 0, done.stderr
    assert [result(home / "s" / str(i))["status"] for i in (0, 1)] == ["ok", "ok"]
    done = bmo("train", f"resume=~/{PLACE}/s", f"plugins=['~/{PLACE}/own.py']")
    assert done.returncode == 0 and done.stdout.count("done before: ") == 2, done.stderr


@pytest.mark.slow
def test_cells_of_a_table_read_the_same_paths(bmo, home, tmp_path):
    table = {
        "title": "T",
        "common": placed(f"~/{PLACE}")[:-1],
        "rows": {"bmo": ["hyper=bmo"]},
        "columns": {"all": []},
        "scores": {"test/psnr": ".2f"},
        "seeds": [0],
    }
    (tmp_path / "conf" / "table").mkdir(parents=True)
    (tmp_path / "conf" / "table" / "t.yaml").write_text(yaml.safe_dump(table, allow_unicode=True))
    words = ["--config-dir=conf", f"plugins=['~/{PLACE}/own.py']", f"out=~/{PLACE}/t", "jobs=2"]
    done = bmo("table", "t", *words)
    assert done.returncode == 0, done.stderr
    assert (home / "t" / "t.md").is_file()


@pytest.mark.slow
def test_data_and_kernels_may_move_before_a_certificate(bmo, home, tmp_path):
    done = bmo("train", *placed(f"~/{PLACE}"), "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    shutil.move(home, tmp_path / "moved")
    own = "plugins=[moved/own.py]"
    done = bmo("certify", "run=run", own, "hydra.run.dir=c")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    words = ["data.val=moved/photos/val", "task.kernels=moved/kernel.npy", "data.workers=1"]
    done = bmo("certify", "run=run", own, *words, "hydra.run.dir=c")
    assert done.returncode == 0, done.stderr
    done = bmo("certify", "run=run", own, *words, "task.noise=3", "hydra.run.dir=d")
    assert done.returncode == 2 and "'task.noise=3' would change the run" in done.stderr


LONG = "x" * 300
TOO_LONG = [
    *(["train", "data=folder", f"data.train={LONG}"], ["train", f"task.kernels={LONG}.npy"]),
    *(["train", f"net.weights={LONG}.pth"], ["train", f"plugins=[{LONG}.py]"]),
    *(["train", f"hydra.run.dir={LONG}"], ["train", "-m", f"hydra.sweep.dir={LONG}", "seed=0,1"]),
    *(["train", f"resume={LONG}"], ["eval", f"run={LONG}"], ["table", "toy", f"out={LONG}"]),
    *(["train", f"--config-dir={LONG}"], ["train", f"net={LONG}"], ["runs", LONG]),
    *(
        ["train", f"hydra.run.dir={'/'.join(['y' * 200] * 30)}"],
        ["compare", LONG],
        ["report", LONG],
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("words", TOO_LONG, ids=lambda w: " ".join(w)[:30])
def test_a_name_that_is_too_long_is_one_line(bmo, tmp_path, words):
    done = bmo(*words)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "internal error" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["train", "hydra.run.dir="], ["report", "output="]])
def test_an_empty_place_for_results_is_one_line(bmo, trained, tmp_path, words):
    done = bmo(*words)
    assert done.returncode == 2 and "is empty" in done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
def test_folders_of_runs_with_names_that_look_like_something_else(bmo, trained, tmp_path):
    for name in ("a=b", "-x", "status=failed", "~x", "task=deconv,toy"):
        shutil.copytree(trained, tmp_path / name)
        for command in ("runs", "compare", "report"):
            done = bmo(command, name)
            assert done.returncode == 0, done.stderr
        assert (tmp_path / name / "report.html").is_file()
    assert bmo("runs", "./a=b").returncode == 0
    for name, said in (
        ("./c=d", "no folder ./c=d"),
        ("c=d", "no column 'c'"),
        ("-y", "bmo runs has no -y"),
        ("statos=ok", "did you mean 'status'?"),
    ):
        done = bmo("runs", name)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
