"""`bmo compare` against SciPy and brute force, and what it refuses."""

import csv
import io
import itertools
import statistics
from pathlib import Path

import numpy as np
import pytest
from made_runs import PSNR, make_run
from scipy import stats

from bmo_cli.errors import InputError
from bmo_cli.report.comparison import compare, different_problem, problems
from bmo_cli.report.entry import Entry
from bmo_cli.report.factors import describe, factors
from bmo_cli.report.page import write_report
from bmo_cli.report.summary import summary, training_entries
from bmo_cli.results.runs import find_runs
from bmo_cli.results.statistics import mean_and_interval, paired_differences, pareto_front


def entries(root):
    return sorted(training_entries(find_runs([root])), key=lambda entry: entry.name)


@pytest.fixture
def sweep(tmp_path):
    """Three seeds of two networks and two values of mu; scores are drawn."""
    rng = np.random.default_rng(0)
    scores = {}
    for net, mu, seed in itertools.product(("dncnn", "lip"), (0.05, 0.5), range(3)):
        score = 30 + rng.normal() + (net == "lip") + seed
        scores[net, mu, seed] = score
        make_run(
            tmp_path / f"{net}-{mu}-{seed}",
            score,
            net=net,
            seed=seed,
            config={"net": {"depth": 3 if net == "lip" else 5}, "hyper": {"mu": mu}, "seed": seed},
            evaluations=int(1000 * mu),
            train_seconds=10.0 + seed,
        )
    return tmp_path, scores


def test_interval_and_paired_difference_are_those_of_scipy():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=7), rng.normal(size=7)
    mean, half = mean_and_interval(list(a))
    expected = stats.t.interval(0.95, 6, loc=a.mean(), scale=stats.sem(a))
    np.testing.assert_allclose([mean - half, mean + half], expected, rtol=1e-12)

    by_seed = [{str(i): float(v) for i, v in enumerate(values)} for values in (a, b)]
    by_seed[1]["other"] = 1e9  # a seed that only one of them has
    mean, half = mean_and_interval(paired_differences(*by_seed))
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    np.testing.assert_allclose([mean - half, mean + half], [expected.low, expected.high], rtol=1e-9)


@pytest.mark.parametrize("larger_is_better", [True, False])
def test_pareto_front_against_brute_force(larger_is_better):
    rng = np.random.default_rng(2)
    points = [tuple(map(float, point)) for point in rng.integers(0, 6, (40, 2))]
    sign = 1 if larger_is_better else -1
    expected = [
        all(sign * q < sign * quality or c > cost or (q, c) == (quality, cost) for q, c in points)
        for quality, cost in points
    ]
    assert pareto_front(points, larger_is_better=larger_is_better) == expected
    assert 0 < sum(expected) < len(points)


def test_groups_are_settings_over_seeds(sweep):
    root, scores = sweep
    members = entries(root)
    found = compare(members, members[0].metric())
    assert [factor.key for factor in found.factors] == ["net", "hyper.mu"]
    assert len(found.groups) == 4
    for group in found.groups:
        net, mu = (text.split("=")[1] for text in group.label.split())
        own = [scores[net, float(mu), seed] for seed in range(3)]
        assert group.score.mean == pytest.approx(statistics.fmean(own), rel=1e-12)
        assert group.costs["evaluations"] == 1000 * float(mu)
        assert group.costs["seconds"] == 11.0
    means = [group.score.mean for group in found.groups]
    assert means == sorted(means, reverse=True)
    assert found.against == found.groups[0].label and found.groups[0].difference is None


def test_effects_against_brute_force(sweep):
    root, scores = sweep
    members = entries(root)
    found = {effect.key: effect for effect in compare(members, members[0].metric()).effects}
    differences = [
        scores["lip", mu, seed] - scores["dncnn", mu, seed]
        for mu in (0.05, 0.5)
        for seed in range(3)
    ]
    assert (found["net"].value, found["net"].reference) == ("lip", "dncnn")
    assert found["net"].change.count == 6
    mean, half = mean_and_interval(differences)
    assert found["net"].change.mean == pytest.approx(mean, rel=1e-12)
    assert found["net"].change.interval == pytest.approx(half, rel=1e-12)
    differences = [
        scores[net, 0.5, seed] - scores[net, 0.05, seed]
        for net in ("dncnn", "lip")
        for seed in range(3)
    ]
    assert found["hyper.mu"].change.mean == pytest.approx(statistics.fmean(differences), rel=1e-12)
    assert (found["hyper.mu"].value, found["hyper.mu"].reference) == ("0.5", "0.05")


def test_keys_of_a_choice_are_not_held_where_the_choice_is_compared(tmp_path):
    for mu, seed in itertools.product((0.1, 0.9), (0, 1)):
        config = {"hyper": {"mu": mu}}
        make_run(tmp_path / f"b{mu}{seed}", 30 + mu + seed, seed=seed, config=config)
    for seed in (0, 1):
        make_run(tmp_path / f"u{seed}", 29.0 + seed, seed=seed, hyper="unrolled", config={})
    found = compare(entries(tmp_path), entries(tmp_path)[0].metric())
    effect = {(one.key, one.value): one for one in found.effects}
    assert effect["hyper", "unrolled"].change.mean == pytest.approx(
        -1.5
    )  # against the mean of both
    assert effect["hyper", "unrolled"].change.count == 2
    assert effect["hyper.mu", "0.9"].change.mean == pytest.approx(0.8)


def test_a_published_method_is_one_difference(tmp_path):
    make_run(tmp_path / "a", 30.0, net="dncnn", config={"net": {"depth": 5}})
    make_run(tmp_path / "b", 31.0, net="lip", config={"net": {"filters": 24}})
    make_run(
        tmp_path / "c",
        *(29.0,),
        method="tv",
        net="none",
        hyper="none",
        config={"task": {"form": "tv"}, "train": {"steps": 0}},
    )
    members = entries(tmp_path)
    found = factors(members)
    assert [describe(found, i) for i in range(3)] == [
        "net=dncnn",
        "net=lip",
        "method=tv",
    ]


def test_failed_runs_are_counted_and_have_no_score(sweep):
    root, _ = sweep
    config = {"net": {"depth": 3}, "hyper": {"mu": 0.5}}
    make_run(root / "lost", 99.0, net="lip", seed=3, status="failed", config=config)
    text = summary([str(root)])
    line = next(line for line in text.splitlines() if line.startswith("net=lip hyper.mu=0.5"))
    assert "3 of 4" in line and "99" not in text


@pytest.mark.parametrize(
    "changed, why",
    [
        ({"protocol": "uint8"}, "other protocols: float and uint8"),
        ({"data": {"test": {"hash": "xyz"}, "kernels": ["motion0"]}}, "other test data: abc"),
        ({"data": {"test": {"hash": "abc"}, "kernels": ["disk"]}}, "other test data: kernels"),
        ({"task": "derain"}, "other tasks: deconv and derain"),
        ({"images": {"camera": {"psnr_input": 18.2, "psnr": 30}}}, "psnr_input of camera is 21.5"),
        ({"images": {"moon": {"psnr_input": 21.5, "psnr": 30}}}, "the test cases have other names"),
    ],
)
def test_what_does_not_compare_is_refused(tmp_path, changed, why):
    make_run(tmp_path / "a", 30.0)
    make_run(tmp_path / "b", 31.0, **changed)
    with pytest.raises(InputError, match=why):
        summary([str(tmp_path)])
    assert f"compared anyway, although they differ: {tmp_path}" in summary(
        [str(tmp_path), "--anyway"]
    )
    assert len(problems(entries(tmp_path))) == 2


def test_observations_of_two_machines_are_the_same(tmp_path):
    make_run(tmp_path / "a", 30.0)
    make_run(tmp_path / "b", 31.0, images={"camera": {"psnr_input": 21.5001, "psnr": 31.0}})
    assert different_problem(*entries(tmp_path)) is None


def test_csv_has_the_numbers_in_full(sweep):
    root, scores = sweep
    rows = list(csv.DictReader(io.StringIO(summary([str(root), "--csv"]))))
    assert len(rows) == 4
    own = {(row["net"], float(row["hyper.mu"])): row for row in rows}
    for (net, mu), row in own.items():
        values = [scores[net, mu, seed] for seed in range(3)]
        assert float(row["mean"]) == pytest.approx(statistics.fmean(values), rel=1e-15)
        assert float(row["interval95"]) == pytest.approx(mean_and_interval(values)[1], rel=1e-12)
        assert row["seeds"] == "3"
    assert [row["difference"] for row in rows].count("") == 1


def test_against_names_one_group(sweep):
    root, _ = sweep
    text = summary([str(root), "against=net=dncnn hyper.mu=0.05"])
    assert "difference to net=dncnn hyper.mu=0.05, over equal seeds" in text
    with pytest.raises(InputError, match="several groups fit"):
        summary([str(root), "against=dncnn"])
    with pytest.raises(InputError, match="no group fits"):
        summary([str(root), "against=vgg"])


@pytest.mark.parametrize(
    "words, message",
    [
        (["metric=test/psnrr"], "no run has the metric 'test/psnrr'; there are"),
        (["metric=train_seconds"], "say which values of train_seconds are better"),
        (["better=up"], "expected larger or smaller"),
        (["metrc=x"], "no column 'metrc'; did you mean 'metric'?"),
        (["--all"], "bmo compare has no --all; its flags are --anyway, --csv and --help"),
        (["task=derain"], "no runs of bmo train there"),
    ],
)
def test_mistakes_are_one_line(sweep, words, message):
    with pytest.raises(InputError, match=message):
        summary([str(sweep[0]), *words])


def test_any_metric_can_be_compared(sweep):
    root, _ = sweep
    assert summary([str(root), "metric=psnr"]) == summary([str(root)])
    text = summary([str(root), "metric=train_seconds", "better=smaller"])
    assert text.startswith("train_seconds (smaller is better) of 12 runs")


def test_one_seed_has_no_interval(tmp_path):
    make_run(tmp_path / "a", 30.0)
    make_run(tmp_path / "b", 31.0, hyper="unrolled")
    text = summary([str(tmp_path)])
    assert "one seed each: no intervals" in text and "±" not in text


@pytest.mark.parametrize(
    "damage",
    [
        {"metrics": 3},
        {"metrics": {"test/psnr": "high", "val/psnr": True}},
        {"metric": {"name": "psnr", "formats": {"psnr": ".99999f"}}},
        {"metric": [1], "images": 4, "data": "x", "pictures": 3},
        {"images": {"camera": 4}, "protocol": {"a": 1}, "certificate": [1]},
        {"seed": None, "task": "a\nb", "hyper": {"x": 1}},
    ],
)
def test_a_result_of_any_shape_is_data(tmp_path, damage):
    make_run(tmp_path / "a", 30.0)
    make_run(tmp_path / "b", 31.0, **damage)
    (tmp_path / "b" / "certificate.json").write_text('{"assumptions": [3], "trajectories": [1]}')
    text = summary([str(tmp_path), "--anyway"])
    assert text.startswith("test/psnr ")
    assert len(text) < 3000


def test_what_is_left_out_is_said_with_its_reason(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "a", 30.0)
    make_run(tmp_path / "untested", None, metrics={"val/psnr": 29.0}, seed=1)
    for i in range(7):
        make_run(tmp_path / f"e{i}", 33.0, run="outputs/a")
    make_run(tmp_path / "lost", 31.0, task=None)
    (make_run(tmp_path / "torn", 31.0) / "result.json").write_text("{")
    said = [
        "left out, about another run (bmo eval, bmo certify): 7 runs "
        "(e0, e1, e2, e3, e4 and 2 more)",
        "left out, damaged: 1 run (torn)",
        "left out, without the name of a task: 1 run (lost)",
        "finished without test/psnr: 1 run (untested)",
    ]
    lines = summary(["."]).splitlines()
    assert "of 2 runs," in lines[0]
    assert sorted(lines[1:5]) == sorted(said)
    assert len(list(csv.DictReader(io.StringIO(summary([".", "--csv"]))))) == 1
    assert sorted(capsys.readouterr().err.splitlines()) == sorted(f"bmo: {line}" for line in said)
    told = write_report([".", "output=r.html"])
    assert all(line in told and line in Path("r.html").read_text() for line in said[:3])
    with pytest.raises(InputError, match=r"no runs of bmo train there; left out, damaged: 1 run"):
        summary(["torn"])


def test_smaller_can_be_better(tmp_path):
    metric = {**PSNR, "name": "nmse", "larger_is_better": False}
    for name, value in (("a", -20.0), ("b", -30.0)):
        metrics = {"test/nmse": value}
        make_run(tmp_path / name, None, hyper=name, metric=metric, metrics=metrics, images={})
    found = compare(entries(tmp_path), Entry.metric(entries(tmp_path)[0]))
    assert [group.label for group in found.groups] == ["hyper=b", "hyper=a"]
