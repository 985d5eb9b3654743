"""result.json as an object: what is written is read, and nothing of another type gets in."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bmo_cli.config.names import NAMED
from bmo_cli.errors import InputError
from bmo_cli.results import result as parts
from bmo_cli.results.json_types import convert
from bmo_cli.results.result import Certification, RunResult, Score, Training

SCORE = Score("psnr", "dB", formats={"psnr": ".2f"})
FULL = RunResult(
    status="ok",
    message="a message",
    metrics={"test/psnr": 30.5, "test/ssim": None, "test/iterations": 5},
    choices={"task": "deconv", "method": None, "gkm": "prox", "net": "dncnn", "hyper": "bmo"},
    run="outputs/a",
    seed=0,
    metric=SCORE,
    parameters=626,
    versions={"python": "3.11"},
    git={"hash": None, "dirty": None},
    code="abc",
    device="cpu",
    devices=2,
    nonexpansive=False,
    notes=["a note"],
    data={"test": {"hash": "abc"}, "kernels": ["motion0"]},
    plugins={"own.py": "abc"},
    weights={"net.weights": "abc"},
    steps=4,
    train_seconds=1.5,
    evaluations=10,
    products=20,
    best_step=3,
    profile={"loss": 0.5},
    images={"camera": {"psnr": 30.5, "ssim": None}},
    pictures={"camera": ["clean", "restored"]},
    protocol="float",
    flags={"clipped": 3},
    certificate="certified",
    peak_rss_mib=500.0,
    identity={"checkpoint": "abc"},
    trained_in="bmo--toy--0-abc",
    cell_seconds=2.5,
    gradients=[{"error": 1e-9}],
    norms=[{"error": 0.5}],
)


def write(folder, **content):
    (folder / "result.json").write_text(json.dumps({"status": "ok", **content}))
    return folder


@pytest.mark.parametrize("read", [RunResult.read, RunResult.read_tolerantly])
@pytest.mark.parametrize("result", [FULL, RunResult(status="running")])
def test_what_is_written_is_read(tmp_path, read, result):
    assert read(tmp_path) is None
    result.write(tmp_path)
    assert read(tmp_path) == result
    content = json.loads((tmp_path / "result.json").read_text())
    assert "choices" not in content and None not in [
        value for key, value in content.items() if key not in NAMED
    ]


numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 2**62)
scores = st.dictionaries(st.text(), st.none() | numbers)


@pytest.mark.slow
@given(
    status=st.sampled_from(["running", "ok", "interrupted", "failed"]),
    message=st.text(),
    metrics=scores,
    images=st.dictionaries(st.text(), scores),
    choices=st.dictionaries(st.sampled_from(NAMED), st.none() | st.text()),
    seed=st.none() | st.integers(0, 2**63 - 1),
    pictures=st.dictionaries(st.text(), st.lists(st.text())),
)
def test_any_text_and_any_number_is_read_as_written(tmp_path_factory, **values):
    folder, result = tmp_path_factory.mktemp("run"), RunResult(**values)
    result.write(folder)
    assert RunResult.read(folder) == RunResult.read_tolerantly(folder) == result


def test_what_is_not_finite_is_written_as_null(tmp_path):
    RunResult(status="ok", metrics={"a": math.nan, "b": -math.inf, "c": 1.0}).write(tmp_path)
    assert RunResult.read(tmp_path).metrics == {"a": None, "b": None, "c": 1.0}


def test_parts_join_what_is_there():
    training = Training(
        steps=4, train_seconds=1.5, evaluations=10, products=20, metrics={"val/psnr": 30.0},
        flags={"a": 1},
    )  # fmt: skip
    testing = parts.Testing(protocol="float", data={}, metrics={"test/psnr": 31.0}, flags={"b": 2})
    result = RunResult(status="running").including(training).including(testing)
    assert result.metrics == {"val/psnr": 30.0, "test/psnr": 31.0}
    assert result.flags == {"a": 1, "b": 2} and result.steps == 4 and result.protocol == "float"
    refused = Certification(certificate="refused", message="why", metrics={"certificate/bound": 2})
    assert result.including(refused).message == "why"
    assert len(result.including(refused).metrics) == 3 and result.certificate is None


WRONG = {
    "message": 3,
    "metrics": [],
    "task": {"x": 1},
    "run": 1,
    "seed": "0",
    "metric": "psnr",
    "parameters": 1.5,
    "versions": {"python": 3},
    "git": "abc",
    "code": 1,
    "device": ["cpu"],
    "devices": True,
    "nonexpansive": 1,
    "notes": "a note",
    "data": ["x"],
    "plugins": {"own.py": None},
    "weights": "abc",
    "steps": 1e400,
    "train_seconds": "1",
    "evaluations": {},
    "products": False,
    "best_step": "last",
    "profile": {"loss": None},
    "images": {"camera": 4},
    "pictures": {"camera": "clean"},
    "protocol": {"a": 1},
    "flags": {"a": 0.5},
    "certificate": [1],
    "peak_rss_mib": 10**400,
    "identity": {"checkpoint": 1},
    "trained_in": 1,
    "cell_seconds": True,
    "gradients": {"error": 1},
    "norms": [3],
}


EMPTIED = {
    **{key: {} for key in ("versions", "plugins", "profile", "images", "pictures", "flags")},
    "identity": {},
    "norms": [],
}
"""Containers of which the wrong values above are entries."""


def test_every_field_has_a_wrong_value():
    assert {*WRONG} == {*RunResult.__dataclass_fields__, "task"} - {"status", "choices"}


@pytest.mark.parametrize("key", WRONG)
def test_a_value_of_another_type_is_refused_or_left_out(tmp_path, key):
    write(tmp_path, **{key: WRONG[key]})
    with pytest.raises(InputError, match=rf"result\.json is damaged: .*{key}"):
        RunResult.read(tmp_path)
    found = RunResult.read_tolerantly(tmp_path)
    kept = replace(RunResult(status="ok"), **({key: EMPTIED[key]} if key in EMPTIED else {}))
    assert found == kept


@pytest.mark.parametrize("read", [RunResult.read, RunResult.read_tolerantly])
@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "3", "{}", '{"status": "odd"}', '{"status": null}', '{"status": ["ok"]}'),
        *('{"status": true}', "[" * 100_000, '{"status": "ok", "seed": ' + "1" * 5000 + "}"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path, read, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(InputError, match=r"result\.json (cannot be read|is damaged): "):
        read(tmp_path)


def test_a_folder_or_a_pipe_is_no_result(tmp_path):
    (tmp_path / "result.json").mkdir()
    assert RunResult.read(tmp_path) is None


def test_entries_that_do_not_fit_are_left_out_alone(tmp_path):
    write(
        tmp_path,
        metrics={"a": 1.0, "b": "high", "c": True, "d": None, "e": 10**400, "f": [1]},
        images={"camera": {"psnr": 30.0, "x": "y"}, "moon": 3},
        pictures={"camera": ["clean", 3, None], "moon": "clean"},
        task="deconv",
        net=3,
        hyper=None,
        metric={"name": "psnr", "unit": 3, "larger_is_better": None, "formats": {"psnr": 2}},
    )
    found = RunResult.read_tolerantly(tmp_path)
    assert found.metrics == {"a": 1.0, "d": None}
    assert found.images == {"camera": {"psnr": 30.0}}
    assert found.pictures == {"camera": ["clean"]}
    assert found.choices == {"task": "deconv", "hyper": None}
    assert found.metric == Score("psnr")
    write(tmp_path, metric={"name": 3, "unit": "dB"})
    assert RunResult.read_tolerantly(tmp_path).metric is None


def test_a_list_keeps_the_positions_of_what_fits():
    numbers = convert([1.0, "x", None, 2.0], Sequence[float | None], tolerant=True)
    assert numbers == [1.0, None, None, 2.0]
    with pytest.raises(InputError, match=r"r\[1\] must be a number"):
        convert([1.0, "x"], Sequence[float | None], "r")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
keys = st.sampled_from([*RunResult.__dataclass_fields__, *NAMED])


@pytest.mark.slow
@settings(
    deadline=None,
    max_examples=60,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],  # on a busy machine
)
@given(
    content=st.dictionaries(keys, anything, max_size=6),
    metric=st.dictionaries(
        st.sampled_from(["name", "unit", "larger_is_better", "formats"]), anything
    ),
)
def test_what_is_read_tolerantly_is_read_strictly(tmp_path_factory, content, metric):
    """Any JSON is read, and what is left of it has the declared types."""
    folder = write(tmp_path_factory.mktemp("run"), **{**content, "metric": metric, "status": "ok"})
    result = RunResult.read_tolerantly(folder)
    result.write(folder)
    assert RunResult.read(folder) == RunResult.read_tolerantly(folder)
