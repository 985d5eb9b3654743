"""`bmo table`: runs what is missing, reads what is there, says what failed."""

import csv
import fcntl
import json

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

MINI = """
# two methods on a toy
title: Mini | a test
common: [task=toy, train.steps=3, train.iterations=4, train.validate_every=2]
rows:
  bmo: [hyper=bmo, hyper.mu=0.9]
  unrolled: [hyper=unrolled]
columns:
  (a) many: [task.problem=a]
scores:
  test/distance: .4f
  evaluations: .0f
seeds: [0, 1]
"""


@pytest.fixture
def table(tmp_path, bmo):
    folder = tmp_path / "conf" / "table"
    folder.mkdir(parents=True)
    (folder / "mini.yaml").write_text(MINI)
    return lambda *words: bmo("table", "--config-dir", "conf", "mini", *words)


def runs(tmp_path):
    folders = sorted((tmp_path / "outputs" / "tables" / "mini" / "runs").iterdir())
    return {f.name: (f / "result.json").stat().st_mtime_ns for f in folders}


def test_table_runs_once_and_only_what_is_missing(tmp_path, table):
    done = table()
    assert done.returncode == 0, done.stderr
    out = tmp_path / "outputs" / "tables" / "mini"
    text = (out / "mini.md").read_text()
    assert "| unrolled | " in text
    assert " ± " in text  # two seeds
    assert "bmo train task=toy train.steps=3" in text
    with (out / "mini.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 4
    assert {row["evaluations"] for row in rows} == {"12.0"}
    before = runs(tmp_path)
    assert table().returncode == 0
    assert runs(tmp_path) == before
    assert (out / "mini.md").read_text() == text
    first = next(iter(before))
    (out / "runs" / first / "result.json").unlink()
    done = table()
    assert "4 cells, 1 to run" in done.stdout
    after = runs(tmp_path)
    assert {name for name in after if after[name] != before[name]} == {first}
    csv_columns = ("column", "row", "seed", "test/distance", "evaluations")
    with (out / "mini.csv").open() as stream:
        again = [{k: row[k] for k in csv_columns} for row in csv.DictReader(stream)]
    assert again == [{k: row[k] for k in csv_columns} for row in rows]


def test_a_cell_is_a_run_folder(tmp_path, table, bmo):
    assert table("table.seeds=[0]").returncode == 0
    folder = next((tmp_path / "outputs" / "tables" / "mini" / "runs").glob("unrolled*"))
    assert json.loads((folder / "result.json").read_text())["status"] == "ok"
    assert "step 3/3" in (folder / "run.log").read_text()
    done = bmo("eval", f"run={folder}")
    assert done.returncode == 0, done.stderr


def test_a_failed_cell_does_not_hide_the_others(tmp_path, table):
    done = table("+table.rows.bad=['hyper=separate']", "table.seeds=[0]")
    assert done.returncode == 1
    assert "1 of 3 cells failed" in done.stderr
    text = (tmp_path / "outputs" / "tables" / "mini" / "mini.md").read_text()
    assert "| bad | - | - | hyper=separate fits a network" in text
    assert "| bmo | 0." in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["+table.rows.bad=['hyper=bmoo']"], "row 'bad', column '(a) many'"),
        (["+table.rows.bad=['train.stps=3']"], "did you mean 'train.steps'?"),
        (["table.seeds=[x]"], "table.seeds[0] must be an integer"),
        (["table.seeds=[]"], "table.seeds is empty"),
        (["table.scores.evaluations=zz"], "table.scores.evaluations must be a format"),
        (["-m"], "without -m"),
    ],
)
def test_a_wrong_row_is_refused_before_anything_runs(tmp_path, table, words, message):
    done = table(*words)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "outputs").exists()


def test_table_must_be_named(bmo):
    done = bmo("table")
    assert done.returncode == 2
    assert (
        "bmo table NAME, with NAME one of convergence, nonexpansive, toy, tradeoff" in done.stderr
    )
    assert "known optima" in bmo("table", "--help").stdout
    done = bmo("table", "tyo")
    assert done.returncode == 2
    assert "unknown table 'tyo'" in done.stderr


def test_an_error_of_the_program_is_one_cell_s_own(tmp_path, table):
    (tmp_path / "broken.py").write_text(
        "from bmo_cli.hyper.aggregation import Unrolled\n\n\nclass Broken(Unrolled):\n"
        "    def objective(self, scheme, sample, iterations):\n        raise KeyError('oops')\n"
    )
    (tmp_path / "conf" / "hyper").mkdir()
    (tmp_path / "conf" / "hyper" / "broken.yaml").write_text("# broken\n_target_: broken.Broken\n")
    row = "+table.rows.bad=['hyper=broken']"
    done = table(row, "plugins=[broken.py]", "table.seeds=[0]")
    assert done.returncode == 1, done.stderr
    out = tmp_path / "outputs" / "tables" / "mini"
    assert "KeyError: 'oops'" in (out / "mini.md").read_text()
    assert "| bmo | 0." in (out / "mini.md").read_text()
    folder = next((out / "runs").glob("bad*"))
    assert json.loads((folder / "result.json").read_text())["status"] == "failed"
    assert "Traceback" in (folder / "run.log").read_text()


def test_two_tables_do_not_share_a_folder(tmp_path, table):
    out = tmp_path / "outputs" / "tables" / "mini"
    out.mkdir(parents=True)
    with (out / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        done = table()
    assert done.returncode == 2
    assert "another bmo table works in" in done.stderr
    assert not (out / "runs").exists()


def test_an_interrupted_cell_goes_on(tmp_path, table):
    assert table("table.seeds=[0]").returncode == 0
    out = tmp_path / "outputs" / "tables" / "mini"
    before = (out / "mini.csv").read_text()
    folder = next((out / "runs").glob("unrolled*"))
    result = json.loads((folder / "result.json").read_text())
    rows = (folder / "history.csv").read_text()
    result |= {"status": "interrupted", "steps": 2}
    (folder / "result.json").write_text(json.dumps(result))
    _rewind(folder / "checkpoints" / "last.safetensors", 2)
    done = table("table.seeds=[0]")
    assert done.returncode == 0, done.stderr
    assert "going on after step 2" in (folder / "run.log").read_text()
    assert (out / "mini.csv").read_text().splitlines()[0] == before.splitlines()[0]
    assert (folder / "history.csv").read_text().count("\n") == rows.count("\n")


def _rewind(file, step):
    """Make a checkpoint say that it is of an earlier step."""
    with safe_open(file, framework="pt") as archive:
        tensors = {key: archive.get_tensor(key) for key in archive.keys()}  # noqa: SIM118
        meta = archive.metadata()
    progress = json.loads(meta["progress"]) | {"step": step}
    save_file(tensors, file, metadata={**meta, "progress": json.dumps(progress)})


def test_a_cell_stopped_between_training_and_result_starts_again(tmp_path, table):
    assert table("table.seeds=[0]").returncode == 0
    folder = next((tmp_path / "outputs" / "tables" / "mini" / "runs").glob("unrolled*"))
    result = json.loads((folder / "result.json").read_text()) | {"status": "interrupted"}
    (folder / "result.json").write_text(json.dumps(result))
    done = table("table.seeds=[0]")
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "result.json").read_text())["status"] == "ok"


FIGURES = """
# two tasks, certified, with a picture
title: Two tasks
figure: convergence
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


def test_table_of_one_task_with_its_figure(tmp_path, bmo):
    folder = tmp_path / "conf" / "table"
    folder.mkdir(parents=True)
    (folder / "figures.yaml").write_text(FIGURES)
    words = ("table", "--config-dir", "conf", "figures")
    done = bmo(*words, "task=toy")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "outputs" / "tables" / "figures"
    assert "2 cells, 2 to run" in done.stdout
    assert (out / "figures-toy.png").stat().st_size > 10_000
    assert "## codes" not in (out / "figures-toy.md").read_text()
    done = bmo(*words)
    assert done.returncode == 0, done.stderr
    assert "3 cells, 1 to run" in done.stdout  # unrolled is skipped on sparse coding
    text = (out / "figures.md").read_text()
    assert "## many" in text and text.split("## codes")[1].count("| unrolled |") == 0
    assert (out / "figures-sparse_coding.png").stat().st_size > 10_000
    done = bmo(*words, "task=deconv")
    assert done.returncode == 2
    assert "task=deconv is not in this table; it has toy, sparse_coding" in done.stderr
