"""Sweeps: jobs that fail, are killed or run out of memory hide no other and are run again."""

import os

import pytest
import yaml
from conftest import ROOT, result

from bmo_cli.config.snapshot import recorded_sweep, refuse_changes_of_a_sweep
from bmo_cli.errors import InputError

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
        return super().objective(scheme, sample, iterations)
"""


def test_a_sweep_survives_and_its_second_start_does_what_is_left(bmo, tiny, tmp_path):
    (tmp_path / "faulty.py").write_text(FAULTY)
    words = [*tiny, "hyper=unrolled", "hyper._target_=faulty.Faulty", "plugins=[faulty.py]"]
    done = bmo(
        "train", "-m", *words, "+hyper.fault=none,raise,kill,memory", "hydra.sweep.dir=sweep"
    )
    assert done.returncode == 3, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 4, done.stderr
    for line, reason in zip(
        lines,
        ("ZeroDivisionError: on purpose", "was ended by SIGKILL", "memory", "3 of 4 jobs failed"),
        strict=True,
    ):
        assert reason in line
    assert "bmo train resume=" in lines[3]
    statuses = [result(tmp_path / "sweep" / str(i))["status"] for i in range(4)]
    assert statuses == ["ok", "failed", "interrupted", "failed"]
    log = (tmp_path / "sweep" / "1" / "run.log").read_text()
    assert "Traceback" in log and "in objective" in log
    good = (tmp_path / "sweep" / "0" / "history.csv").stat().st_mtime_ns
    (tmp_path / "mended").touch()
    again = bmo("train", "resume=sweep", "plugins=[faulty.py]")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("done before: ") == 1
    assert again.stdout.count("evaluating the checkpoint") == 3
    assert (tmp_path / "sweep" / "0" / "history.csv").stat().st_mtime_ns == good
    scores = [result(tmp_path / "sweep" / str(i))["metrics"]["test/psnr"] for i in range(4)]
    assert len(set(scores)) == 1  # the fault is the only difference


def test_a_sweep_goes_on_as_it_was_started(bmo, tiny, tmp_path):
    assert bmo("train", "-m", *tiny, "seed=0,1", "hydra.sweep.dir=sweep").returncode == 0
    done = bmo("train", "resume=sweep", "train.steps=9")
    assert done.returncode == 2
    assert "'train.steps=9' would change the jobs of the sweep" in done.stderr
    assert not (tmp_path / "sweep_1").exists()
    for word in ("resume=x", "plugins=[a.py]", "device=cpu", "hydra/launcher=joblib", "-m"):
        refuse_changes_of_a_sweep([word])


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
    launching = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    commands = ["hydra.launcher.setup=[rm]", "hydra.run.dir=/etc", "hydra/launcher=../x"]
    commands += ["hydra.launcher.n_jobs=2;rm", "hydra.searchpath=[file:///evil]"]
    of_itself = ["hydra.mode=MULTIRUN", "hydra.sweep.dir=/etc", "resume=x"]
    task, hydra = harmless + harmful, launching + commands + of_itself
    content = {"hydra": {"overrides": {"task": task, "hydra": hydra}}}
    (tmp_path / "multirun.yaml").write_text(yaml.safe_dump(content))
    found = recorded_sweep(tmp_path)
    assert found.overrides == harmless + launching
    assert found.left_out == harmful + commands


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
        recorded_sweep(tmp_path)
    assert recorded_sweep(tmp_path / "nowhere") is None
