"""Which differences of two configurations make two experiments: against runs that are computed."""

import pytest
from conftest import result
from made_runs import make_run
from run_content import same, weights

from bmo_cli.config.keys import NO_SCORE, PLACES, is_among
from bmo_cli.report.comparison import compare
from bmo_cli.report.entry import Entry
from bmo_cli.results.runs import find_runs

SAME_NUMBERS = {
    "eval.images": "0",
    "eval.score_at": "[1]",
    "eval.null_space": "1",
    "train.log_every": "3",
    "profile": "true",
    "certify": "true",
    "certificate": "{horizon: 2, cases: 1, turns: 1, tolerance: 0.1, seed: 1}",
    "certificate.curve": "3",
    "device": "auto",
    "data.workers": "1",
    "data.cache_mib": "1e-6",
    "data.max_megapixels": "1",
    "jobs": "2",
    "logger": "none",
    "plugins": "[]",
}
EQUAL_BUT_FOR_ROUNDING = {"hyper.memory": "states", "hyper.memory_mib": "50"}
ELSEWHERE = {
    "resume": "test_resumed_run_equals_the_uninterrupted_one",
    "eval.test": "below",
    "train.devices": "test_devices, up to rounding",
    "compile": "test_precision, up to rounding",
}


@pytest.mark.slow
def test_keys_that_cannot_move_a_score_move_none(bmo, tiny, trained, tmp_path):
    assert set(NO_SCORE) == {*SAME_NUMBERS, *EQUAL_BUT_FOR_ROUNDING, *ELSEWHERE}
    words = [word for word in tiny if word != "device=cpu"]
    words += [f"{'++' if k == 'certificate' else ''}{k}={v}" for k, v in SAME_NUMBERS.items()]
    done = bmo("train", *words, "hydra.run.dir=other")
    assert done.returncode == 0, done.stderr
    assert same(weights(tmp_path / "other"), weights(trained))
    plain, other = (result(folder)["metrics"] for folder in (trained, tmp_path / "other"))
    for score in ("test/psnr", "test/ssim", "val/psnr"):
        assert other[score] == plain[score]
    words = [f"{key}={value}" for key, value in EQUAL_BUT_FOR_ROUNDING.items()]
    done = bmo("train", *tiny, *words, "eval.test=false", "hydra.run.dir=untested")
    assert done.returncode == 0, done.stderr
    found = result(tmp_path / "untested")["metrics"]["val/psnr"]
    assert found == pytest.approx(plain["val/psnr"], abs=1e-4)


def test_a_section_holds_its_keys():
    assert is_among("certificate.turns", NO_SCORE) and is_among("logger.project", NO_SCORE)
    assert not is_among("eval", NO_SCORE) and not is_among("eval.images_more", NO_SCORE)
    assert not is_among("seed", NO_SCORE) and not set(PLACES) & set(NO_SCORE)


def groups(folder):
    entries = [Entry(run) for run in find_runs([folder])]
    found = compare(entries, entries[0].metric())
    return {group.label: len(group.entries) for group in found.groups}


def two(tmp_path, a, b, *, first=None, second=None):
    """Labels of the groups of two seeds with these configurations and entries of result.json."""
    make_run(tmp_path / "a", 30.0, seed=0, config=a, **(first or {}))
    make_run(tmp_path / "b", 31.0, seed=1, config=b, **(second or {}))
    return groups(tmp_path)


TRAIN = {"steps": 10, "max_minutes": 4, "iterations": 5}
EQUAL = [
    ({"eval": {"images": 1}}, {"eval": {"images": 0}}),
    ({"train": {"log_every": 1}}, {"train": {"log_every": 2}}),
    ({"hyper": {"memory": "full"}}, {"hyper": {"memory": "auto"}}),
    ({"optim": {"lr": 2}}, {"optim": {"lr": 2.0}}),
    ({"optim": {"betas": [0.9, 1]}}, {"optim": {"betas": [0.9, 1.0]}}),
    (
        {"train": TRAIN, "eval": {"iterations": "${train.iterations}"}},
        {"train": TRAIN, "eval": {"iterations": 5}},
    ),
    ({"train": TRAIN}, {"train": {**TRAIN, "penalty": 0.0}, "precision": "fp32"}),
    ({"train": TRAIN}, {"train": {**TRAIN, "max_minutes": None}}),
]


@pytest.mark.parametrize(("a", "b"), EQUAL)
def test_equal_experiments_are_one_group(tmp_path, a, b):
    """Each lacks or has what an own version wrote, so that both need a configuration at all."""
    base = {"seed": "${oc.env:SEED}"}
    found = two(tmp_path, base | a, base | b, first={"steps": 10}, second={"steps": 10})
    assert found == {"defaults": 2}


OTHER = [
    ({"train": TRAIN}, {"train": {**TRAIN, "max_minutes": 3}}, {"train.max_minutes=4": 1}, 7),
    ({"train": TRAIN}, {"train": {**TRAIN, "penalty": 0.1}}, {"train.penalty=0": 1}, 10),
    ({"train": TRAIN}, {"train": {**TRAIN, "batch": 3}}, {"train.batch=3": 1}, 10),
    ({"optim": {"lr": 2}}, {"optim": {"lr": 2.5}}, {"optim.lr=2": 1}, 10),
    (
        {"train": TRAIN, "eval": {"iterations": "${train.iterations}"}},
        {"train": TRAIN, "eval": {"iterations": 6}},
        {"eval.iterations=5": 1},
        10,
    ),
    (
        {"train": TRAIN, "eval": {"iterations": "${train.iterations}"}},
        {"train": {**TRAIN, "iterations": 6}, "eval": {"iterations": "${train.iterations}"}},
        {"train.iterations=5": 1, "train.iterations=6": 1},
        10,
    ),
]


@pytest.mark.parametrize(("a", "b", "labels", "steps"), OTHER)
def test_other_experiments_are_not(tmp_path, a, b, labels, steps):
    found = two(tmp_path, a, b, first={"steps": steps}, second={"steps": steps})
    assert len(found) == 2
    assert labels.items() <= found.items()


def test_keys_with_nothing_to_decide_do_not_count(tmp_path):
    """Of training where nothing is trained, of photographs where the task takes none."""
    untrained = {"hyper": "none", "steps": 0}
    a = {"optim": {"lr": 1}, "train": {**TRAIN, "batch": 1}, "data": {"crop": 1}}
    b = {"optim": {"lr": 2}, "train": {**TRAIN, "batch": 2}, "data": {"crop": 2}}
    none = {**untrained, "data": {}}
    assert two(tmp_path / "x", a, b, first=none, second=none) == {"defaults": 2}
    found = two(tmp_path / "y", a, b, first=untrained, second=untrained)
    assert set(found) == {"data.crop=1", "data.crop=2"}
    iterations = {"train": {**TRAIN, "iterations": 6}}
    found = two(tmp_path / "z", {"train": TRAIN}, iterations, first=none, second=none)
    assert set(found) == {"train.iterations=5", "train.iterations=6"}


def data(**content):
    return {"data": {"test": {"hash": "abc"}, "train": {"hash": "one"}, **content}}


def test_where_data_lie_counts_by_content(tmp_path):
    here, there = {"data": {"train": "/here"}}, {"data": {"train": "/there"}}
    assert two(tmp_path / "moved", here, there, first=data(), second=data()) == {"defaults": 2}
    other = data(train={"hash": "two"})
    found = two(tmp_path / "other", here, there, first=data(), second=other)
    assert set(found) == {"data.train=/here", "data.train=/there"}
    found = two(tmp_path / "exchanged", here, here, first=data(), second=other)
    assert set(found) == {"data.train=/here (content 1)", "data.train=/here (content 2)"}
    found = two(
        tmp_path / "unknown", here, there, first=data(), second={"data": {"test": {"hash": "abc"}}}
    )
    assert set(found) == {"data.train=/here", "data.train=/there"}


def test_files_of_kernels_dictionaries_and_weights_count_by_content(tmp_path):
    for section, key, known, other in (
        (
            *("task", "kernels"),
            *(data(kernels=["a"], kernel_content=text) for text in ("1f", "2f")),
        ),
        (*("task", "dictionary"), *(data(dictionary=text) for text in ("1f", "2f"))),
        (*("net", "weights"), *({"weights": {"net.weights": text}} for text in ("1f", "2f"))),
    ):
        a, b = ({section: {key: f"/{place}/file.npz"}} for place in "ab")
        folder = tmp_path / key
        assert two(folder / "x", a, b, first=known, second=known) == {"defaults": 2}
        found = two(folder / "z", a, a, first=known, second=other)
        assert set(found) == {f"{section}.{key}=/a/file.npz (content {i})" for i in (1, 2)}
        assert set(two(folder / "y", a, b)) == {f"{section}.{key}=/{p}/file.npz" for p in "ab"} or (
            key == "kernels"  # whose names every run has
        )


def test_what_follows_from_another_key_is_no_factor_of_its_own(tmp_path):
    """A reference and the number that it stands for are the same; another number is not."""
    for name, iterations, evaluated, seed in (
        ("a", 5, "${train.iterations}", 0),
        ("b", 5, 5, 1),
        ("c", 10, "${train.iterations}", 0),
        ("d", 10, 10, 1),
        ("e", 10, 5, 0),
    ):
        config = {"train": {**TRAIN, "iterations": iterations}, "eval": {"iterations": evaluated}}
        make_run(tmp_path / name, 30.0, seed=seed, config=config)
    assert groups(tmp_path) == {
        "train.iterations=5 eval.iterations=5": 2,
        "train.iterations=10 eval.iterations=10": 2,
        "train.iterations=10 eval.iterations=5": 1,
    }
