"""`bmo runs`: what is there, what is left to do, in lines and as CSV."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
from made_runs import make_run

from bmo_cli.errors import InputError
from bmo_cli.results.run_folder import RunFolder
from bmo_cli.results.runs import COLUMNS, frame, list_runs


def make(folder, age, **result):
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))
    when = (folder / "result.json").stat().st_mtime - age
    os.utime(folder / "result.json", (when, when))


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "outputs"
    good = {"task": "deconv", "gkm": "prox", "net": "dncnn", "hyper": "bmo", "seed": 0, "steps": 4}
    metrics = {"val/psnr": 20.5, "test/psnr": 31.25, "test/ssim": None}
    make(root / "day" / "a", 7200, status="ok", metrics=metrics, **good)
    make(root / "day" / "sweep" / "0", 90, status="running", **{**good, "hyper": "unrolled"})
    make(root / "day" / "sweep" / "1", 5, status="failed", message="no\nway", **good)
    (root / "day" / "b").mkdir()
    (root / "day" / "b" / "result.json").write_text("{")
    (root / "day" / "c\x1b[31m").mkdir()
    (root / "day" / "c\x1b[31m" / "result.json").write_text('{"status": "ok", "metrics": 3}')
    return root


def rows(text):
    return [line.split() for line in text.splitlines()[1:]]


def test_a_line_a_run_the_oldest_first(outputs):
    text = list_runs([])
    assert text.splitlines()[0].split() == list(COLUMNS)
    found = rows(text)
    assert found[0] == [
        *("outputs/day/a", "ok", "deconv", "prox", "dncnn", "bmo", "0", "4"),
        *("test/psnr=31.25", "2", "h"),
    ]
    assert found[1][:2] == ["outputs/day/sweep/0", "killed"]
    assert found[2][:2] == ["outputs/day/sweep/1", "failed"]
    assert sorted(row[1] for row in found[3:]) == ["damaged", "ok"]
    assert "\x1b" not in text and r"c\x1b[31m" in text


def test_a_run_in_progress_is_not_killed(outputs):
    with RunFolder(outputs / "day" / "sweep" / "0").claimed():
        assert rows(list_runs([str(outputs)]))[1][1] == "running"


def test_filters_and_folders(outputs):
    assert len(rows(list_runs(["status=ok,failed", "hyper=bmo"]))) == 2
    assert len(rows(list_runs([str(outputs / "day" / "sweep"), str(outputs / "day" / "a")]))) == 3
    assert len(rows(list_runs([str(outputs), str(outputs / "day")]))) == 5
    assert list_runs(["task=derain"]) == "no runs"


def test_csv_has_every_metric(outputs):
    found = list(csv.DictReader(io.StringIO(list_runs(["--csv"]))))
    assert [row["status"] for row in found][:3] == ["ok", "killed", "failed"]
    assert found[0]["test/psnr"] == "31.25" and found[0]["test/ssim"] == ""
    assert found[2]["message"] == r"no\nway"
    assert 7200 <= int(found[0]["age_seconds"]) < 7300
    assert json.loads((outputs / "day" / "sweep" / "0" / "result.json").read_text())["status"] == (
        "running"  # nothing is written
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "no folder nowhere; name one that holds runs"),
        (["statsu=ok"], "no column 'statsu'; did you mean 'status'?"),
        (["--json"], "bmo runs has no --json; its flags are --csv and --help"),
    ],
)
def test_mistakes(outputs, words, said):
    with pytest.raises(InputError, match="^" + said.replace("?", r"\?")):
        list_runs(words)


def test_the_command_line(bmo, trained):
    done = bmo("runs", ".", "status=ok")
    assert done.returncode == 0, done.stderr
    assert rows(done.stdout)[0][:2] == ["run", "ok"]
    refused = bmo("runs", "nowhere")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "usage: bmo runs" in bmo("runs", "--help").stdout


def test_a_bad_folder_hides_no_other(outputs):
    bad = outputs / "bad"
    for name in ("link", "deep", "huge"):
        (bad / name).mkdir(parents=True)
    (bad / "link" / "result.json").symlink_to("nowhere")
    (bad / "deep" / "result.json").write_text("[" * 200_000)
    (bad / "huge" / "result.json").write_text(
        '{"status": "ok", "metrics": {"test/psnr": 1' + "0" * 400 + "}}"
    )
    for words in ([], ["--csv"]):
        text = list_runs([*words, "outputs"])
        assert "outputs/day/a" in text and "outputs/bad/huge" in text


def test_a_frame_has_a_row_a_run(outputs):
    table = frame([Path("outputs")])
    told = pandas.read_csv(io.StringIO(list_runs(["--csv"])), keep_default_na=False)
    assert set(table["run"]) == set(told["run"]) and list(table.columns) == list(told.columns)
    assert table["test/psnr"].tolist()[0] == 31.25 and table["test/psnr"].dtype == float
    assert table["status"].tolist()[1:3] == ["killed", "failed"]


def test_a_frame_has_the_settings_that_differ(tmp_path):
    for mu in (0.1, 0.5):
        make_run(tmp_path / f"{mu}", 30 + mu, config={"hyper": {"mu": mu, "s": 1}, "seed": 0})
    (make_run(tmp_path / "none", 29.0) / ".hydra" / "config.yaml").write_text("[")
    make_run(tmp_path / "odd", 29.0, net="a\x00\ud800", config={"hyper": {"mu": "\x00"}})
    table = frame([tmp_path]).set_index("run")
    assert table.loc[str(tmp_path / "0.5"), "hyper.mu"] == 0.5
    assert {"hyper.mu", "hyper.s"} <= set(table.columns) and (table["seed"] == 0).all()
    assert len(frame([tmp_path / "0.1"])) == 1 and "hyper.mu" not in frame([tmp_path / "0.1"])


def test_a_status_that_no_run_has_is_refused(outputs):
    with pytest.raises(InputError, match="no status 'faild'; did you mean 'failed'"):
        list_runs(["status=ok,faild"])
    with pytest.raises(InputError, match="no status 'x'; known: starting, running, ok"):
        list_runs(["status=x"])


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--help"], ["runs"], ["compare", "--help"], ["train", "a=b"]])
def test_pandas_is_imported_where_it_is_used(outputs, words):
    code = (
        "import sys\nfrom bmo_cli.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert not {'pandas', 'jinja2'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
