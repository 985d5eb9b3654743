"""`bmo table`: runs what is missing, reads what is there, says what failed.

Most tests call `make_table` in this process, as the command does after it has read its words.
"""

import contextlib
import csv
import errno
import fcntl
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import yaml
from made_tables import MINI, table_maker

from bmo_cli.config.locate import config_dir
from bmo_cli.errors import BmoError, InputError, Interrupted
from bmo_cli.results import files
from bmo_cli.tables import execute
from bmo_cli.training.trainer import Trainer

DOCUMENTS = ("mini.md", "mini.csv", "mini.tex")


@pytest.fixture
def make(tmp_path, monkeypatch):
    return table_maker(tmp_path, monkeypatch)


@pytest.fixture
def table(tmp_path, bmo):
    """The command line itself."""
    folder = tmp_path / "conf" / "table"
    folder.mkdir(parents=True)
    (folder / "mini.yaml").write_text(MINI)
    return lambda *words: bmo("table", "--config-dir", "conf", "mini", *words)


def results(out):
    files = sorted((out / "runs").glob("*/result.json"))
    return {file.parent.name: file.stat().st_mtime_ns for file in files}


def written(out):
    return [(out / name).read_bytes() for name in DOCUMENTS]


def rows_of(out, name="mini"):
    with (out / f"{name}.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
def test_table_runs_once_and_only_what_is_missing(make, caplog):
    caplog.set_level("INFO")
    out = make()
    text = (out / "mini.md").read_text()
    assert "| unrolled | " in text
    assert " ± " in text  # two seeds
    assert "bmo train task=toy train.steps=3" in text
    rows = rows_of(out)
    assert len(rows) == 4
    assert {row["evaluations"] for row in rows} == {"12.0"}
    before, documents = results(out), written(out)
    make()
    assert results(out) == before
    assert written(out) == documents
    first = next(iter(before))
    (out / "runs" / first / "result.json").unlink()
    caplog.clear()
    make()
    assert "4 cells, 1 to run" in caplog.text
    after = results(out)
    assert {name for name in after if after[name] != before[name]} == {first}
    assert written(out) == documents


@pytest.mark.slow
def test_what_runs_remark_is_in_the_documents(make):
    rows = {"few": ["eval.tolerance=1e-9"], "all": []}
    out = make(rows=rows)
    flag = "eval.tolerance=1e-09 was not reached within eval.iterations=4"
    text = (out / "mini.md").read_text()
    assert f"Remarks of the runs:\n\n- few: {flag} (2 of 2 seeds)\n\n" in text
    assert text.count(flag) == 1
    assert f"few: {flag} (2 of 2 seeds)" in (out / "mini.tex").read_text()
    assert {(row["row"], row["flags"]) for row in rows_of(out)} == {("few", flag), ("all", "")}


@pytest.mark.slow
def test_a_cell_is_a_run_folder(make, bmo):
    folder = next((make(seeds=[0]) / "runs").glob("unrolled*"))
    assert json.loads((folder / "result.json").read_text())["status"] == "ok"
    assert "step 3/3" in (folder / "run.log").read_text()
    done = bmo("eval", f"run={folder}")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_failed_cell_does_not_hide_the_others(make, tmp_path):
    rows = yaml.safe_load(MINI)["rows"] | {"bad": ["net=dncnn"]}
    with pytest.raises(BmoError, match="1 of 3 cells failed"):
        make(rows=rows, seeds=[0])
    text = (tmp_path / "out" / "mini.md").read_text()
    assert "| bad | - | - | DnCNN works on images" in text
    assert "| bmo | 0." in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": {"bad": ["hyper=bmoo"]}}, r"row 'bad', column '\(a\) many'"),
        ({"rows": {"bad": ["train.stps=3"]}}, "did you mean 'train.steps'?"),
        (
            {"rows": {"bad": ["hyper=separate"]}},
            "row 'bad', column .* fits a network, but net=none",
        ),
        ({"seeds": ["x"]}, r"table.seeds\[0\] must be an integer"),
        ({"seeds": []}, "table.seeds is empty"),
        ({"scores": {"evaluations": "zz"}}, "table.scores.evaluations must be a format"),
        ({"tune": {"bm": {"gkm.alpha": [0.5]}}}, "table.tune: 'bm' .* did you mean 'bmo'"),
        ({"tune": {"bmo": {"gkm.alpha": [0.5, 7]}}}, "row 'bmo'.* gkm.alpha must"),
        ({"adjust": {"bm": {}}}, "table.adjust: 'bm' .* did you mean 'bmo'"),
        ({"adjust": {"bmo": {"(b)": []}}}, r"table.adjust.bmo: '\(b\)' is not in this table"),
        ({"presets": {"cpu": {"sead": [0]}}}, "unknown key 'table.presets.cpu.sead'"),
        ({"presets": {"cpu": {"rows": ["bom"]}}, "preset": "cpu"}, "'bom' .* did you mean 'bmo'"),
        ({"preset": "cpu"}, "preset=cpu is not one of this table; it has none"),
        ({"presets": {"smoke": {}}, "preset": "cpu"}, "preset=cpu .* it has smoke"),
        ({"published": [{"row": "a"}]}, "'table.published.0.column' is missing"),
        (
            {
                "published": [
                    {
                        **{"row": "bmo", "column": "(a) many", "score": "evaluations"},
                        **{"value": 1, "source": "s", "protocol": " "},
                    }
                ]
            },
            r"table.published\[0\].protocol is empty",
        ),
        ({"jobs": 0}, "jobs must be an integer >= 1"),
        ({"only": "deconv"}, "task=deconv is not in this table; it has toy"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_runs(make, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        make(**changes)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_table_must_be_named(bmo, table):
    done = bmo("table")
    assert done.returncode == 2
    assert "bmo table NAME, with NAME one of aggregation, convergence, " in done.stderr
    assert "known optima" in bmo("table", "--help").stdout
    done = bmo("table", "tyo")
    assert done.returncode == 2
    assert "unknown table 'tyo'" in done.stderr
    assert "without -m" in table("-m").stderr
    done = table("--dry-run", "table.seeds=[0]")
    assert "in all: 2 cells of unknown time; nothing was run" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (ZeroDivisionError("of the program"), "ZeroDivisionError: of the program"),
        (SystemExit(3), "sys.exit(3) was called, by a plug-in or a library"),
        (MemoryError(), "memory ran out"),
    ],
)
def test_an_error_of_the_program_is_one_cell_s_own(make, tmp_path, monkeypatch, raised, said):
    step = Trainer._step

    def broken(self, sample):
        if self.experiment.hyper.__class__.__name__ == "Unrolled":
            raise raised
        return step(self, sample)

    monkeypatch.setattr(Trainer, "_step", broken)
    with pytest.raises(BmoError, match="1 of 2 cells failed"):
        make(seeds=[0])
    out = tmp_path / "out"
    assert said in (out / "mini.md").read_text()
    assert "| bmo | 0." in (out / "mini.md").read_text()
    folder = next((out / "runs").glob("unrolled*"))
    assert json.loads((folder / "result.json").read_text())["status"] == "failed"
    assert "Traceback" in (folder / "run.log").read_text()


@pytest.mark.slow
def test_two_tables_do_not_share_a_folder(make, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with (out / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another bmo table works in"):
            make()
    assert not (out / "runs").exists()


@pytest.mark.slow
def test_interrupted_anywhere_it_gives_the_identical_table(make, monkeypatch, tmp_path):
    scores = {"test/distance": ".4f", "train/loss": ".12f"}  # the loss is an average over steps
    expected = written(make(out="whole", seeds=[0], scores=scores))
    step, starts, resumed = Trainer._step, 0, 0
    for _ in range(20):  # a stop after every second step: within cells, and at the end of one
        left = 2

        def counted(self, sample):
            nonlocal left
            found = step(self, sample)
            left -= 1
            if left == 0:
                self.stop.signal = signal.SIGINT
            return found

        monkeypatch.setattr(Trainer, "_step", counted)
        starts += 1
        with contextlib.suppress(Interrupted):
            make(out="parts", seeds=[0], scores=scores)
            break
        logs = [file.read_text() for file in (tmp_path / "parts" / "runs").glob("*/run.log")]
        resumed = max(resumed, sum("going on after step 2" in text for text in logs))
    assert starts > 2
    assert resumed > 0
    assert written(tmp_path / "parts") == expected


STOPPING = """
import multiprocessing, os, signal, time
from pathlib import Path
from bmo_cli.hyper.aggregation import Unrolled


class Stopping(Unrolled):
    calls = 0

    def objective(self, scheme, sample, iterations):
        self.calls += 1
        if self.calls == 1 and Path("stop").exists():
            asked = Path("stop").read_text()
            Path("stop").unlink()
            if asked == "SIGINT":  # Ctrl-C for the table; its cells hear of it
                os.kill(multiprocessing.parent_process().pid, signal.SIGINT)
            else:  # as `timeout` does it: every process of the group
                parent = multiprocessing.parent_process().pid
                for pid in (parent, os.getppid(), os.getpid()):  # the second is their server
                    os.kill(pid, signal.SIGTERM)
            time.sleep(1.5)
        return super().objective(scheme, sample, iterations)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_several_jobs_that_are_stopped_give_the_identical_table(tmp_path, table, make, asked, code):
    plugin = f"stopping_{code}"
    (tmp_path / f"{plugin}.py").write_text(STOPPING)
    own = f"hyper._target_={plugin}.Stopping"
    rows = yaml.safe_load(MINI)["rows"] | {"unrolled": ["hyper=unrolled", own]}
    given = {"rows": rows, "plugins": [f"{plugin}.py"], "seeds": [0]}
    make(**given, out="one")
    row = f"table.rows.unrolled=['hyper=unrolled','{own}']"
    words = (row, f"plugins=[{plugin}.py]", "table.seeds=[0]")
    (tmp_path / "stop").write_text(asked)
    done = table(*words, "out=two", "jobs=2")
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1 and "the same command goes on" in done.stderr
    assert not (tmp_path / "two" / "mini.md").exists()
    folder = next((tmp_path / "two" / "runs").glob("unrolled*"))
    assert "stopped after step 1" in (folder / "result.json").read_text()
    make(**given, out="two", jobs=2)
    assert "going on after step 1" in (folder / "run.log").read_text()
    assert written(tmp_path / "two") == written(tmp_path / "one")


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_what_is_done_stays_usable(make, monkeypatch, tmp_path):
    expected = written(make(out="whole", seeds=[0]))
    fsync, left = os.fsync, 0

    def limited(handle):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(files.os, "fsync", limited)
    for room in (0, 5, 16, 12):  # files: in the first cell, in the second, in the documents
        left = room
        with pytest.raises(BmoError, match="no space left on the disk") as caught:
            make(out="parts", seeds=[0])
            pytest.fail(f"{room} files are a whole table")
        assert caught.value.exit_code == 4
    monkeypatch.setattr(files.os, "fsync", fsync)
    assert written(make(out="parts", seeds=[0])) == expected


def unfinished(folder, **changes):
    """What is there of a cell that ended after its training, before its result."""
    result = json.loads((folder / "result.json").read_text())
    del result["identity"]
    (folder / "result.json").write_text(json.dumps(result | changes))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{"status": "interrupted"}, {"status": "running", "steps": 0, "train_seconds": 0.0}],
    ids=["stopped during evaluation", "killed"],
)
def test_a_trained_cell_is_not_trained_again(make, changes):
    out = make(seeds=[0])
    expected, folder = written(out), next((out / "runs").glob("unrolled*"))
    unfinished(folder, **changes)
    make(seeds=[0])
    assert "going on after step 3" in (folder / "run.log").read_text()
    assert json.loads((folder / "result.json").read_text())["status"] == "ok"
    assert written(out) == expected


@pytest.mark.slow
def test_a_cell_that_only_lacks_its_certificate_is_not_trained_again(make):
    common = ["task=toy", "train.steps=3", "certify=true", "train.validate_every=2"]
    out = make(seeds=[0], common=common)
    folder = next((out / "runs").glob("unrolled*"))
    result = json.loads((folder / "result.json").read_text())
    certificate = result.pop("certificate")
    (folder / "result.json").write_text(json.dumps(result))
    make(seeds=[0], common=common)
    assert "going on after step 3" in (folder / "run.log").read_text()
    assert json.loads((folder / "result.json").read_text())["certificate"] == certificate


@pytest.mark.slow
def test_a_cell_of_other_code_starts_again_and_says_so(make, caplog):
    caplog.set_level("INFO")
    out = make(seeds=[0])
    folder = next((out / "runs").glob("unrolled*"))
    unfinished(folder, status="interrupted", code="other")
    make(seeds=[0])
    assert "unrolled, (a) many, seed 0 starts again: the code has changed" in caplog.text
    assert "going on" not in (folder / "run.log").read_text()


@pytest.mark.slow
def test_a_failed_candidate_is_named(make, monkeypatch):
    train = execute.train

    def failing(run):
        if run.config.gkm["alpha"] == 0.3 and not run.config.eval.test:
            raise BmoError("out of memory")
        return train(run)

    monkeypatch.setattr(execute, "train", failing)
    with pytest.raises(BmoError, match="1 of 4 cells failed"):
        make(seeds=[0], tune={"bmo": {"gkm.alpha": [0.3, 0.6]}}, out="out")
    text = Path("out/mini.md").read_text()
    assert "**Not among the candidates**, as it failed: bmo (gkm.alpha=0.3)" in text
    assert "| bmo | 0." in text and "gkm.alpha=0.6" in text


@pytest.mark.slow
def test_seeds_of_the_command_count_more_than_those_of_a_preset(table, tmp_path):
    words = ("preset=cpu", "+table.presets.cpu.seeds=[4,5]", "dry_run=true")
    assert "seed 4" in table(*words).stdout
    shown = table(*words, "seeds=[7]").stdout
    assert "seed 7" in shown and "seed 4" not in shown


@pytest.mark.slow
def test_cells_of_other_code_are_kept_and_named(make, caplog):
    out = make(seeds=[0])
    folder = next((out / "runs").glob("unrolled*"))
    result = json.loads((folder / "result.json").read_text())
    assert len(result["code"]) == 16
    (folder / "result.json").write_text(json.dumps(result | {"code": "other"}))
    before = results(out)
    make(seeds=[0])
    assert results(out) == before
    named = "Computed by other code than the present: unrolled, (a) many, seed 0."
    assert named in (out / "mini.md").read_text()
    make(seeds=[0], stale="run")
    assert [n for n, t in results(out).items() if t != before[n]] == [folder.name]
    assert named not in (out / "mini.md").read_text()


@pytest.mark.slow
def test_dry_run_lists_and_writes_nothing(make, tmp_path, caplog):
    caplog.set_level("INFO")
    make(dry_run=True, common=["task=toy", "train.max_minutes=3"])
    assert caplog.text.count("at most, before the test, 3 min") == 4
    assert "in all: at most 12 min" in caplog.text
    assert not (tmp_path / "out").exists()
    out = make(seeds=[0])
    folder = next((out / "runs").glob("bmo*"))
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(result | {"cell_seconds": 70.0}))
    before = results(out)
    caplog.clear()
    make(dry_run=True)
    lines = [" ".join(line.split()) for line in caplog.text.splitlines()]
    assert "bmo, (a) many, seed 0 done" in lines
    assert "bmo, (a) many, seed 1 to run about 70 s" in lines
    assert results(out) == before


@pytest.mark.slow
def test_a_preset_is_the_table_at_another_scale(make):
    presets = {
        "smoke": {
            "common": ["train.steps=2"],
            "rows": {"unrolled": ["train.iterations=2"]},
            "seeds": [5],
        }
    }
    out = make(presets=presets, preset="smoke")
    (row,) = rows_of(out, "mini-smoke")
    assert (row["row"], row["seed"], row["evaluations"]) == ("unrolled", "5", "4.0")


@pytest.mark.slow
def test_a_row_is_adjusted_in_one_column_alone(make):
    columns = {"b": ["task.problem=b"], "c": ["task.problem=c"]}
    out = make(
        columns=columns, seeds=[0], adjust={"bmo": {"c": ["hyper.mu=0.25", "train.steps=2"]}}
    )
    found = {}
    for folder in (out / "runs").iterdir():
        config = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())
        place = tuple(folder.name.split("--")[:2])
        found[place] = config["hyper"].get("mu"), config["train"]["steps"]
    assert found == {
        ("bmo", "b"): (0.9, 3),
        ("bmo", "c"): (0.25, 2),
        ("unrolled", "b"): (None, 3),
        ("unrolled", "c"): (None, 3),
    }


@pytest.mark.slow
def test_tuned_values_are_chosen_by_validation_alone(make):
    values = [0.001, 0.3]
    table = {
        "common": ["task=sparse_coding", "task.rows=16", "task.columns=32", "gkm=pg", "hyper=none"],
        "rows": {"ista": [], "tuned": ["eval.iterations=30"]},
        "columns": {"codes": ["task.val_count=20", "task.test_count=20"]},
        "scores": {"test/nmse": ".2f", "val/nmse": ".4f"},
        "tune": {"tuned": {"task.kappa": values}},
    }
    out = make(**table)
    assert len(rows_of(out)) == 2  # nothing is trained: one seed is enough
    found = {}
    for folder in (out / "runs").glob("tuned*"):
        result = json.loads((folder / "result.json").read_text())
        config = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())
        tested = "test/nmse" in result["metrics"]
        found[config["task"]["kappa"], tested] = result["metrics"]["val/nmse"]
    judged = {kappa: value for (kappa, tested), value in found.items() if not tested}
    assert set(judged) == set(values)
    best = min(judged, key=judged.get)
    assert [kappa for kappa, tested in found if tested] == [best]
    row = next(row for row in rows_of(out) if row["row"] == "tuned")
    assert row["chosen"] == f"task.kappa={best}"
    assert f"| task.kappa={best} |" in (out / "mini.md").read_text()


PHOTOS = """
title: Photographs
figures: [crops]
common: [task=deconv, debug=tiny, train.steps=2, data.crop=24, task.kernel_size=7]
rows:
  total variation: [method=tv]
  unrolled: [hyper=unrolled, net=dncnn, net.width=4, net.depth=2]
columns: {}
scores: {test/psnr: .2f}
input: degraded
seeds: [0]
"""


@pytest.mark.slow
def test_missing_data_is_the_cells_own_failure_and_moved_data_is_the_same(make, photos, tmp_path):
    def column(folder, noise=2):
        names = [f"data.{split}={folder / split}" for split in ("train", "val", "test")]
        return ["data=folder", f"task.noise={noise}", *names]

    columns = {"there": column(photos), "gone": column(tmp_path / "gone", noise=3)}
    with pytest.raises(BmoError, match="2 of 4 cells failed"):
        make(PHOTOS, columns=columns)
    out = tmp_path / "out"
    text = (out / "mini.md").read_text()
    there, gone = text.split("## gone")
    assert "does not exist" in gone and "does not exist" not in there
    assert there.count("| degraded | ") == 1
    assert (out / "mini-there.png").stat().st_size > 10_000
    assert not (out / "mini-gone.png").exists()
    before = results(out)
    shutil.move(photos, tmp_path / "moved")
    make(PHOTOS, columns={"there": column(tmp_path / "moved")})
    after = results(out)
    assert before.items() <= after.items() and len(after) == len(before)
    names = sorted((tmp_path / "moved" / "test").iterdir())
    shutil.copy(names[0], names[1])  # other data: other cells
    make(PHOTOS, columns={"there": column(tmp_path / "moved")})
    assert len(results(out)) == len(after) + 2


FIGURES = """
# two tasks, certified, with a picture
title: Two tasks
figures: [convergence]
common: [certify=true, certificate.turns=2, train.steps=6, train.log_every=1, train.iterations=4]
rows:
  bmo: [hyper=bmo]
  unrolled: [hyper=unrolled]
skip:
  unrolled: [sparse_coding]
columns:
  many: [task=toy]
  codes: [task=sparse_coding, task.rows=8, task.columns=12, task.val_count=3, task.test_count=3]
scores:
  train/loss: .3e
  certificate/ratio: .4f
seeds: [0]
"""


@pytest.mark.slow
def test_table_of_one_task_with_its_figure(make, caplog):
    caplog.set_level("INFO")
    out = make(FIGURES, only="toy")
    assert "2 cells, 2 to run" in caplog.text
    assert (out / "mini-toy.png").stat().st_size > 10_000
    assert "## codes" not in (out / "mini-toy.md").read_text()
    make(FIGURES)
    assert "3 cells, 1 to run" in caplog.text  # unrolled is skipped on sparse coding
    text = (out / "mini.md").read_text()
    assert "## many" in text and text.split("## codes")[1].count("| unrolled |") == 0
    assert (out / "mini-sparse_coding.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "file", sorted((config_dir() / "table").glob("*.yaml")), ids=lambda f: f.stem
)
@pytest.mark.parametrize("preset", ["smoke", "cpu", "paper"])
def test_every_table_has_every_preset(file, preset):
    assert preset in yaml.safe_load(Path(file).read_text())["presets"]
