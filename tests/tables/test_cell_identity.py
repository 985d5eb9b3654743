"""Keys of a table's cells: equal for the same experiment, different for another one."""

import shutil
import sys

import numpy as np
import pytest
from hydra import initialize_config_dir

from bmo_cli.config.compose import compose
from bmo_cli.config.keys import TEST_ALONE
from bmo_cli.config.locate import config_dir
from bmo_cli.data.images.file import Photograph, write_image
from bmo_cli.data.named_sets import KERNELS
from bmo_cli.tables.cell import Identity


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv("BMO_DATA", raising=False)


def key(*words, plugins=()):
    with initialize_config_dir(str(config_dir().resolve()), version_base="1.3"):
        return Identity(plugins).key(compose(["task=deconv", *words]).config)


def training_key(*words, plugins=()):
    with initialize_config_dir(str(config_dir().resolve()), version_base="1.3"):
        return Identity(plugins).training_key(compose(["task=deconv", *words]).config)


def write_kernels(file, value):
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **{f"k{n}": np.full((n, n), value) for n in KERNELS["levin"][1]})


@pytest.fixture
def roots(tmp_path):
    """Folders with the same photographs, and kernels that differ in the last of them."""
    rng = np.random.default_rng(0)
    photographs = [Photograph(rng.integers(0, 256, (9, 9, 1), np.uint8)) for _ in range(12)]
    for name in ("a", "same", "other"):
        (tmp_path / name / "set12").mkdir(parents=True)
        for i, photograph in enumerate(photographs):
            write_image(tmp_path / name / "set12" / f"{i}.png", photograph)
        write_kernels(tmp_path / name / "kernels" / "levin09.npz", 2 if name == "other" else 1)
    return tmp_path


def test_images_that_change_their_split_change_the_key(tmp_path):
    for name, letters in (("ab", "ab"), ("c", "c"), ("a", "a"), ("bc", "bc")):
        (tmp_path / name).mkdir()
        for letter in letters:
            pixels = np.full((9, 9, 1), ord(letter), np.uint8)
            write_image(tmp_path / name / f"{letter}.png", Photograph(pixels))

    def of(train, val):
        return key("data=folder", f"data.train={tmp_path / train}", f"data.val={tmp_path / val}")

    assert of("ab", "c") == of("ab", "c")
    assert of("ab", "c") != of("a", "bc")


def test_the_length_of_the_curves_is_not_in_the_key():
    given = ("task=toy", "certify=true")
    assert key(*given, "certificate.curve=7") == key(*given)
    assert key(*given, "certificate.turns=7") != key(*given)


@pytest.mark.slow
def test_content_of_published_kernels_is_in_the_key(roots):
    def of(root, *words):
        given = ("data=set12", "data.train_set=null", f"data.root={roots / root}")
        found, problem = key(*given, *words)
        assert not problem
        return found

    assert of("a", "task.kernels=levin") == of("same", "task.kernels=levin")
    assert of("a", "task.kernels=levin") != of("other", "task.kernels=levin")
    assert of("a", "task.kernels=disk") == of("other", "task.kernels=disk")
    file = roots / "a" / "kernels" / "levin09.npz"
    assert of("a", f"task.kernels={file}") == of("a", "task.kernels=levin")


def test_published_kernels_beside_other_data_are_those_of_the_environment(roots, monkeypatch):
    words = ("data=embedded", "task.kernels=levin")
    assert "needs the folder of the data sets" in key(*words)[1]
    found = []
    for root in ("a", "same", "other"):
        monkeypatch.setenv("BMO_DATA", str(roots / root))
        found.append(key(*words))
    assert found[0] == found[1] != found[2]
    assert found[0][1] == ""


def test_missing_kernels_are_what_is_wrong(roots):
    (roots / "a" / "kernels" / "levin09.npz").unlink()
    words = ("data=set12", "data.train_set=null", f"data.root={roots / 'a'}")
    assert "no file" in key(*words, "task.kernels=levin")[1]
    assert key(*words, "task.kernels=motion")[1] == ""


def test_tasks_without_kernels_have_keys():
    assert key("task=toy")[1] == key("task=derain")[1] == ""


@pytest.mark.slow
def test_content_of_plugin_modules_is_in_the_key(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "plugged_package"
    package.mkdir()
    files = [tmp_path / "plugged_module.py", package / "__init__.py", package / "part.py"]
    for file in files:
        file.write_text("VALUE = 1\n")
    plugins = ["plugged_module", "plugged_package"]
    try:
        before = key(plugins=plugins)
        assert key(plugins=plugins) == before
        for file in files:
            file.write_text("VALUE = 2\n")
            after = key(plugins=plugins)
            assert after != before
            before = after
    finally:
        for name in plugins:
            sys.modules.pop(name, None)


@pytest.mark.slow
def test_content_of_modules_beside_plugin_files_is_in_the_key(tmp_path):
    """Bases and helpers; other files of the folder, which nothing imports, are not."""
    (tmp_path / "plugged_file.py").write_text("import plugged_helper\n")
    helper, other = tmp_path / "plugged_helper.py", tmp_path / "plugged_other.py"
    helper.write_text("VALUE = 1\n")
    path = list(sys.path)
    try:
        before = key(plugins=[str(tmp_path / "plugged_file.py")])
        other.write_text("VALUE = 1\n")
        assert key(plugins=[str(tmp_path / "plugged_file.py")]) == before
        helper.write_text("VALUE = 2\n")
        assert key(plugins=[str(tmp_path / "plugged_file.py")]) != before
    finally:
        sys.path[:] = path
        for name in ("plugged_file", "plugged_helper"):
            sys.modules.pop(name, None)


def test_modules_without_a_file_have_keys():
    assert key(plugins=["math"]) == key(plugins=["math"])


NAMED = ("data=set12", "data.train_set=null")


def test_keys_of_the_test_alone_do_not_change_the_training(roots):
    """Each changes the cell. Which training it is does not depend on what is tested."""
    shutil.copytree(roots / "a" / "set12", roots / "photos")
    folders = tuple(f"data.{split}={roots / 'photos'}" for split in ("train", "val"))
    named = (*NAMED, f"data.root={roots / 'a'}")
    given = {
        "task.test_noise": ((), "7"),
        "task.eval_kernels": ((), "each"),
        "data.test": (("data=folder", *folders), str(roots / "photos")),
        "data.test_set": (named, "null"),
        "data.subset": (named, "[3,5]"),
        "eval.test": ((), "false"),
        "eval.score_at": ((), "[2]"),
        "eval.null_space": ((), "1"),
        "eval.images": ((), "3"),
    }
    assert given.keys() == TEST_ALONE.keys()
    for name, (words, value) in given.items():
        changed = (*words, f"{name}={value}")
        assert training_key(*words) == training_key(*changed) is not None
        assert key(*words) != key(*changed)


@pytest.mark.parametrize(
    "word",
    [
        "data.eval_crop=50",
        "task.protocol=uint8",
        "task.eval_seed=1",
        "task.noise=[0,2.55]",
        "eval.iterations=7",
        "eval.tolerance=1e-3",
        "train.steps=7",
        "certify=false",
        "seed=1",
        "net.size=5",
    ],
)
def test_other_keys_change_the_training(word):
    assert None not in (training_key(), training_key(word))
    assert training_key() != training_key(word)


def test_the_crops_that_a_test_set_chooses_change_the_training(roots):
    """Rain is not turned, and neither are the clean crops of a run that is tested on it."""
    rng = np.random.default_rng(1)
    for kind in ("rain", "clean"):
        (roots / "a" / "rain12" / kind).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 256, (9, 9, 3), np.uint8)
            write_image(roots / "a" / "rain12" / kind / f"{i}.png", Photograph(pixels))
    words = (*NAMED, f"data.root={roots / 'a'}")
    rain = (*words, "data.test_set=rain12")
    assert None not in (training_key(*words), training_key(*rain))
    assert training_key(*words) != training_key(*rain)
    told = ("data.flips=none",)
    assert training_key(*words, *told) == training_key(*rain, *told)


def test_the_data_of_training_change_the_training(tmp_path):
    for name, value in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        write_image(tmp_path / name / "x.png", Photograph(np.full((9, 9, 1), value, np.uint8)))

    def of(train, val, test):
        folders = {"train": train, "val": val, "test": test}
        return training_key(
            "data=folder", *(f"data.{k}={tmp_path / name}" for k, name in folders.items())
        )

    assert of("a", "a", "a") == of("a", "a", "b") is not None
    assert len({of("a", "a", "a"), of("b", "a", "a"), of("a", "b", "a")}) == 3
    assert of("gone", "a", "a") is None


def test_what_trains_nothing_or_reads_keys_of_its_own_shares_no_training(tmp_path):
    assert training_key("hyper=none", "gkm=wiener", "net=none") is None
    (tmp_path / "plugged_task.py").write_text(
        "from bmo_cli.tasks.deconvolution import Deconvolution\n"
        "class Own(Deconvolution):\n    pass\n"
    )
    plugins = [str(tmp_path / "plugged_task.py")]
    given, path = f"plugins={plugins}", list(sys.path)
    try:
        own = "task._target_=plugged_task.Own"
        assert training_key(given, own, plugins=plugins) is None
        assert training_key(given, plugins=plugins) is not None
    finally:
        sys.path[:] = path
        sys.modules.pop("plugged_task", None)
