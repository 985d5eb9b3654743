"""Data sets by name: layout, counts, subsets, identity; published kernels; on the command line."""

import shutil

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, result
from hydra import initialize_config_dir

from bmo_cli.config.compose import compose
from bmo_cli.config.locate import choices, config_dir
from bmo_cli.config.schema import check_config
from bmo_cli.data import named_sets
from bmo_cli.data.images.file import Photograph, write_image
from bmo_cli.data.kernels import KernelSet
from bmo_cli.data.named import Named
from bmo_cli.data.splits import Embedded
from bmo_cli.errors import InputError
from bmo_cli.experiment.build import instantiate
from bmo_cli.tables.make import make_table
from bmo_cli.tasks.derain import Derain

LEVIN_SIDES = (19, 17, 15, 27, 13, 21, 23, 23)


def fill(folder, count, shape=(24, 22, 1), seed=0):
    """`count` images 01.png, 02.png, ... of random pixels; beyond 20, copies of the first ones."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    files = [folder / f"{i:0{max(2, len(str(count)))}}.png" for i in range(1, count + 1)]
    for file in files[:20]:
        write_image(file, Photograph(rng.integers(0, 256, shape, dtype=np.uint8)))
    for i, file in enumerate(files[20:]):
        file.write_bytes(files[i % 20].read_bytes())


def make_set(root, name):
    """A set as its layout says, with the smallest accepted number of images."""
    known = named_sets.SETS[name]
    for part in filter(None, (known.test, known.train)):
        where, count = root / part.folder, min(part.counts)
        if known.kind == "pairs":
            for i, kind in enumerate(("rain", "clean")):
                fill(where / kind, count, (24, 22, 3), seed=i)
        else:
            fill(where, count, (24, 22, 3 if known.kind == "colour" else 1))


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    for name in ("set12", "set3c", "bsd400", "bsd_colour", "rain100h", "rain100l", "rain12"):
        make_set(root, name)
    (root / "kernels").mkdir()
    rng = np.random.default_rng(0)
    kernels = {f"k{i}": rng.random((n, n)) for i, n in enumerate(LEVIN_SIDES, 1)}
    np.savez(root / "kernels" / "levin09.npz", **kernels)
    return root


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv("BMO_DATA", raising=False)


def copied(root, folder, *parts):
    for part in parts:
        shutil.copytree(root / part, folder / part)
    return folder


@pytest.mark.parametrize("name", named_sets.SETS)
def test_every_set_has_a_choice_that_tests_or_trains_on_it(name):
    assert name in choices()["data"]
    node = yaml.safe_load((config_dir() / "data" / f"{name}.yaml").read_text())
    base = yaml.safe_load((config_dir() / "data" / "named.yaml").read_text())
    known = named_sets.SETS[name]
    assert node.get("test_set") == (name if known.test else None)
    assert known.test or (base | node)["train_set"] == name
    text = (ROOT / "docs" / "data-sets.md").read_text()
    assert f"| `{name}` |" in text
    for part in filter(None, (known.test, known.train)):
        assert all(str(count) in text for count in part.counts)


def test_splits_of_photographs(sets):
    data = Named(root=str(sets), test_set="set12", val_count=7)
    train, val, test = (data.load(split) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (393, 7, 12)
    assert val.names == [f"{i}.png" for i in range(394, 401)]
    assert data.observed("test") is None
    colour = Named(root=str(sets), test_set="set3c", train_set=None, channels=3).load("test")
    assert [image.shape for image in (colour[i] for i in range(3))] == [(3, 24, 22)] * 3


def test_splits_of_pairs(sets):
    data = Named(root=str(sets), test_set="rain12", train_set="rain100h", val_count=5, channels=3)
    counts = [len(data.load(split)) for split in ("train", "val", "test")]
    assert counts == [51, 5, 12]
    for split in ("train", "val", "test"):
        clean, rainy = data.load(split), data.observed(split)
        assert clean.names == rainy.names
        assert clean.digests != rainy.digests
    own = Named(root=str(sets), test_set="rain100h", train_set="rain100h", channels=3)
    assert len(own.load("test")) == 20


@pytest.mark.slow
def test_null_is_the_embedded_photographs(sets):
    data = Named(root=str(sets), test_set="set12", train_set=None)
    for split in ("train", "val"):
        found, expected = data.load(split).digests, Embedded().load(split).digests
        assert list(found.values()) == list(expected.values())
    trained = Named(root=str(sets), test_set=None)
    assert len(trained.load("test")) == len(Embedded().load("test"))
    assert len(trained.load("train")) == 390


def test_trained_on_synthetic_and_tested_on_real_rain(sets):
    data = Named(root=str(sets), test_set="rain12", train_set=None, channels=3, crop=16)
    task = Derain(data=data)
    assert next(task.samples(range(1), 2)).problem.f.y.shape == (2, 3, 16, 16)
    case = next(task.cases("test"))
    rainy = torch.from_numpy(data.observed("test")[0] / np.float32(255))
    torch.testing.assert_close(case.problem.f.y[0], rainy)
    assert set(task.fingerprints()) >= {"train", "test", "test_rain"}
    assert "train_rain" not in task.fingerprints()


def test_trained_on_colour_photographs_and_tested_on_pairs(sets):
    data = Named(root=str(sets), test_set="rain100l", train_set="bsd_colour", channels=3, crop=16)
    assert [len(data.load(split)) for split in ("train", "val", "test")] == [355, 10, 3]
    assert data.observed("train") is None and len(data.observed("test")) == 3
    assert data.flips == "mirror"


def test_subset(sets):
    def chosen(subset, name="set12"):
        return Named(root=str(sets), test_set=name, train_set=None, subset=subset).load("test")

    assert chosen(["07", "02"]).names == ["02.png", "07.png"]  # in the order of the set
    assert chosen([10]).names == ["10.png"]
    pairs = Named(root=str(sets), test_set="rain12", train_set=None, channels=3, subset=["03"])
    assert pairs.load("test").names == pairs.observed("test").names == ["03.png"]
    with pytest.raises(InputError, match=r"'13' is not in set12.*there are 01, 02, .*, 12$"):
        chosen(["01", "13"])
    with pytest.raises(InputError, match=r"data\.subset is empty"):
        chosen([])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"test_set": "set13"},
            r"data\.test_set must be one of .*, got 'set13'; did you mean 'set",
        ),
        ({"test_set": "bsd400"}, r"data\.test_set must be one of"),
        (
            {"train_set": "rain100l"},
            r"data\.train_set must be one of bsd400, bsd_colour, rain100h, or null",
        ),
        (
            {"test_set": "rain100l", "train_set": "rain100h", "channels": 3},
            r"train_set=rain100h shows scenes of the test images of rain100l.*train_set=bsd_colour",
        ),
        (
            {"test_set": "set3c", "channels": 3},
            r"bsd400 holds gray photographs.*data\.channels=3.*data\.train_set=bsd_colour",
        ),
        ({"val_count": 400}, r"val_count=400 leaves nothing to train on.*bsd400 holds 400"),
    ],
)
def test_impossible_choices(sets, change, message):
    with pytest.raises(InputError, match=message):
        Named(**{"root": str(sets), "test_set": "set12"} | change).load("train")


@pytest.mark.parametrize("name", [k for k, v in named_sets.SETS.items() if v.test])
def test_missing_sets_are_described_in_one_line(tmp_path, name):
    known = named_sets.SETS[name]

    def refusal(root):
        with pytest.raises(InputError) as error:
            Named(root=root, test_set=name, train_set=None).load("test")
        text = str(error.value)
        assert "\n" not in text
        for expected in (known.test.folder, str(known.test.counts[0]), known.published):
            assert expected in text
        return text

    assert "set BMO_DATA" in refusal(None)
    assert "no folder" in refusal(str(tmp_path))
    folders = ["rain", "clean"] if known.kind == "pairs" else ["."]
    for kind in folders:
        fill(tmp_path / known.test.folder / kind, 2)
    assert "holds 2 images" in refusal(str(tmp_path))


def test_part_of_a_published_set_is_said(sets, caplog):
    Named(root=str(sets), test_set="rain100h", train_set=None).load("test")
    assert "20 images, not the published 100" in caplog.text
    caplog.clear()
    Named(root=str(sets), test_set="rain12", train_set=None).load("test")
    assert not caplog.text


def test_root_from_the_environment(sets, monkeypatch):
    monkeypatch.setenv("BMO_DATA", str(sets))
    assert len(Named(test_set="set12", train_set=None).load("test")) == 12
    monkeypatch.setenv("BMO_DATA", "")
    with pytest.raises(InputError, match=r"data\.root=DIR"):
        Named(test_set="set12", train_set=None).load("test")


def test_digest_covers_what_is_used_and_not_where_it_lies(sets, tmp_path):
    other = copied(sets, tmp_path / "a", "set12", "rain12")

    def digest(root, **changes):
        return Named(
            **{"root": str(root), "test_set": "set12", "train_set": None} | changes
        ).digest()

    assert digest(sets) == digest(other)
    part = digest(sets, subset=["01", "02"])
    assert part != digest(sets)
    shutil.rmtree(other / "rain12")
    write_image(
        other / "set12" / "03.png", Photograph(np.zeros((9, 9, 1), np.uint8)), overwrite=True
    )
    assert digest(other) != digest(sets)
    assert digest(other, subset=["01", "02"]) == part
    with pytest.raises(InputError, match="no folder"):
        digest(other, test_set="rain12")


def test_digest_knows_splits_and_which_images_are_degraded(sets, tmp_path):
    def digest(root=sets, **changes):
        given = {"root": str(root), "test_set": "rain12", "train_set": "rain100h", "channels": 3}
        return Named(**given | changes).digest()

    for names in ({}, {"test_set": "set3c", "train_set": "bsd_colour"}):
        assert digest(**names, val_count=5) != digest(**names, val_count=6)
    other = copied(sets, tmp_path, "rain12")
    before = digest(other, train_set=None)
    assert before == digest(train_set=None)
    for old, new in (("clean", "x"), ("rain", "clean"), ("x", "rain")):
        (other / "rain12" / old).rename(other / "rain12" / new)
    assert digest(other, train_set=None) != before


@pytest.mark.parametrize(
    ("words", "flips"),
    [
        (["data=named"], "all"),
        (["data=set12"], "all"),
        (["data=named", "data.train_set=rain100h"], "mirror"),
        (["data=named", "data.test_set=rain12", "data.train_set=null"], "mirror"),
        (["data=rain12"], "mirror"),
        (["data=rain100l"], "mirror"),
        (["data=bsd_colour"], "all"),
        (["data=rain100h", "data.flips=all"], "all"),
        (["data=bsd68", "data.flips=none"], "none"),
    ],
)
def test_rain_is_not_turned_unless_told_to(words, flips):
    with initialize_config_dir(str(config_dir().resolve()), version_base="1.3"):
        node = compose(words).config.data
    assert instantiate(node, "data", (), Named).flips == flips


def test_kernels_by_name(sets, tmp_path, monkeypatch):
    def levin(root):
        return KernelSet(kernels="levin", root=root).available

    assert [k.shape[0] for k in levin(str(sets)).values()] == list(LEVIN_SIDES)
    with pytest.raises(
        InputError, match=r"kernels=levin needs .*kernels/levin09\.npz with 8 kernels"
    ):
        levin(None)
    monkeypatch.setenv("BMO_DATA", str(sets))
    assert list(levin(None)) == list(levin(str(sets)))
    with pytest.raises(InputError, match=r"no file .*levin09\.npz"):
        levin(str(tmp_path))
    (tmp_path / "kernels").mkdir()
    np.savez(tmp_path / "kernels" / "levin09.npz", k1=np.ones((3, 3)))
    with pytest.raises(
        InputError, match="holds kernels of 3 x 3; expected squares of sides 19, 17"
    ):
        levin(str(tmp_path))


WORDS = ("data=set12", "data.train_set=null", "data.subset=[01,08]", "task.kernels=levin")


@pytest.mark.slow
def test_relative_root_on_the_command_line(bmo, sets, tmp_path):
    copied(sets, tmp_path / "sets", "set12", "kernels")
    words = ["train", "method=wiener", *WORDS, "task.kernel=k5", "eval.images=0", "device=cpu"]
    done = bmo(*words, "data.root=sets", "hydra.run.dir=r", BMO_DATA="")
    assert done.returncode == 0, done.stderr
    found = result(tmp_path / "r")
    assert list(found["images"]) == ["01.png", "08.png"]
    assert found["data"]["test"]["images"] == 2
    assert found["data"]["shared"] == found["data"]["similar"] == []


@pytest.mark.slow
def test_a_table_gives_its_root_to_the_data(sets, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO")
    for folder in ("one", "two"):
        copied(sets, tmp_path / folder, "set12", "kernels")
    table = {
        "title": "t",
        "common": ["method=wiener", *WORDS, "task.kernel=k5", "eval.images=0", "device=cpu"],
        "rows": {"wiener": []},
        "columns": {"set12": []},
        "scores": {"test/psnr": ".2f"},
        "seeds": [0],
    }
    config = {"table": table, "only": None, "preset": None, "jobs": 1, "dry_run": False}
    config |= {"seeds": None, "stale": "keep", "plugins": [], "out": str(tmp_path / "out")}
    for root in ("one", "two"):
        checked = check_config(config | {"root": root}, "table")
        with initialize_config_dir(str(config_dir().resolve()), version_base="1.3"):
            make_table(checked, "t")
    assert "1 cells, 1 to run" in caplog.text
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 1  # the same files elsewhere


def test_real_sets(real_data, monkeypatch):
    for name, known in named_sets.SETS.items():
        for purpose in ("test", "train"):
            part = getattr(known, purpose)
            if part is not None and (real_data / part.folder).is_dir():
                clean, degraded = named_sets.find(name, purpose, str(real_data), "data")
                assert len(clean) in part.counts
                assert (degraded is None) == (known.kind != "pairs")
    seven = Named(
        root=str(real_data), test_set="set12", train_set=None, subset=[f"0{i}" for i in range(1, 8)]
    )
    assert set(seven.load("test").sizes) == {(256, 256)}
    levin = KernelSet(kernels="levin", root=str(real_data)).available
    assert [k.shape[0] for k in levin.values()] == list(LEVIN_SIDES)
