"""`hydra/sweeper=search`: what is suggested, what fails, what goes on, which trial is the best."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import result
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from bmo_cli.errors import InputError
from bmo_cli.jobs.dimension import Dimension
from bmo_cli.jobs.search import check_search, split_search_space

needs_optuna = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None, reason="needs pip install 'bmo-cli[optuna]'"
)
SEARCH = ("hydra/sweeper=search",)
LR = "optim.lr=tag(log,interval(1e-4,1e-2))"


def parsed(*words):
    return OverridesParser.create().parse_overrides(list(words))


SPACES = [
    ("a=x,y,x", Dimension("a", ("x", "y"))),
    ("a=choice(0.1,1e30,true)", Dimension("a", ("0.1", "1e+30", "True"))),
    ("net=choice(lip,dncnn)", Dimension("net", ("lip", "dncnn"))),
    ("a=interval(0,2)", Dimension("a", (), 0.0, 2.0)),
    ("a=tag(log,interval(5e-4,2e-2))", Dimension("a", (), 5e-4, 2e-2, log=True)),
    ("a=int(interval(1,5))", Dimension("a", (), 1, 5)),
    ("a=tag(log,int(interval(1,64)))", Dimension("a", (), 1, 64, log=True)),
    ("a=range(1,10,3)", Dimension("a", (), 1, 7, 3)),
    ("a=range(9,1,-4)", Dimension("a", (), 5, 9, 4)),
    ("a=range(4,5)", Dimension("a", (), 4, 4)),
    ("a=range(0,0.5,0.25)", Dimension("a", ("0.0", "0.25"))),
    ("+a=1,2", Dimension("+a", ("1", "2"))),
    ("a=shuffle(1,2)", Dimension("a", ("1", "2"))),
]


@pytest.mark.parametrize(("word", "expected"), SPACES, ids=[word for word, _ in SPACES])
def test_hydra_s_words_describe_the_space(word, expected):
    found = Dimension.of(parsed(word)[0])
    assert found == expected
    assert found.is_whole == (isinstance(expected.low, int) and not expected.choices)
    for text in found.limits:  # which Hydra reads back as the same value
        again = parsed(f"{found.key}={text}")[0]
        assert not again.is_sweep_override()
        if not found.choices:
            assert again.value() in (found.low, found.high)


@needs_optuna
@pytest.mark.parametrize("word", [word for word, _ in SPACES])
def test_suggestions_are_within_the_space(word):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    dimension, study = Dimension.of(parsed(word)[0]), optuna.create_study()
    seen = set()
    for _ in range(60):
        trial = study.ask()
        value = dimension.suggest(trial)
        seen.add(value)
        assert dimension.require_valid(value) == value
        study.tell(trial, 0.0)
    if dimension.choices:
        assert seen == set(dimension.choices)
    elif dimension.is_whole:
        step = dimension.step
        assert seen <= set(range(int(dimension.low), int(dimension.high) + 1, step))
        assert dimension.high > 50 or len(seen) == (dimension.high - dimension.low) // step + 1
    else:
        assert dimension.low <= min(seen) < max(seen) <= dimension.high and len(seen) > 50


NO_SPACES = [
    (("a=1",), "the search has no key to choose values for"),
    (("a=interval(2,1)",), r"a=interval\(2,1\): the lower end is above the upper one"),
    (("a=tag(log,interval(0,1))",), "a logarithmic scale takes numbers > 0"),
    (("a=tag(log,range(1,9,2))",), "without a step"),
    (("a=range(3,3)",), "the range is empty"),
]


@pytest.mark.parametrize(("words", "said"), NO_SPACES)
def test_limits_that_are_none_are_refused(words, said):
    with pytest.raises(InputError, match=said):
        split_search_space(parsed(*words))


@pytest.mark.parametrize("value", ["z", 3, None, True, [1]])
def test_recorded_values_of_another_space_are_refused(value):
    for word in ("a=x,y", "a=int(interval(5,9))", "a=interval(5.0,9.0)"):
        with pytest.raises(ValueError, match="a="):
            Dimension.of(parsed(word)[0]).require_valid(value)


def search_config(command="train", **changes):
    sweeper = {"n_trials": 3, "n_jobs": 1, "seed": 0, "direction": None} | changes
    return OmegaConf.create({"hydra": {"sweeper": sweeper, "job": {"config_name": command}}})


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (search_config(n_trials=0), r"hydra\.sweeper\.n_trials must be an integer >= 1, got 0"),
        (search_config(n_trials="x"), r"hydra\.sweeper\.n_trials must be an integer"),
        (search_config(seed=-1), r"hydra\.sweeper\.seed must be an integer from 0"),
        (search_config(direction="up"), "direction must be maximize or minimize"),
        (search_config("eval"), "is for bmo train"),
    ],
)
def test_settings_are_checked(config, said):
    with pytest.raises(InputError, match=said):
        check_search(config, parsed(LR))


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'bmo-cli\[optuna\]'"):
        check_search(search_config(), parsed(LR))


@pytest.mark.slow
@needs_optuna
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([LR, "hydra.sweeper.n_trials=0"], "n_trials must be an integer >= 1"),
        (
            [LR, "net=dncnn", "net.last_gain=choice(0.1,-1)"],
            "net.last_gain=-1: net.last_gain must be finite",
        ),
        (["gkm.alpha=interval(0.5,1)"], "gkm.alpha=1.0: gkm.alpha must lie in (0, 1)"),
        ([LR, "train.stps=3"], "unknown key 'train.stps'"),
        (["seed=0"], "the search has no key to choose values for"),
    ],
)
def test_the_fixed_part_and_the_limits_are_checked_first(bmo, tmp_path, words, said):
    done = bmo("train", "-m", "debug=tiny", *SEARCH, *words, "hydra.sweep.dir=s")
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1 and list(tmp_path.iterdir()) == []


def record(folder):
    return json.loads((folder / "search.json").read_text())


def suggested(folder):
    return [trial["values"] for trial in record(folder)["trials"]]


@pytest.mark.slow
@needs_optuna
def test_a_search_takes_the_best_by_validation_and_goes_on(bmo, tiny, tmp_path):
    words = ["train", "-m", *tiny, *SEARCH, LR, "net.width=choice(3,4)"]
    done = bmo(*words, "hydra.sweeper.n_trials=4", "hydra.sweep.dir=whole")
    assert done.returncode == 0, done.stderr
    whole = tmp_path / "whole"
    scores = [result(whole / str(i))["metrics"]["val/psnr"] for i in range(4)]
    assert [trial["score"] for trial in record(whole)["trials"]] == scores
    best = record(whole)["best"]
    assert scores[best] == max(scores)
    values = suggested(whole)
    assert len({value["optim.lr"] for value in values}) == 4
    assert all(1e-4 <= value["optim.lr"] <= 1e-2 for value in values)
    shown = f"net.width={values[best]['net.width']} optim.lr={values[best]['optim.lr']!r}"
    assert f"the best of 4 trials is trial {best}, val/psnr {max(scores):.5g}" in done.stdout
    assert shown in done.stdout or " ".join(reversed(shown.split())) in done.stdout
    for folder, value in zip(range(4), values, strict=True):
        typed = (whole / str(folder) / ".hydra" / "overrides.yaml").read_text()
        assert f"optim.lr={value['optim.lr']!r}" in typed

    assert bmo(*words, "hydra.sweeper.n_trials=2", "hydra.sweep.dir=parts").returncode == 0
    again = bmo("train", "resume=parts", "hydra.sweeper.n_trials=4")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("done before: ") == 2
    assert suggested(tmp_path / "parts") == values
    other = bmo(*words, "hydra.sweeper.n_trials=1", "hydra.sweeper.seed=1", "hydra.sweep.dir=o")
    assert other.returncode == 0 and suggested(tmp_path / "o") != values[:1]


@pytest.mark.slow
@needs_optuna
def test_trials_that_diverge_are_failed_and_the_others_go_on(bmo, tiny, tmp_path):
    words = ["net.last_gain=choice(0.1,1e30)", "hydra.sweeper.n_trials=5", "hydra.sweep.dir=s"]
    done = bmo("train", "-m", *tiny, *SEARCH, *words)
    trials = record(tmp_path / "s")["trials"]
    states = {trial["values"]["net.last_gain"]: trial["state"] for trial in trials}
    assert states == {"0.1": "done", "1e+30": "failed"}
    failed = sum(trial["state"] == "failed" for trial in trials)
    assert done.returncode == failed and f"{failed} of 5 jobs failed" in done.stderr
    assert f"the best of 5 trials ({failed} failed) is trial" in done.stdout
    for trial in trials:
        assert (trial["score"] is None) == (trial["state"] == "failed")
        assert result(tmp_path / "s" / trial["folder"])["status"] == (
            "failed" if trial["state"] == "failed" else "ok"
        )


@pytest.mark.slow
@needs_optuna
def test_a_search_in_which_all_fails_ends(bmo, tiny, tmp_path):
    words = ["net.last_gain=choice(1e30,1e31)", "hydra.sweeper.n_trials=2", "hydra.sweep.dir=s"]
    done = bmo("train", "-m", *tiny, *SEARCH, *words)
    assert done.returncode == 2 and "no trial of the search has a score" in done.stdout
    assert record(tmp_path / "s")["best"] is None


@pytest.mark.slow
@needs_optuna
def test_trials_at_the_same_time(bmo, tiny, tmp_path):
    words = [LR, "hydra.sweeper.n_trials=3", "hydra.sweep.dir=s", "jobs=2"]
    done = bmo("train", "-m", *tiny, *SEARCH, *words)
    assert done.returncode == 0, done.stderr
    assert [trial["state"] for trial in record(tmp_path / "s")["trials"]] == ["done"] * 3
    assert done.stdout.count("started: s/") == 3
    assert len({value["optim.lr"] for value in suggested(tmp_path / "s")}) == 3


@pytest.mark.slow
@needs_optuna
def test_the_smaller_one_is_the_best_where_the_metric_says_so(bmo, tmp_path):
    small = ["task=sparse_coding", "task.rows=8", "task.columns=16", "debug=tiny", "device=cpu"]
    counts = ["task.val_count=4", "task.test_count=4", "train.batch=2"]
    words = ["train", "-m", *small, *counts, *SEARCH, "train.iterations=choice(1,40)"]
    for direction, chosen in (("null", min), ("maximize", max)):
        more = [f"hydra.sweeper.direction={direction}", f"hydra.sweep.dir=to_{direction}"]
        done = bmo(*words, "hydra.sweeper.n_trials=3", *more)
        assert done.returncode == 0, done.stderr
        found = record(tmp_path / f"to_{direction}")
        scores = [trial["score"] for trial in found["trials"]]
        assert len(set(scores)) == 2 and scores[found["best"]] == chosen(scores)


@pytest.mark.slow
@needs_optuna
def test_a_search_that_was_stopped_suggests_the_same_again(bmo, tiny, tmp_path):
    words = ["train", "-m", *tiny, *SEARCH, LR, "hydra.sweeper.n_trials=3"]
    done = bmo(*words, "hydra.sweep.dir=whole")
    assert done.returncode == 0, done.stderr
    more = ["train.steps=100000", "train.max_minutes=null", "hydra.sweep.dir=stopped"]
    process = subprocess.Popen(
        [sys.executable, "-m", "bmo_cli", *words, *more],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while not (tmp_path / "stopped" / "0" / "checkpoints" / "last.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 130, said
    (begun,) = record(tmp_path / "stopped")["trials"]
    assert begun["state"] == "begun"
    assert begun["values"] == suggested(tmp_path / "whole")[0]


@pytest.mark.slow
@needs_optuna
def test_a_record_that_is_damaged_or_of_another_search_is_one_line(bmo, tiny, tmp_path):
    words = ["train", "-m", *tiny, *SEARCH, LR, "hydra.sweeper.n_trials=1", "hydra.sweep.dir=s"]
    assert bmo(*words).returncode == 0
    file = tmp_path / "s" / "search.json"
    good = file.read_text()
    for text in ("", "[]", '{"trials": [3]}', good.replace("optim.lr", "optim.rl"), "[" * 10**5):
        file.write_text(text)
        done = bmo("train", "resume=s")
        assert done.returncode == 2 and "search.json is damaged, or of another" in done.stderr
        assert done.stderr.count("\n") == 1 and file.read_text() == text
    file.write_text(good.replace('"optim.lr": 0', '"optim.lr": 7'))
    done = bmo("train", "resume=s")
    assert done.returncode == 2 and "optim.lr=7" in done.stderr


@pytest.mark.slow
@needs_optuna
def test_a_dry_run_shows_the_limits(bmo, tmp_path):
    words = [*SEARCH, LR, "net=lip,dncnn", "hydra.sweeper.n_trials=20", "--dry-run"]
    done = bmo("train", "-m", "debug=tiny", *words)
    assert done.returncode == 0, done.stderr
    assert "optim.lr=0.0001" in done.stdout and "optim.lr=0.01" in done.stdout
    assert "in all: at most 80 min" in done.stdout and "a search of 20 trials" in done.stdout
    assert list(tmp_path.iterdir()) == []
