"""The command line as a user meets it: help, mistakes, and what is left behind (nothing)."""

import os

import pytest
from conftest import ROOT

from bmo_cli.cli import COMMANDS
from bmo_cli.config.locate import choices


def test_help_names_every_command_with_an_example(bmo):
    for words in ([], ["--help"]):
        done = bmo(*words)
        assert done.returncode == 0
        for name in COMMANDS:
            assert f"bmo {name} " in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_lists_every_choice_and_key(bmo, command, tmp_path):
    done = bmo(command, "--help")
    assert done.returncode == 0, done.stderr
    if command == "certify":  # it takes a run as it is
        assert "certificate.horizon" in done.stdout and "\ntask=" not in done.stdout
        return
    for group, options in choices().items():
        assert (f"\n{group}=" in done.stdout) == (group != "recipe")  # follows from the others
        for name, about in options.items():
            assert name in done.stdout
            assert about in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_version(bmo):
    assert bmo("--version").stdout.startswith("bmo 0.")


@pytest.mark.slow
def test_own_choices_are_listed_and_used(bmo, tmp_path):
    (tmp_path / "mine" / "optim").mkdir(parents=True)
    (tmp_path / "mine" / "optim" / "slow.yaml").write_text(
        "# my own slow optimiser\n_target_: torch.optim.SGD\nlr: 0.001\n"
    )
    words = ["train", "--config-dir", "mine"]
    assert "my own slow optimiser" in bmo(*words, "--help").stdout
    assert "lr: 0.001" in bmo(*words, "net=lip", "optim=slow", "--cfg", "job").stdout


MISTAKES = [
    (["trian"], "unknown command 'trian'; did you mean 'train'?"),
    (["train", "task=decnov"], "unknown task 'decnov'; did you mean 'deconv'?"),
    (
        ["train", "hyper=adam"],
        "Choices: bmo, implicit, none, onestep, separate, truncated, unrolled",
    ),
    (["train", "trian.steps=4"], "unknown key 'trian.steps'; did you mean 'train.steps'?"),
    (["train", "train.step=4"], "unknown key 'train.step'; did you mean 'train.steps'?"),
    (["train", "alpha=0.5"], "unknown key 'alpha'; did you mean 'gkm.alpha'?"),
    (["train", "+gkm.alhpa=0.5"], "unknown key 'gkm.alhpa'; did you mean 'gkm.alpha'?"),
    (["train", "gkm.operator=pg"], "gkm.operator must be a group of keys with a _target_"),
    (["train", "~train.clip"], "'train.clip' is missing"),
    (["train", "~optim.lr"], "'optim.lr' is missing"),
    (["train", "~resume"], "'~resume' drops nothing: there is no such key, or it is null"),
    (["train", "+boundary=pad"], "unknown key 'boundary'"),
    (["train", "net=lip", "net.size=4"], "net.size must be one of 3, 5, 7"),
    (["train", "foo"], "cannot read the override 'foo'"),
    (["train", "train.steps=abc"], "train.steps must be an integer (or null), got 'abc'"),
    (["train", "gkm.alpha=1"], "gkm.alpha must lie in (0, 1) (or null), got 1"),
    (["train", "gkm.alpha=0"], "gkm.alpha must lie in (0, 1) (or null), got 0"),
    (
        ["train", "recipe=deconv_guided"],
        "the recipe follows from task, net, gkm and hyper; choose these",
    ),
    (["train", "hyper=bmo", "hyper.mu=1"], "hyper.mu must lie in [0, 1), got 1"),
    (["train", "hyper=bmo", "hyper.mu=-0.1"], "hyper.mu must lie in [0, 1), got -0.1"),
    (["train", "hyper=bmo", "hyper.s=1.0"], "hyper.s must lie in (0, 1), got 1.0"),
    (["train", "train.iterations=0"], "train.iterations must be an integer >= 1, got 0"),
    (["train", "gkm=pg", "gkm.operator.gamma=2.0"], "gkm.operator.gamma must lie in (0, 2)"),
    (["train", "gkm.operator.gamma=-3"], "gkm.operator.gamma must be finite and > 0, got -3"),
    (["train", "optim.lr=nan"], "optim.lr must be finite and > 0, got nan"),
    (["train", "train.schedule=cos"], "train.schedule must be one of"),
    (["train", "train.steps=null", "train.max_minutes=null"], "nothing would end the run"),
    (["train", "optim._target_=os.system"], "is not allowed"),
    (
        ["train", "net._target_=bmo_cli.nets.convex_potential.Lip"],
        "bmo_cli.nets.convex_potential has no class 'Lip'",
    ),
    (["train", "task.noise=[5,2,1]"], "task.noise must be a number"),
    (["train", "hydra.run.dir=/dev/null/x"], "cannot create the output folder /dev/null/x"),
    (["eval"], "run is missing; give it as bmo eval run=..."),
    (["eval", "run=nowhere"], "no run folder nowhere"),
    (["restore", "run=."], "is not a run folder"),
    (["train", "resume=nowhere"], "no run folder nowhere"),
    (["train", "+resume=nan"], "resume holds a path, and this is nan"),
    (["train", "net=-1"], "'net=-1': a group takes the name of a choice"),
    (["train", "~task=nan"], "'~task=nan': a group takes the name of a choice"),
    (["train", "+net=[1,[2]]"], "'+net=[1,[2]]': a group takes the name of a choice"),
    (["train", "--hlp"], "unknown flag '--hlp'; did you mean '--help'?"),
    (["train", "-m", "--cfg", "job"], "Only one of --run, --multirun, --cfg"),
    (["train", "net=dncnn", "net.width=2147483647"], "memory ran out; use a smaller network"),
    (
        ["train", "net=dncnn", "net.depth=99999999999"],
        "net.depth must be an integer from 1 to 10000",
    ),
    (["train", "data.crop=1\n\x1b[31m"], r"'data.crop=1\n\x1b[31m'"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=lambda v: " ".join(v)[:60])
def test_mistake_ends_in_one_line_and_leaves_nothing(bmo, tmp_path, words, message):
    refuses(bmo(*words), message)
    assert list(tmp_path.iterdir()) == []


def refuses(done, message):
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("bmo: ")


BAD_INPUT = [
    (["device=cuda:99"], "device=cuda:99 asked for"),
    (["device=gpu"], "device must be auto, cpu, cuda, cuda:N or mps, got 'gpu'"),
    (["data.train=nowhere"], "data.train=nowhere does not exist"),
    (["data.test=null"], "data.test is not set"),
    (["data.crop=37"], "smaller than the training crop, data.crop (37 x 37)"),
    (["data.crop=6"], "data.crop=6 is smaller than the kernel (7 x 7)"),
    (["task.kernel_size=41", "data.crop=41"], "smaller than the blur kernel (41 x 41)"),
    (["task.kernels=motoin"], "did you mean 'motion'?"),
    (["task.kernels=no.npz"], "no kernel file no.npz"),
    (["task.kernel=7"], "task.kernel=7 does not exist"),
    (["task.noise=[5,2]"], "task.noise must be (low, high)"),
    (["task.test_noise=[5,2]"], "task.test_noise must be (low, high)"),
    (["net.channels=3"], "needs data.channels=3"),
    (["hyper.box=[1,0]"], "box must be (low, high) with low < high"),
    (["+optim.foo=1"], "unexpected keyword argument 'foo' (drop it with '~optim.foo')"),
    (["+net.last_gian=1"], "did you mean 'net.last_gain'?"),
    (["plugins=[nothing.py]"], "no plug-in file nothing.py"),
    (["net=none", "gkm.operator.learn=false"], "nothing to learn"),
]


@pytest.mark.parametrize(("words", "message"), BAD_INPUT, ids=lambda v: " ".join(v)[:60])
def test_bad_input_is_refused_before_training(bmo, tiny, tmp_path, words, message):
    typed = {word.split("=")[0] for word in words}
    if "net=none" in words:
        typed |= {"net.width", "net.depth"}
    tiny = [word for word in tiny if word.split("=")[0] not in typed]
    refuses(bmo("train", *tiny, *words), message)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("damage", [b"", b"garbage"])
def test_a_bad_image_is_named_and_the_rest_is_not_silently_used(bmo, tiny, photos, damage):
    (photos / "test" / "bad.png").write_bytes(damage)
    done = bmo("train", *tiny)
    refuses(done, "bad.png")


def test_traceback_only_when_asked_for(bmo):
    assert "Traceback" not in bmo("train", "gkm.alpha=3").stderr
    assert "Traceback" in bmo("train", "gkm.alpha=3", HYDRA_FULL_ERROR="1").stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("bmo tr", "train"),
        ("bmo train hyper=un", "hyper=unrolled"),
        ("bmo train train.step", "train.steps="),
        ("bmo eval dat", "data="),
    ],
)
def test_shell_completion(bmo, line, expected):
    done = bmo("-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
    assert expected in done.stdout.split()


def test_scripts_name_the_real_console_script():
    assert os.access(ROOT / "scripts" / "bmo", os.X_OK)
    assert os.access(ROOT / "scripts" / "test", os.X_OK)
    assert "scripts/test" in (ROOT / ".ci" / "run").read_text()


def test_a_log_that_cannot_be_written_is_one_line(bmo, trained):
    (trained / "run.log").unlink()
    (trained / "run.log").mkdir()
    done = bmo("train", "resume=run", "train.steps=8")
    assert done.returncode == 2
    assert done.stderr.endswith("run/run.log: Is a directory\n") and done.stderr.count("\n") == 1
