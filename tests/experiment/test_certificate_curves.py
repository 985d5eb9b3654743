"""Curves of a certificate: T from several starts, with the score along the way."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from conftest import make_photos, run_bmo, tiny_words
from PIL import Image

from bmo_cli.config.schema import Certify
from bmo_cli.experiment.certificate_curves import (
    Recorder,
    curve_starts,
    scored_counts,
    trace_starts,
)
from bmo_cli.experiment.evaluation import trace_case, trace_cases
from bmo_cli.experiment.load import load_run
from bmo_cli.gkm.proximal import DouglasRachford, ProximalGradient
from bmo_cli.gkm.scheme import GKM
from bmo_cli.results.certificate_figure import draw_certificate
from bmo_cli.results.files import plain
from bmo_cli.solver.fixed_point import step
from bmo_cli.tasks.sparse_coding import SparseCoding
from bmo_cli.verification.certificate import certify
from bmo_cli.verification.examination import Subject

NAMES = ["the task's start", "zero", "ones", "noise", "far noise"]
LENGTH = 30


@pytest.fixture(scope="module")
def certified(tmp_path_factory):
    """A run with a certificate of 30 iterations from every start, and another one of 2."""
    folder = tmp_path_factory.mktemp("curves")
    words = [word for word in tiny_words(make_photos(folder / "photos")) if "net." not in word]
    done = run_bmo(
        "train", *words, "net=lip", "net.width=4", "net.size=3", "hydra.run.dir=run",
        "certify=true", "certificate.cases=2", "certificate.turns=2",
        f"certificate.curve={LENGTH}", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = run_bmo(
        "certify", "run=run", "certificate.turns=2", "certificate.curve=2", "device=cpu",
        "hydra.run.dir=short", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def content(folder):
    return json.loads((folder / "certificate.json").read_text())


@torch.no_grad()
def reference_loop(mapping, u, task, case, counts):
    """Residuals and scores of T, with D applied and averaged by hand."""
    residuals, scores = [], []
    for k in range(max(counts)):
        du = mapping.D(u, k)
        step = tuple(a - b for a, b in zip(du, u, strict=True))
        size = mapping.metric.norm(u if float(mapping.metric.norm(u)) else du)
        residuals.append(float(mapping.metric.norm(step) / size))
        u = tuple((1 - mapping.alpha) * a + mapping.alpha * b for a, b in zip(u, du, strict=True))
        if k + 1 in counts:
            scores.append(task.score(mapping.estimate(u), case)["psnr"])
    return residuals, scores


def test_the_curves_are_those_of_a_plain_loop_over_the_map(certified):
    curves = content(certified / "run")["curves"]
    _, experiment = load_run(certified / "run")
    experiment.task.prepare(["val"])
    case = next(iter(experiment.task.cases("val")))
    assert (curves["case"], curves["metric"], curves["unit"]) == (case.name, "psnr", "dB")
    assert curves["counts"][0] == 1 and curves["counts"][-1] == LENGTH
    assert list(curves["starts"]) == NAMES
    (y,) = case.initial
    generator = torch.Generator().manual_seed(0)
    begin = {
        "the task's start": y,
        "zero": torch.zeros_like(y),
        "ones": torch.ones_like(y),
        "noise": max(float(y.abs().max()), 1.0) * torch.rand(y.shape, generator=generator),
    }
    mapping = experiment.scheme.bind(case.problem)
    for name, start in begin.items():
        curve = curves["starts"][name]
        residuals, scores = reference_loop(
            mapping, mapping.lift((start,)), experiment.task, case, curves["counts"]
        )
        assert curve["residuals"] == pytest.approx(residuals, rel=1e-3, abs=1e-7), name
        assert curve["scores"] == pytest.approx(scores, abs=1e-3), name
    firsts = [curve["residuals"][0] for curve in curves["starts"].values()]
    assert len(set(firsts)) == len(NAMES)


def test_the_curves_decide_nothing(certified):
    """Every other entry of the certificates is the same, however long the curves are."""
    run, short = content(certified / "run"), content(certified / "short")
    assert len(run.pop("curves")["starts"]["zero"]["residuals"]) == LENGTH
    assert short.pop("curves")["counts"] == [1, 2]
    assert (run["search"].pop("curve"), short["search"].pop("curve")) == (LENGTH, 2)
    assert run == short
    assert Certify(curve=1).weaker_than_default(2) == []


def test_the_picture_differs_with_its_curves(certified):
    pictures = [Image.open(certified / name / "certificate.png") for name in ("run", "short")]
    assert all(min(picture.size) > 500 for picture in pictures)
    assert pictures[0].tobytes() != pictures[1].tobytes()


def sparse_case(snr=30.0):
    task = SparseCoding(rows=8, columns=12, form="lasso", val_count=2, snr=snr)
    return task, next(iter(task.cases("val")))


def test_far_noise_lies_beyond_the_range_and_follows_the_seed():
    initial = (torch.full((1, 1, 40, 40), 0.5),)
    first, again, other = (curve_starts(initial, seed) for seed in (3, 3, 4))
    assert list(first) == NAMES
    assert float(first["far noise"][0].std()) == pytest.approx(3, rel=0.1)
    assert float(first["noise"][0].min()) >= 0 and float(first["noise"][0].max()) <= 1
    for name in NAMES:
        assert torch.equal(first[name][0], again[name][0])
        assert torch.equal(first[name][0], other[name][0]) == ("noise" not in name)
    at_zero = curve_starts((torch.zeros(1, 5),), 0)
    assert list(at_zero) == [name for name in NAMES if name != "zero"]


@pytest.mark.parametrize("trained", [1, 7, 20, 5000])
@pytest.mark.parametrize("iterations", [1, 2, 30, 1000])
def test_scored_counts_are_spread_and_hold_the_trained_number(iterations, trained):
    counts = scored_counts(iterations, trained)
    assert list(counts) == sorted(set(counts)) and len(counts) <= 26
    assert counts[0] == 1 and counts[-1] == iterations
    assert min(trained, iterations) in counts
    if iterations == 1000:
        assert len(counts) > 20
        assert all(b <= max(1.5 * a, a + 1) for a, b in pairwise(counts))


class Growing(ProximalGradient):
    """D(u) = 1e20 u, which leaves float32 after two iterations."""

    factor = 1e20

    def bind(self, problem):
        bound = super().bind(problem)
        return type(bound)(
            lambda u, k: tuple(self.factor * a for a in u),
            *(bound.metric, bound.lift, bound.readout),
        )


def test_a_start_that_diverges_is_scored_as_bad_as_can_be(tmp_path):
    task, case = sparse_case()
    scheme = GKM(operator=Growing())
    curves = trace_starts(scheme, task, case, trained=3, iterations=50, seed=0)
    grown = curves.starts["ones"]
    assert len(grown.residuals) < 5 and all(map(math.isfinite, grown.residuals))
    assert grown.scores[-1] == math.inf and not task.larger_is_better
    assert curves.starts["the task's start"].scores[-1] < math.inf  # 0 stays
    assert None in plain(curves)["starts"]["ones"]["scores"]
    draw_certificate(curves, 3, "not certified", "$no_bound^", tmp_path / "drawn.png")
    assert (tmp_path / "drawn.png").stat().st_size > 5000


def recorded(scheme, task, cases, counts, horizon=10):
    """A recorder that watched a certificate of 10 iterations, and that certificate."""
    recorder = Recorder(task, cases, counts)
    problems = [(case.problem, case.initial) for case in cases]
    subject = Subject(scheme, True, 1, None, problems, None, None, watch=recorder.watch)
    settings = Certify(cases=len(cases), horizon=horizon, turns=1)
    return recorder, certify(subject, settings)


def test_what_a_certificate_iterates_is_recorded_as_if_it_were_iterated_again():
    (task, first), (_, second) = sparse_case(), sparse_case(5.0)
    initial = tuple(0.1 + block for block in first.initial)  # not 0: three starts
    scheme, counts, cases = GKM(operator=ProximalGradient()), [1, 4, 9], [first, second]
    cases[0] = replace(first, initial=initial)
    recorder, certificate = recorded(scheme, task, cases, counts)
    traces = recorder.traces(certificate.first, counts)
    begin = curve_starts(initial, 0)
    assert list(traces) == ["the task's start", "zero", "noise"]
    for name, trace in traces.items():
        assert trace == trace_case(scheme, task, cases[0], counts, [begin[name]])
    means = trace_cases(scheme, task, cases, counts)
    expected = {count: pytest.approx(means[f"nmse@{count}"]) for count in counts}
    assert recorder.scores(scheme, counts) == expected
    length = len(certificate.first["noise"].residuals)
    assert not recorder.traces(certificate.first, [length + 1])  # too short
    curves = trace_starts(scheme, task, cases[0], trained=3, iterations=9, seed=0)
    known = {"zero": trace_case(scheme, task, cases[0], curves.counts, [begin["ones"]])}
    other = trace_starts(scheme, task, cases[0], trained=3, iterations=9, seed=0, known=known)
    assert other.starts["zero"] == other.starts["ones"] == curves.starts["ones"]


def test_recorded_iterates_that_are_not_finite_score_as_bad_as_can_be():
    task, case = sparse_case()
    case = replace(case, initial=tuple(1 + block for block in case.initial))
    growing = Growing()
    growing.factor = 1e9
    scheme = GKM(operator=growing)
    recorder, certificate = recorded(scheme, task, [case], [1, 8])
    trace = recorder.traces(certificate.first, [1, 8])["noise"]
    begin = [curve_starts(case.initial, 0)["noise"]]
    assert trace == trace_case(scheme, task, case, [1, 8], begin)
    assert trace.scores[1] < trace.scores[8] == math.inf and 0 < len(trace.residuals) < 8


def test_a_case_of_several_problems_is_not_recorded():
    (task, first), (_, second) = sparse_case(), sparse_case(5.0)
    both = replace(first, further=[(second.problem, second.initial)])
    scheme = GKM(operator=ProximalGradient())

    class Joined(SparseCoding):
        def score(self, estimate, case):
            return {"nmse": float(len(estimate[0]))}

    task = Joined(rows=8, columns=12, val_count=2)
    recorder, certificate = recorded(scheme, task, [both], [5])
    assert recorder.traces(certificate.first, [5]) == {}
    size = len(first.initial[0]) + len(second.initial[0])
    assert recorder.scores(scheme, [5]) == {5: size}


def test_scores_of_several_cases_are_those_of_each():
    task, first = sparse_case()
    scheme, counts, cases = (
        GKM(operator=ProximalGradient()),
        [1, 4, 9],
        [first, sparse_case(5.0)[1]],
    )
    means = trace_cases(scheme, task, cases, counts)
    traces = [trace_case(scheme, task, case, counts) for case in cases]
    for count in counts:
        assert means[f"nmse@{count}"] == sum(trace.scores[count] for trace in traces) / 2
        assert means[f"step@{count}"] == sum(trace.steps[count] for trace in traces) / 2
    assert len(means) == 6 and all(len(trace.residuals) == 9 for trace in traces)
    assert len({score for trace in traces for score in trace.scores.values()}) == 6


@torch.no_grad()
def test_steps_are_those_of_the_estimate():
    """Iterates by hand, also of a scheme whose iterate is not the estimate."""
    task, case = sparse_case()
    for operator in (ProximalGradient(), DouglasRachford()):
        scheme = GKM(operator=operator)
        steps = trace_case(scheme, task, case, [1, 2, 7]).steps
        mapping, u, before = scheme.bind(case.problem), case.initial, None
        for k in range(1, 8):
            following = step(mapping, u, mapping.D(u, k - 1), k - 1)
            before, after = (mapping.estimate(v)[0].double() for v in (u, following))
            size = before.norm()
            expected = float((after - before).norm() / size) if size else math.inf
            if k in steps:
                assert steps[k] == pytest.approx(expected, rel=1e-6)
            u = following
        assert 0 < steps[7] < steps[2]


def test_a_case_of_several_problems_has_the_largest_residual():
    (task, first), (_, second) = sparse_case(), sparse_case(5.0)
    both = replace(first, further=[(second.problem, second.initial)])

    class Scored(SparseCoding):
        def score(self, estimate, case):
            assert len(estimate[0]) == len(first.initial[0]) + len(second.initial[0])
            return {"nmse": 1.0}

    scheme = GKM(operator=ProximalGradient())
    joint = trace_case(scheme, Scored(rows=8, columns=12, val_count=2), both, [5])
    single = [trace_case(scheme, task, each, [5]).residuals for each in (first, second)]
    assert joint.residuals == tuple(map(max, *single)) and joint.scores == {5: 1.0}
    assert single[0] != single[1]
