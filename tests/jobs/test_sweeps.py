"""Sweeps: jobs that fail, are killed or run out of memory hide no other and are run again."""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, composed, result
from safetensors import safe_open

from bmo_cli.config.recorded import read_recorded_sweep, refuse_sweep_changes
from bmo_cli.errors import Exited, InputError, convert_exits
from bmo_cli.jobs.pool import assign_device
from bmo_cli.jobs.sweep_end import rename_pickles
from bmo_cli.jobs.sweep_job import require_pool_allowed
from bmo_cli.results.run_folder import RunFolder

FAULTY = """
import os, resource, signal
import numpy as np
from pathlib import Path
from bmo_cli.hyper.aggregation import Unrolled


class Faulty(Unrolled):
    def __init__(self, *, fault="none", memory="auto", memory_mib=None):
        super().__init__(memory=memory, memory_mib=memory_mib)
        self.fault = fault

    def objective(self, scheme, sample, iterations):
        if Path("mended").exists():
            return super().objective(scheme, sample, iterations)
        if self.fault == "raise":
            raise ZeroDivisionError("on purpose")
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "memory":
            resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
            np.ones(2**40)
        if self.fault == "exit":
            raise SystemExit("enough")
        return super().objective(scheme, sample, iterations)
"""


@pytest.mark.slow
def test_a_sweep_survives_and_its_second_start_does_what_is_left(bmo, tiny, tmp_path):
    (tmp_path / "faulty.py").write_text(FAULTY)
    words = [*tiny, "hyper=unrolled", "hyper._target_=faulty.Faulty", "plugins=[faulty.py]"]
    done = bmo(
        "train", "-m", *words, "+hyper.fault=none,raise,kill,memory,exit", "hydra.sweep.dir=sweep"
    )
    assert done.returncode == 4, done.stderr
    lines = done.stderr.splitlines()
    reasons = ["ZeroDivisionError: on purpose", "was ended by SIGKILL", "memory", "sys.exit('en"]
    assert len(lines) == 5, done.stderr
    for line, reason in zip(lines, [*reasons, "4 of 5 jobs failed"], strict=True):
        assert reason in line
    assert "bmo train resume=" in lines[4]
    statuses = [result(tmp_path / "sweep" / str(i))["status"] for i in range(5)]
    assert statuses == ["ok", "failed", "interrupted", "interrupted", "failed"]
    log = (tmp_path / "sweep" / "1" / "run.log").read_text()
    assert "Traceback" in log and "in objective" in log
    good = (tmp_path / "sweep" / "0" / "history.csv").stat().st_mtime_ns
    (tmp_path / "mended").touch()
    again = bmo("train", "resume=sweep", "plugins=[faulty.py]")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("done before: ") == 1
    assert again.stdout.count("evaluating the checkpoint") == 4
    assert (tmp_path / "sweep" / "0" / "history.csv").stat().st_mtime_ns == good
    scores = [result(tmp_path / "sweep" / str(i))["metrics"]["test/psnr"] for i in range(5)]
    assert len(set(scores)) == 1  # the fault is the only difference


@pytest.mark.slow
def test_an_exit_that_a_plug_in_asks_for_is_an_error(bmo, tiny, tmp_path):
    (tmp_path / "faulty.py").write_text(FAULTY)
    words = [*tiny, "hyper=unrolled", "hyper._target_=faulty.Faulty", "plugins=[faulty.py]"]
    done = bmo("train", *words, "+hyper.fault=exit", "hydra.run.dir=run")
    said = "sys.exit('enough') was called, by a plug-in or a library"
    assert (done.returncode, done.stderr) == (1, f"bmo: {said}\n")
    left = result(tmp_path / "run")
    assert (left["status"], left["message"]) == ("failed", said)


@pytest.mark.slow
def test_a_sweep_goes_on_as_it_was_started(bmo, tiny, tmp_path):
    assert bmo("train", "-m", *tiny, "seed=0,1", "hydra.sweep.dir=sweep").returncode == 0
    done = bmo("train", "resume=sweep", "train.steps=9")
    assert done.returncode == 2
    assert "'train.steps=9' would change the jobs of the sweep" in done.stderr
    assert not (tmp_path / "sweep_1").exists()
    for word in ("resume=x", "plugins=[a.py]", "device=cpu", "hydra/launcher=joblib", "-m"):
        refuse_sweep_changes([word])


def test_a_strangers_sweep_brings_no_commands(tmp_path):
    harmless = ["seed=0,1", "~optim.betas", "+train.clip=1", "net=dncnn,lip", "hyper=choice(bmo)"]
    harmful = [
        *(
            "plugins=[evil.py]",
            "+plugins=[evil.py]",
            "plugins@=x",
            " plugins=[e.py]",
            "+ plugins=[e]",
        ),
        *("+hydra.callbacks.a._target_=os.system", "~hydra.x", "hydra@hydra=x", "seed@hydra=x"),
        *("experiment=../../evil", "+experiment=/evil", "task@hydra.callbacks.x=deconv", "net=a/b"),
        *("'plugins'=[e]", "plugins\n=[e]", "run=x", "net@plugins=lip", "--config-dir=x", "-cd=x"),
    ]
    launching = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_trials=9"]
    launching += ["hydra.sweeper.direction=minimize", "hydra.sweeper.seed=3"]
    commands = [
        "hydra.launcher.setup=[rm]",
        "hydra.sweeper._target_=os.system",
        "hydra.run.dir=/etc",
        "hydra/launcher=../x",
    ]
    commands += ["hydra.launcher.n_jobs=2;rm", "hydra.searchpath=[file:///evil]"]
    of_itself = ["hydra.mode=MULTIRUN", "hydra.sweep.dir=/etc", "resume=x"]
    task, hydra = harmless + harmful, launching + commands + of_itself
    content = {"hydra": {"overrides": {"task": task, "hydra": hydra}}}
    (tmp_path / "multirun.yaml").write_text(yaml.safe_dump(content))
    found = read_recorded_sweep(tmp_path)
    assert found.overrides == harmless + launching
    assert found.left_out == harmful + commands


@pytest.mark.slow
def test_a_strangers_sweep_runs_no_code_of_a_yaml_that_it_names(bmo, tiny, tmp_path):
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "code.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    (evil / "x.yaml").write_text(f"# @package _global_\nplugins: [{evil / 'code.py'}]\n")
    path = os.path.relpath(evil / "x", ROOT / "configs" / "experiment")
    content = {"hydra": {"overrides": {"task": [*tiny, f"experiment={path}"], "hydra": []}}}
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    (sweep / "multirun.yaml").write_text(yaml.safe_dump(content))
    done = bmo("train", "resume=sweep")
    assert not (tmp_path / "ran").exists()
    assert f"not taken from sweep: experiment={path} (type it again" in done.stderr


@pytest.mark.parametrize("text", ["a", "[]", "hydra: 1", "hydra: {overrides: {task: [1]}}", "&a x"])
def test_a_damaged_sweep_is_named(tmp_path, text):
    (tmp_path / "multirun.yaml").write_text(text)
    with pytest.raises(InputError, match=r"multirun\.yaml is damaged: expected a list"):
        read_recorded_sweep(tmp_path)
    assert read_recorded_sweep(tmp_path / "nowhere") is None


@pytest.mark.slow
def test_a_mistake_when_a_sweep_goes_on_changes_nothing_that_is_there(bmo, tiny, photos, tmp_path):
    (tmp_path / "faulty.py").write_text(FAULTY)
    words = [*tiny, "hyper=unrolled", "hyper._target_=faulty.Faulty", "plugins=[faulty.py]"]
    done = bmo("train", "-m", *words, "+hyper.fault=none,kill", "hydra.sweep.dir=sweep")
    assert done.returncode == 1
    assert "bmo train resume=sweep" in done.stderr and "plugins=[faulty.py]" in done.stderr
    before = [(tmp_path / "sweep" / i / "result.json").read_bytes() for i in "01"]
    done = bmo("train", "resume=sweep")  # the plug-in is not named
    assert done.returncode == 2 and "bmo: job 0 of the sweep" in done.stderr
    (photos / "train").rename(tmp_path / "elsewhere")
    done = bmo("train", "resume=sweep", "plugins=[faulty.py]")
    assert done.returncode == 2 and "bmo: job 1 of the sweep, +hyper.fault=kill" in done.stderr
    assert [(tmp_path / "sweep" / i / "result.json").read_bytes() for i in "01"] == before
    (tmp_path / "elsewhere").rename(photos / "train")
    (tmp_path / "mended").touch()
    done = bmo("train", "resume=sweep", "plugins=[faulty.py]")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_what_a_failed_attempt_left_is_kept(bmo, tiny, tmp_path):
    (tmp_path / "faulty.py").write_text(FAULTY)
    words = [*tiny, "hyper=unrolled", "hyper._target_=faulty.Faulty", "plugins=[faulty.py]"]
    assert bmo("train", "-m", *words, "+hyper.fault=raise", "hydra.sweep.dir=s").returncode == 1
    (tmp_path / "mended").touch()
    assert bmo("train", "resume=s", "plugins=[faulty.py]").returncode == 0
    assert result(tmp_path / "s" / "0")["status"] == "ok"
    earlier = tmp_path / "s" / "0" / "earlier" / "1"
    assert result(earlier)["status"] == "failed" and (earlier / "checkpoints").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize(
    "own", ["hydra.sweep.subdir='a/${hydra.job.num}'", "hydra.output_subdir=null"]
)
def test_failures_are_counted_wherever_the_jobs_are(bmo, tiny, own):
    done = bmo("train", "-m", *tiny, "device=bogus", "seed=0,1", own, "hydra.sweep.dir=sweep")
    assert done.returncode == 2
    assert "2 of 2 jobs failed" in done.stderr


@pytest.mark.slow
def test_a_sweep_with_folders_of_its_own_asks_for_them(bmo, tiny):
    own = "hydra.sweep.subdir='s${seed}'"
    assert bmo("train", "-m", *tiny, "seed=0,1", own, "hydra.sweep.dir=sweep").returncode == 0
    done = bmo("train", "resume=sweep")
    assert done.returncode == 2 and "its jobs are there: type it" in done.stderr
    done = bmo("train", "resume=sweep", own)
    assert done.returncode == 0 and done.stdout.count("done before") == 2


def sweeping(folder, *words):
    """A sweep in a process of its own, when a job of it has its process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bmo_cli", "train", "-m", *words, "hydra.sweep.dir=sweep"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not any(children(server) for server in children(process.pid)):
        assert process.poll() is None
        time.sleep(0.02)
    return process


def children(pid):
    """Processes that one has started; workers are those of the server that its sweep starts."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return []


STOPS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), STOPS)
def test_a_sweep_is_stopped_while_a_job_starts(tiny, tmp_path, number, code):
    process = sweeping(tmp_path, *tiny, "seed=0,1")
    process.send_signal(number)
    _, said = process.communicate(timeout=100)
    assert process.returncode == code, said
    assert not (tmp_path / "sweep" / "1").exists()
    assert said.startswith("bmo: stopped")


# --- before the first job ---

LATE = [
    (["seed=0,1,two"], "job 2 of the sweep, seed=two: net.seed must be an integer, got 'two'"),
    (
        ["net=lip,dncnn,lipp"],
        "job 2 of the sweep, net=lipp: unknown net 'lipp'; did you mean 'lip'",
    ),
    (["gkm.alpha=0.5,1.5"], "job 1 of the sweep, gkm.alpha=1.5: gkm.alpha must lie in (0, 1)"),
    (["net=lip,none", "net.depth=1,2"], "net=none net.depth=1: unknown key 'net.depth'"),
    (["train.steps=5,null", "train.max_minutes=null"], "nothing would end the run"),
    (["seed=0,1", "plugins=[no.py]", "net._target_=no.No"], "no plug-in file no.py"),
    (["seed=0,1", "hydra.sweep.subdir=x"], "jobs 0 and 1 of the sweep would share the folder"),
    (["seed=0,1", "data.workers=300"], "data.workers must be an integer from 0 to 256"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "said"), LATE, ids=lambda v: " ".join(v)[:40])
@pytest.mark.parametrize("more", [(), ("jobs=2",), ("hydra/launcher=joblib",)], ids=str)
def test_every_job_is_checked_before_the_first_one_starts(bmo, tmp_path, words, said, more):
    if "hydra/launcher=joblib" in more:
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    done = bmo("train", "-m", "debug=tiny", *words, *more, "hydra.sweep.dir=new/sweep")
    assert done.returncode == 2, done.stderr
    assert said in done.stderr and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


PATCHES = ("task=patch_coding", "net=none")
MISSING = [
    (["data.test={photos}/test,{photos}/tets"], "photos/tets does not exist; expected a folder"),
    (["data.val={photos}/val,{photos}/val/*.jpg"], "photos/val/*.jpg does not exist"),
    (["data.train={photos}/train,null"], "data.train is not set"),
    (["task.kernels=motion,k.npy"], "task.kernels=k.npy: no kernel file k.npy"),
    (["task.kernels=motion,motoin"], "got 'motoin'; did you mean 'motion'?"),
    (["task.kernels=disk,levin"], "task.kernels=levin: "),
    (["net.weights=null,w.pth"], "no weights file w.pth"),
    (["seed=0,1", "net.weights=w.npy"], "seed=0: weights w.npy must be a file .safetensors"),
    (["seed=0,1", "data=rain100l", "data.root=."], "data.train_set=bsd_colour: no folder"),
    (["+task.dictionary=a.npy,b.npy", *PATCHES], "task.dictionary=a.npy: no dictionary file a.npy"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "said"), MISSING, ids=lambda v: v if isinstance(v, str) else "")
def test_every_file_is_looked_for_before_the_first_job(bmo, tiny, photos, words, said):
    words = [word.format(photos=photos) for word in words]
    keys = {word.lstrip("+").split("=")[0] for word in words}
    groups = tuple(f"{key}." for key in ("data", "net", "task") if key in keys)
    rest = [w for w in tiny if w.split("=")[0] not in keys and not w.startswith(groups)]
    before = sorted(photos.parent.iterdir())
    for more in ((), ("--dry-run",)):
        done = bmo("train", "-m", *rest, *words, "hydra.sweep.dir=new", *more)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr and "of the sweep" in done.stderr
        assert done.stderr.count("\n") == 1 and done.stdout == ""
    assert sorted(photos.parent.iterdir()) == before


@pytest.mark.slow
def test_files_that_a_task_does_not_read_are_not_looked_for(bmo, tmp_path):
    words = ["task=toy", "debug=tiny", "device=cpu", "data=folder", "seed=0,1"]
    done = bmo("train", "-m", *words, "hydra.sweep.dir=s")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_files_of_jobs_that_are_done_are_not_needed(bmo, tiny, photos, tmp_path):
    assert bmo("train", "-m", *tiny, "seed=0,1", "hydra.sweep.dir=s").returncode == 0
    shutil.rmtree(photos)
    done = bmo("train", "resume=s")
    assert done.returncode == 0 and done.stdout.count("done before") == 2, done.stderr
    (tmp_path / "s" / "1" / "result.json").unlink()
    done = bmo("train", "resume=s")
    assert done.returncode == 2 and "job 1 of the sweep, seed=1: data.train=" in done.stderr


@pytest.mark.slow
def test_a_sweep_does_not_touch_one_that_is_there(bmo, tiny, tmp_path):
    words = ["train", "-m", *tiny, "seed=0", "hydra.sweep.dir=s"]
    assert bmo(*words).returncode == 0
    before = {f: f.read_bytes() for f in (tmp_path / "s").rglob("*") if f.is_file()}
    done = bmo(*words)
    assert done.returncode == 0, done.stderr
    assert done.stderr == (
        "bmo: s is there already, so that this sweep goes to s_1; the one there goes on with "
        "'bmo train resume=s'\n"
    )
    assert {f: f.read_bytes() for f in (tmp_path / "s").rglob("*") if f.is_file()} == before
    assert result(tmp_path / "s_1" / "0")["status"] == "ok"


@pytest.mark.parametrize("flag", ["-m", "--multirun", "hydra.mode=MULTIRUN"])
def test_a_sweep_of_what_has_none_is_refused(bmo, trained, tmp_path, flag):
    before = sorted(tmp_path.iterdir())
    for words, said in (
        (["restore", "run=run", "input=a.png,b.png", "output=c.png"], "one photograph at a time"),
        (["table", "toy", "preset=smoke,cpu"], "runs its cells itself"),
        (["train", "resume=run", "train.steps=6,7"], "run is no sweep, and a run goes on alone"),
        (["runs", "run"], "no"),
        (["compare", "run"], "no"),
        (["report", "run"], "no"),
    ):
        done = bmo(*words, flag)
        assert done.returncode == 2 and said in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
@pytest.mark.parametrize("command", ["eval", "certify"])
def test_jobs_of_other_commands_are_checked_as_well(bmo, trained, tmp_path, command):
    key = {"eval": "task.noise=1,2,many", "certify": "certificate.turns=1,2,many"}[command]
    done = bmo(command, "-m", "run=run", key, "hydra.sweep.dir=s")
    assert done.returncode == 2 and f"job 2 of the sweep, {key.split('=')[0]}=many" in done.stderr
    assert not (tmp_path / "s").exists()
    done = bmo("certify", "-m", "run=run", "task.noise=1,2")
    assert done.returncode == 2 and "would change the run" in done.stderr
    done = bmo("eval", "-m", "run=run,run", "hydra.sweep.dir=s")
    assert done.returncode == 2 and "there is one run at a time" in done.stderr


def test_a_damaged_sweep_that_goes_on_is_checked(bmo, tiny, tmp_path):
    content = {"hydra": {"overrides": {"task": [*tiny, "seed=0,x"], "hydra": []}}}
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "multirun.yaml").write_text(yaml.safe_dump(content))
    done = bmo("train", "resume=sweep")
    assert done.returncode == 2 and "job 1 of the sweep, seed=x" in done.stderr
    assert [entry.name for entry in (tmp_path / "sweep").iterdir()] == ["multirun.yaml"]


@pytest.mark.slow
def test_a_dry_run_lists_the_jobs_and_writes_nothing(bmo, tiny, tmp_path):
    own = [word for word in tiny if not word.startswith("hyper=")]
    words = ["train", "-m", *own, "seed=0,1", "hyper=bmo,none", "hydra.sweep.dir=sweep"]
    before = sorted(tmp_path.rglob("*"))
    done = bmo(*words, "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    shown = [" ".join(line.split()) for line in lines]
    assert shown[1] == "seed=0 hyper=bmo to run at most, before the test, 4 min"
    assert shown[2] == "seed=0 hyper=none to run unknown"
    assert shown[-1].startswith("in all: at most 8 min and 2 jobs of unknown time; nothing was run")
    assert sorted(tmp_path.rglob("*")) == before
    assert bmo(*words).returncode == 0
    file = tmp_path / "sweep" / "2" / "result.json"
    file.write_text(json.dumps({"status": "interrupted"}))
    shutil.rmtree(tmp_path / "sweep" / "3")
    took = [result(tmp_path / "sweep" / "0")[key] for key in ("train_seconds", "steps")]
    before = {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}
    done = bmo("train", "resume=sweep", "--dry-run")
    assert done.returncode == 0, done.stderr
    states = [" ".join(line.split()[2:]) for line in done.stdout.splitlines()[1:5]]
    expected = f"about {4 * took[0] / took[1]:.0f} s"
    assert states == ["done", "done", f"goes on {expected}", "to run unknown"]
    assert {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()} == before
    done = bmo("train", *tiny, "--dry-run")
    assert done.returncode == 2 and "--dry-run lists the jobs of a sweep" in done.stderr
    done = bmo(*words[:2], "seed=0,x", "--dry-run")
    assert done.returncode == 2 and done.stdout == ""


# --- some jobs at a time ---


@pytest.mark.slow
def test_jobs_at_the_same_time_give_what_jobs_in_turn_give(bmo, tiny, tmp_path):
    for jobs in (1, 2):
        done = bmo("train", "-m", *tiny, "seed=0,1,2", f"jobs={jobs}", f"hydra.sweep.dir=s{jobs}")
        assert done.returncode == 0, done.stderr
    for seed in "012":
        a, b = (result(tmp_path / f"s{jobs}" / seed) for jobs in (1, 2))
        assert a["metrics"]["test/psnr"] == pytest.approx(b["metrics"]["test/psnr"], abs=1e-4)
    assert done.stdout.count("started: s2/") == done.stdout.count("done: s2/") == 3
    assert "evaluating" not in done.stdout
    assert "evaluating" in (tmp_path / "s2" / "0" / "run.log").read_text()
    again = bmo("train", "resume=s2", "jobs=3")
    assert again.returncode == 0 and again.stdout.count("done before: ") == 3


@pytest.mark.slow
def test_jobs_at_the_same_time_hide_no_failure(bmo, tiny, tmp_path):
    (tmp_path / "faulty.py").write_text(FAULTY)
    words = [*tiny, "hyper=unrolled", "hyper._target_=faulty.Faulty", "plugins=[faulty.py]"]
    faults = "+hyper.fault=raise,none,kill,memory"
    done = bmo("train", "-m", *words, faults, "jobs=2", "hydra.sweep.dir=sweep")
    assert done.returncode == 3, done.stderr
    assert "3 of 4 jobs failed" in done.stderr
    statuses = [result(tmp_path / "sweep" / str(i))["status"] for i in range(4)]
    assert statuses == ["failed", "ok", "interrupted", "interrupted"]
    assert "in objective" in (tmp_path / "sweep" / "0" / "run.log").read_text()
    (tmp_path / "mended").touch()
    again = bmo("train", "resume=sweep", "plugins=[faulty.py]")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("done before: ") == 1


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), STOPS)
def test_jobs_at_the_same_time_are_all_saved_when_they_are_stopped(tiny, tmp_path, number, code):
    process = sweeping(tmp_path, *tiny, "train.steps=100000", "seed=0,1,2", "jobs=2")
    jobs = [tmp_path / "sweep" / name for name in "01"]
    while not all((job / "checkpoints" / "last.safetensors").exists() for job in jobs):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, number)  # as a terminal and as job schedulers do
    _, said = process.communicate(timeout=100)
    assert process.returncode == code, said
    for job in jobs:
        assert result(job)["status"] == "interrupted"
        rows = RunFolder(job).read_history()
        with safe_open(job / "checkpoints" / "last.safetensors", "pt") as archive:
            step = json.loads(archive.metadata()["progress"])["step"]
        assert step == result(job)["steps"] >= rows[-1]["step"]


BASIC = ("hydra._internal.core_plugins.basic_launcher.BasicLauncher", "x.BasicSweeper")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "launcher", "sweeper", "said"),
    [
        (1, "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher", BASIC[1], "keys"),
        (1, BASIC[0], "hydra_plugins.ax.AxSweeper", "learns from every job"),
        (2, *BASIC, "a job has several devices"),
    ],
)
def test_jobs_are_refused_where_something_else_decides(devices, launcher, sweeper, said):
    config = composed("jobs=2", f"train.devices={devices}")
    with pytest.raises(InputError, match=said):
        require_pool_allowed(config, launcher, sweeper)
    require_pool_allowed(composed("jobs=2"), *BASIC)
    search = "hydra_plugins.bmo_search.Search"
    require_pool_allowed(composed("jobs=2"), BASIC[0], search)


def test_every_job_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = [assign_device("auto", place)["CUDA_VISIBLE_DEVICES"] for place in range(5)]
    assert found == ["0", "1", "2", "0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    assert assign_device("cuda", 1) == {"CUDA_VISIBLE_DEVICES": "6"}
    assert assign_device("cpu", 1) == assign_device("cuda:1", 1) == {}
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert assign_device("cuda", 1) == {}


def processes(word):
    """Numbers of the processes whose command line holds a word."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if word.encode() in (place / "cmdline").read_bytes():
                found.append(int(place.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="no submitit")
def test_a_job_that_submitit_puts_back_into_its_queue_goes_on(tiny, tmp_path):
    sweep = tmp_path / "sweep"
    words = [*tiny, "train.steps=100000", "seed=0", "hydra/launcher=submitit_local"]
    process = subprocess.Popen(
        [sys.executable, "-m", "bmo_cli", "train", "-m", *words, f"hydra.sweep.dir={sweep}"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not (sweep / "0" / "checkpoints" / "previous.safetensors").exists():
            assert process.poll() is None
            time.sleep(0.1)
        (job,) = set(processes("submitit.core._submit")) & set(processes(str(sweep)))
        os.kill(job, signal.SIGUSR2)  # what submitit has Slurm send before a time limit
        while "going on after step" not in (sweep / "0" / "run.log").read_text():
            assert process.poll() is None
            time.sleep(0.1)
        rows = RunFolder(sweep / "0").read_history()
        assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
    finally:
        for pid in processes(str(sweep)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("module", ["submitit.local.local", "submitit_of_ones_own", "plugin"])
def test_an_exit_that_a_launcher_asks_for_is_none_of_a_plug_in(module):
    """submitit's signal handler is called wherever the job happens to be."""
    names = {"__name__": module}
    exec("import sys\ndef handler(): sys.exit(144)", names)
    expected = SystemExit if module.startswith("submitit.") else Exited
    with pytest.raises(expected), convert_exits():
        names["handler"]()


def test_pickles_of_a_sweep_are_put_away(tmp_path):
    for _ in range(2):
        (tmp_path / ".submitit").mkdir()
        (tmp_path / ".submitit" / "1_0_result.pkl").write_bytes(b"evil")
        rename_pickles(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".submitit_1", ".submitit_2"]
