"""One training for the cells of a table that differ in their test alone."""

import csv
import json
import re
from functools import partial

import numpy as np
import pytest
import yaml
from conftest import plain_config, result
from hydra import initialize_config_dir
from made_tables import table_maker
from PIL import Image
from run_content import history, same, weights

from bmo_cli.config.compose import compose
from bmo_cli.config.keys import TEST_ALONE
from bmo_cli.config.locate import config_dir
from bmo_cli.config.schema import check_config, to_plain
from bmo_cli.errors import BmoError, Interrupted
from bmo_cli.results.files import write_atomically
from bmo_cli.tables import sharing
from bmo_cli.tables.cell import _drop_keys
from bmo_cli.tables.plan import scale_table
from bmo_cli.training import run as training_run
from bmo_cli.training.trainer import Trainer

SHARED = """
title: Shared
common: [task=deconv, debug=tiny, data=named, data.train_set=null, data.eval_crop=40, data.crop=24, task.kernel_size=7, task.kernel_count=2, "task.noise=[0,15]", train.steps=3, 'data.subset=[camera,coffee]', device=cpu]
rows:
  bmo: [hyper=bmo, net=dncnn, net.width=4, net.depth=2]
columns:
  low: [task.test_noise=2]
  high: [task.test_noise=9, task.eval_kernels=each, "eval.score_at=[1]", eval.images=0]
  one: ['data.subset=[chelsea]']
scores: {test/psnr: .6f, steps: .0f}
seeds: [0]
"""  # noqa: E501
COLUMNS = yaml.safe_load(SHARED)["columns"]
TAKING = ("high", "one")


@pytest.fixture
def make(tmp_path, monkeypatch):
    return partial(table_maker(tmp_path, monkeypatch), SHARED)


@pytest.fixture
def trainings(monkeypatch):
    """The folders of cells, once for every step of training."""
    step, made = Trainer._step, []

    def noted(self, sample):
        made.append(self.folder.path.name.split("--")[1])
        return step(self, sample)

    monkeypatch.setattr(Trainer, "_step", noted)
    return made


def folder_of(out, column, row="bmo"):
    (folder,) = (out / "runs").glob(f"{row}--{column}--*")
    return folder


def rows_of(out):
    with (out / "mini.csv").open() as stream:
        return {row["column"]: row for row in csv.DictReader(stream)}


def scores(folder):
    """Everything that a run says of its weights and its test, without times."""
    written = result(folder)
    kept = ("val/", "train/", "test/", "certificate/")
    metrics = {k: v for k, v in written["metrics"].items() if k.startswith(kept)}
    images = {
        name: {k: v for k, v in values.items() if k != "seconds"}
        for name, values in written["images"].items()
    }
    keys = ("steps", "best_step", "evaluations", "products", "protocol", "data", "flags")
    others = {key: written.get(key) for key in (*keys, "certificate", "identity")}
    others["identity"] = {k: v for k, v in others["identity"].items() if "checkpoint" not in k}
    metrics = {key: value for key, value in metrics.items() if not key.endswith("seconds")}
    return metrics, images, others


@pytest.mark.slow
def test_cells_that_take_a_training_equal_those_that_train(make, trainings):
    """Weights, history, scores and certificate are those of a training of their own, bit by bit."""
    certified = ["certify=true", "certificate.turns=1", "certificate.horizon=2"]
    common = [*yaml.safe_load(SHARED)["common"], *certified]
    out = make(common=common)
    assert trainings == ["low"] * 3
    for column in COLUMNS:
        alone = make(common=common, columns={column: COLUMNS[column]}, out=f"alone_{column}")
        assert trainings[-3:] == [column] * 3
        ours, own = folder_of(out, column), folder_of(alone, column)
        assert ours.name == own.name
        assert scores(ours) == scores(own)
        assert history(ours) == history(own)
        for name in ("last", "best"):
            assert same(weights(ours, name), weights(own, name))
        taken = column in TAKING
        assert result(ours).get("trained_in") == (folder_of(out, "low").name if taken else None)
        assert "trained_in" not in result(own)
    assert len({row["test/psnr"] for row in rows_of(out).values()}) == 3
    assert {c: r["trained_in"] for c, r in rows_of(out).items()} == {
        "low": "",
        **dict.fromkeys(TAKING, folder_of(out, "low").name),
    }
    said = "One training serves several columns: bmo."
    for document in ("mini.md", "mini.tex"):
        assert (out / document).read_text().count(said) == 1
    assert said not in (alone / "mini.md").read_text()


@pytest.mark.slow
def test_other_weights_are_trained(make, trainings):
    """Another seed, and a key that validation reads."""
    columns = {"low": COLUMNS["low"], "crop": [*COLUMNS["low"], "data.eval_crop=32"]}
    out = make(columns=columns, seeds=[0, 1])
    assert trainings == [name for name in ("low", "low", "crop", "crop") for _ in range(3)]
    assert not any("trained_in" in result(folder) for folder in (out / "runs").iterdir())


@pytest.mark.slow
def test_what_was_trained_before_serves_a_later_column(make, trainings):
    make(columns={"one": COLUMNS["one"]})
    out = make()
    assert trainings == ["one"] * 3
    assert result(folder_of(out, "low"))["trained_in"] == folder_of(out, "one").name


@pytest.mark.slow
def test_dry_run_says_which_cells_only_test(make, caplog):
    caplog.set_level("INFO")

    def listed(**changes):
        caplog.clear()
        make(dry_run=True, **changes)
        return [" ".join(line.split()) for line in caplog.text.splitlines()]

    lines = listed()
    assert any(re.fullmatch("bmo, low, seed 0 to run at most.*", line) for line in lines)
    assert "bmo, high, seed 0 to test, trained in 'low' unknown" in lines
    folder = folder_of(make(columns={"low": COLUMNS["low"]}), "low")
    change(folder, cell_seconds=90.0, train_seconds=60.0)
    assert "bmo, high, seed 0 to test, trained in 'low' about 30 s" in listed()
    make()
    assert "bmo, high, seed 0 done" in listed()


def change(folder, **changes):
    content = {**result(folder), **changes}
    kept = {key: value for key, value in content.items() if value is not None}
    write_atomically(folder / "result.json", json.dumps(kept).encode())


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before its result", "before its test", "before another code"])
def test_a_killed_cell_takes_the_training_again_or_goes_on(make, trainings, moment):
    out = make()
    expected, folder = (out / "mini.md").read_bytes(), folder_of(out, "high")
    if moment == "before its result":
        (folder / "result.json").unlink()
    else:
        code = {"code": "other"} if moment == "before another code" else {}
        change(folder, status="running", identity=None, **code)
    make()
    assert trainings == ["low"] * 3
    assert "going on after step 3" in (folder / "run.log").read_text()
    assert result(folder)["trained_in"] == folder_of(out, "low").name
    assert (out / "mini.md").read_bytes() == expected


@pytest.mark.slow
def test_a_table_that_is_stopped_goes_on(make, trainings, monkeypatch):
    expected = (make(out="whole") / "mini.md").read_bytes()
    evaluate, stops = training_run.evaluate_test, ["high"]

    def stopped(experiment, settings, folder, *rest):
        if folder.path.name.split("--")[1] in stops:
            raise Interrupted(f"stopped {stops.pop()}")
        return evaluate(experiment, settings, folder, *rest)

    monkeypatch.setattr(training_run, "evaluate_test", stopped)
    with pytest.raises(Interrupted):
        make()
    out = make()
    assert trainings == ["low"] * 6
    assert (out / "mini.md").read_bytes() == expected


@pytest.mark.slow
def test_a_training_that_fails_is_every_column_s_reason(make, trainings, monkeypatch, tmp_path):
    def failing(self, sample):
        trainings.append("failing")
        raise BmoError("it diverged")

    monkeypatch.setattr(Trainer, "_step", failing)
    with pytest.raises(BmoError, match="3 of 3 cells failed"):
        make()
    assert trainings == ["failing"]
    reasons = re.findall(r"\| bmo \|.*", (tmp_path / "out" / "mini.md").read_text())
    taken = "it takes the training of 'bmo, low, seed 0': it diverged"
    assert [line.split(" | ")[-1] for line in reasons] == ["it diverged |", *[f"{taken} |"] * 2]


@pytest.mark.slow
def test_a_test_that_fails_is_its_own_column_s_alone(make, trainings, monkeypatch, tmp_path):
    evaluate = training_run.evaluate_test

    def failing(experiment, settings, folder, *rest):
        if folder.path.name.split("--")[1] == "low":
            raise BmoError("no test")
        return evaluate(experiment, settings, folder, *rest)

    monkeypatch.setattr(training_run, "evaluate_test", failing)
    with pytest.raises(BmoError, match="1 of 3 cells failed"):
        make()
    assert trainings == ["low"] * 3
    written = rows_of(tmp_path / "out")
    assert [written[column]["status"] for column in COLUMNS] == ["failed", "ok", "ok"]


@pytest.mark.slow
def test_a_cell_that_failed_in_its_test_is_not_trained_again(
    make, trainings, monkeypatch, tmp_path
):
    """Its weights stay those that the other columns have taken."""
    evaluate, broken = training_run.evaluate_test, ["low"]

    def failing(experiment, settings, folder, *rest):
        if folder.path.name.split("--")[1] in broken:
            raise BmoError("no test")
        return evaluate(experiment, settings, folder, *rest)

    monkeypatch.setattr(training_run, "evaluate_test", failing)
    with pytest.raises(BmoError, match="1 of 3 cells failed"):
        make()
    broken.clear()
    out = make()
    assert trainings == ["low"] * 3
    weights = {result(folder_of(out, c))["identity"]["checkpoint"] for c in COLUMNS}
    assert len(weights) == 1
    assert "One training serves several columns: bmo." in (out / "mini.md").read_text()


@pytest.mark.slow
def test_test_data_that_cannot_be_used_are_their_own_column_s_problem(
    make, trainings, tmp_path, rng
):
    """The first column fails before training starts; the second trains, the third takes that."""
    for name, side in (("tiny", 5), ("good", 40), ("fine", 44)):
        (tmp_path / name).mkdir()
        image = rng.integers(0, 256, (side, side), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / name / "a.png")
    folders = [f"data.{split}={tmp_path}/good" for split in ("train", "val")]
    common = ["task=deconv", "debug=tiny", "data=folder", *folders, "data.crop=24", "device=cpu"]
    common += ["task.kernel_size=7", "task.kernel_count=2", "train.steps=3"]
    columns = {name: [f"data.test={tmp_path}/{name}"] for name in ("tiny", "good", "fine")}
    with pytest.raises(BmoError, match="1 of 3 cells failed"):
        make(common=common, columns=columns, shared_images="show")
    assert trainings == ["good"] * 3
    written = rows_of(tmp_path / "out")
    assert [written[column]["status"] for column in columns] == ["failed", "ok", "ok"]
    assert result(folder_of(tmp_path / "out", "fine"))["trained_in"].startswith("bmo--good")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["damaged", "of other code", "without its history"])
def test_a_training_that_cannot_be_taken_is_made(make, trainings, what):
    out = make(columns={"low": COLUMNS["low"]})
    folder = folder_of(out, "low")
    if what == "damaged":
        (folder / "checkpoints" / "best.safetensors").write_bytes(b"damaged")
    elif what == "without its history":
        (folder / "history.csv").unlink()
    else:
        change(folder, code="other")
    make()
    trained = ["high"] if what == "of other code" else ["high", "one"]
    assert set(trainings) == {"low", *trained}
    assert "trained_in" not in result(folder_of(out, "high"))


@pytest.mark.slow
def test_a_chosen_candidate_is_not_trained_again(make, trainings):
    """Its weights do not depend on whether it was tested."""
    tune = {"bmo": {"optim.lr": [1.0e-3, 2.0e-3]}}
    out = make(columns={"low": COLUMNS["low"]}, tune=tune, seeds=[0, 1])
    assert len(trainings) == 3 * (2 + 1)
    written = [result(folder) for folder in (out / "runs").iterdir()]
    taking = [one for one in written if "trained_in" in one]
    assert len(written) == 4 and len(taking) == 1 and taking[0]["seed"] == 0
    assert "One training serves" not in (out / "mini.md").read_text()


@pytest.mark.slow
def test_several_jobs_make_the_same_table(make):
    assert (make(out="two", jobs=2) / "mini.md").read_text() == (make() / "mini.md").read_text()


def test_sources_are_cells_that_trained_or_are_first(tmp_path, monkeypatch):
    """The order is: trained, begun, the first that has not begun."""
    trained, begun = set(), set()
    monkeypatch.setattr(sharing, "_has_trained", lambda cell: cell.name in trained)
    monkeypatch.setattr(sharing, "_has_begun", lambda cell: cell.name in begun)

    class Named:
        problem = ""

        def __init__(self, name, training):
            self.name, self.training = name, training
            self.spec = type("Spec", (), {"path": tmp_path / name})

    a, b, other, alone = Named("a", "k"), Named("b", "k"), Named("other", "l"), Named("z", None)
    cells = [a, b, Named("c", "k"), other, alone]

    def sources(missing):
        written = sharing.assign_sources(missing, cells)
        return {path.name: source.name for path, source in written.items()}

    assert sources(cells) == {"b": "a", "c": "a"}
    begun.add("b")
    assert sources(cells) == {"a": "b", "c": "b"}
    trained.add("c")
    assert sources([a, b, other, alone]) == {"a": "c"}
    a.problem = "no data"
    assert sources([a, b, other, alone]) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "trainings", "loss"),
    [
        ("certified, guided", 1, "log"),
        ("unrolled, nonexpansive", 1, "log"),
        ("bmo, nonexpansive", 1, "squared"),
        ("ISTA-Net with proximal steps", 2, "squared"),
    ],
)
def test_networks_of_the_deconvolution_table(row, trainings, loss):
    """One network for every column where it learned a range of noise, else one for each level."""
    columns = ("set12, 2.55", "bsd68, 2.55", "set3c, 12.75")
    content = plain_config("table=deconv", command="table")
    table = scale_table(check_config(content, "table").table, "paper")
    with initialize_config_dir(str(config_dir().resolve()), version_base="1.3"):
        configs = [compose(table.overrides(row, column)).config for column in columns]
    contents = [to_plain(config) for config in configs]
    before = {json.dumps(_drop_keys(content, TEST_ALONE), sort_keys=True) for content in contents}
    assert len(before) == trainings
    assert len({json.dumps(content, sort_keys=True) for content in contents}) == 3
    assert [config.task["test_noise"] for config in configs] == [2.55, 2.55, 12.75]
    for config in configs:
        assert config.task["loss"] == loss and not config.certify
        assert config.gkm["operator"]["noise_power"] == 2
        assert config.task["start"] == ("observation" if "ISTA" in row else "wiener")
