"""YAML files of one's own beside those that are shipped: none is ignored without a word."""

import shutil

import pytest

from bmo_cli.config.locate import config_dir
from bmo_cli.config.own_files import config_dirs, require_free_names
from bmo_cli.errors import InputError

SHIPPED = sorted(file.relative_to(config_dir()) for file in config_dir().rglob("*.yaml"))


@pytest.fixture
def mine(tmp_path):
    folder = tmp_path / "my [own], files = 'all' über"
    folder.mkdir()
    return folder


def put(folder, name, text="# mine\n"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize("name", SHIPPED, ids=str)
def test_every_shipped_name_is_taken(mine, name):
    file = put(mine, name)
    with pytest.raises(InputError) as caught:
        require_free_names([f"--config-dir={mine}"])
    chosen = f"{name.parent}={name.stem}" if name.parent.parts else f"{name.stem}.yaml"
    said = str(caught.value)
    assert str(file) in said and chosen in said and "is taken by a file that bmo ships" in said
    shutil.copy(config_dir() / name, file)  # of equal content: it makes no difference
    require_free_names([f"--config-dir={mine}"])


def test_names_of_hydra_s_own_are_taken(mine):
    put(mine, "hydra/job_logging/default.yaml")
    with pytest.raises(InputError, match="hydra/job_logging=default is taken"):
        require_free_names(["-cd", str(mine)])


def test_free_names_are_free(mine):
    for name in ("net/own.yaml", "nets/lip.yaml", "lip.yaml", "table/own.yaml"):
        put(mine, name)
    require_free_names(["--config-dir", str(mine), "--config-dir", f"{mine}/../{mine.name}"])


def test_two_folders_are_one_too_many_and_their_names_are_their_own(mine, tmp_path):
    with pytest.raises(InputError, match="--config-dir is given twice"):
        require_free_names(["--config-dir", str(mine), f"--config-dir={tmp_path}"])
    with pytest.raises(InputError, match="there is no such folder"):
        require_free_names([f"--config-dir={mine / 'nowhere'}"])
    other = tmp_path / "other"
    search = [f"hydra.searchpath=[file://{other}]"]
    put(other, "net/own.yaml", "# other\n")
    put(mine, "net/own.yaml")
    with pytest.raises(InputError, match=r"net=own is taken by a file that .*/other has"):
        require_free_names([f"--config-dir={mine}", *search])
    put(mine, "net/own.yaml", "# other\n")
    require_free_names([f"--config-dir={mine}", *search])
    put(other, "net/lip.yaml")
    with pytest.raises(InputError, match="net=lip is taken by a file that bmo ships"):
        require_free_names(search)


def test_folders_are_read_from_any_spelling(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    words = ["-cd", "a b", "x=1", "--config-dir=c=d", "-cd=~/e", "--config-dir", "~/f"]
    assert [str(p) for p in config_dirs(words)] == ["a b", "c=d", "/home/me/e", "/home/me/f"]
    assert config_dirs(["train", "-m", "data.train=--config-dir"]) == ()


COMMANDS = (
    ["train", "net=lip"],
    ["train", "--help"],
    ["train", "--cfg", "job"],
    ["train", "-m", "seed=0,1"],
    ["eval", "run=run"],
    ["certify", "--help"],
    ["restore", "run=run"],
    ["audit", "problem=convex"],
    ["table", "toy", "--dry-run"],
)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_says_that_a_name_is_taken(bmo, mine, tmp_path, words):
    put(mine, "net/lip.yaml")
    done = bmo(words[0], "--config-dir", mine, *words[1:])
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "net/lip.yaml would be ignored: net=lip is taken" in done.stderr
    assert done.stderr.count("\n") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == [mine.name]


@pytest.mark.slow
def test_help_and_use_of_a_folder_with_any_name(bmo, mine):
    put(mine, "optim/slow.yaml", "# my own slow optimiser\n_target_: torch.optim.SGD\nlr: 0.001\n")
    words = ["train", "--config-dir", mine]
    assert "my own slow optimiser" in bmo(*words, "--help").stdout
    assert "lr: 0.001" in bmo(*words, "net=lip", "optim=slow", "--cfg", "job").stdout
    done = bmo("train", "--config-dir")
    assert done.returncode == 2 and "--config-dir is given without a value" in done.stderr
