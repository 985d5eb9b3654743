"""What is printed as a command runs when it is pasted; a word that cannot be read says why."""

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, result
from hydra.core.override_parser.overrides_parser import OverridesParser
from made_runs import make_run

from bmo_cli.config.commands import (
    format_command,
    quote_for_shell,
    quote_if_needed,
    relative_to_cwd,
)
from bmo_cli.config.typed import quote_overrides
from bmo_cli.errors import InputError
from bmo_cli.report.entry import Entry
from bmo_cli.results.runs import find_runs

NASTY = [
    *("a b", "a\\b", "a\\\\b", "a'b", "a\\'b", "a\\", 'it\'s "x"', "[1-2]*.jpg", "a,b", "a=b"),
    *("$x", "${x}", "$(touch y)", "`touch y`", "bücher 書", "a\nb", " a ", "{a,b}", "a(b)", "#x"),
    *("~/x", "123", "1e5", "null", "True", "nan", "a;b&c|d<e>f!g", "\\", "'", '"', "\\'", "-x"),
    *("--help", "a\udcffb", "\x1b[31m", "😀", "\u200b", "%s", "?", "@", "x" * 300, "a\\${x}b"),
]
_random = random.Random(0)
_LETTERS = "aZ9 \\'\"$`!{}[](),=:;#&|<>~*?é\n\t\udc80"
RANDOM = ["".join(_random.choices(_LETTERS, k=8)) for _ in range(40)]


@pytest.mark.parametrize("text", [*NASTY, *RANDOM], ids=ascii)
def test_a_text_survives_the_shell_and_hydra(text):
    word = f"k={quote_if_needed(text)}"
    told = subprocess.run(["bash", "-c", f"printf %s {quote_for_shell(word)}"], capture_output=True)
    assert os.fsdecode(told.stdout) == word
    value = OverridesParser.create().parse_override(word).value()
    assert isinstance(value, str)
    assert value.replace("\\${", "${") == text  # which OmegaConf does
    assert quote_for_shell(word).isprintable()


def test_plain_words_stay_plain(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = format_command(
        "train", "--config-dir=conf", resume=tmp_path / "outputs" / "a", run=None
    )
    assert shown == "bmo train --config-dir=conf resume=outputs/a"
    assert (
        format_command("eval", plugins=["a.py", "b c.py"]) == "bmo eval \"plugins=[a.py,'b c.py']\""
    )
    assert relative_to_cwd("/elsewhere/x") == "/elsewhere/x" and relative_to_cwd("x/y") == "x/y"


UNREADABLE = [
    ("data.train=DIR/[1-2]*.jpg", "'[' is character 16 of it", "\"data.train='DIR/[1-2]*.jpg'\""),
    ("data.train=a=b", "'=' is character 13", "\"data.train='a=b'\""),
    ("data.train=it's", "''' is character 14", "\"data.train='it\\\\'s'\""),
    ('data.train=a"b', "'\"' is character 13", '"data.train=\'a\\"b\'"'),
    ("data.train=a(b)", "'(' is character 13", "\"data.train='a(b)'\""),
    ("data.train=a{b", "'{' is character 13", "\"data.train='a{b'\""),
    ("data.train=[a", "'[' is character 12", "\"data.train='[a'\""),
    ("data.train='a", "''' is character 12", "\"data.train='\\\\'a'\""),
    ("data.train=bü[1]", "'ü' is character 13", "\"data.train='bü[1]'\""),
    ("data.train=f!(x)", "'!' is character 13", "'data.train='\"'\"'f!(x)'\"'\"''"),
    ("optim.lr=intervall(1,2)", "Unknown function 'intervall'", "choice,"),
    ("foo", "expected key=value", ""),
    ("=x", "expected key=value", ""),
    ("data.train=[1-2]", "data.train holds a path, and this is a list", "\"data.train='[1-2]'\""),
    ("data.train=5", "data.train holds a path, and this is 5", "\"data.train='5'\""),
    ("net.weights=1e3", "this is 1000.0", "\"net.weights='1e3'\""),
    ("hydra.run.dir={a: 1}", "this is {'a': 1}", "\"hydra.run.dir='{a: 1}'\""),
]


@pytest.mark.parametrize(("word", "reason", "quoting"), UNREADABLE, ids=lambda v: v[:30])
def test_what_cannot_be_read_names_its_character_and_the_quoting(word, reason, quoting):
    with pytest.raises(InputError) as caught:
        quote_overrides([word])
    said = str(caught.value)
    assert word in said and reason in said and quoting in said and "None" not in said
    shown = re.search(r"quoted twice, for the shell and for Hydra: (.*)$", said)
    if shown:  # what it shows works
        told = subprocess.run(["bash", "-c", f"printf %s {shown[1]}"], capture_output=True)
        override = OverridesParser.create().parse_override(told.stdout.decode())
        assert override.value() == word.partition("=")[2]


TAKEN = [
    ("data.train=bücher", "bücher"),
    ("data.train=書/ä b", "書/ä b"),
    ("data.train=~/x", "~/x"),
    ("data.train=a#b&c;d!e", "a#b&c;d!e"),
    ("data.train=a b", "a b"),
    ("data.train='a,b'", "a,b"),
    ("data.train=null", None),
    ("train.steps=5", 5),
    ("net=lip", "lip"),
]


@pytest.mark.parametrize(("word", "value"), TAKEN)
def test_names_of_any_script_need_no_quotes_of_hydra(word, value):
    (told,) = quote_overrides([word])
    assert OverridesParser.create().parse_override(told).value() == value


def test_sweeps_and_flags_stay_what_they_are():
    words = ["-m", "--config-dir=bücher", "data.train=a,b", "seed=range(3)", "~optim.betas"]
    assert quote_overrides(words) == words
    (told,) = quote_overrides(["data.train=bü,cher"])
    override = OverridesParser.create().parse_override(told)
    assert list(override.sweep_string_iterator()) == ["'bü'", "cher"]


def test_a_list_that_the_shell_divided_is_explained():
    with pytest.raises(InputError, match=r'bracket is not closed.*"eval.score_at=\[A,B\]"'):
        quote_overrides(["eval.score_at=[10,", "100]"])
    with pytest.raises(InputError, match="quoted twice"):
        quote_overrides(["data.train=[1-"])


def test_a_list_without_brackets_is_shown_with_them(bmo):
    done = bmo("train", "task.noise=1,8")
    assert done.returncode == 2
    assert "which separates the values of a sweep (-m); a list is in brackets: " in done.stderr
    assert '"task.noise=[1,8]"' in done.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["hyper.mu_end=0"], "it is one of hyper=bmo, which this command has not chosen"),
        (["task=toy", "task.rain=light"], "it is one of task=derain, which"),
        (["gkm.operator.share=0.5"], "it is one of gkm="),
        (["hyper.lastt=2"], "did you mean 'hyper.last'?"),
    ],
)
def test_a_key_of_another_choice_is_named(bmo, words, reason):
    done = bmo("train", *words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert reason in done.stderr


def test_a_comma_where_nothing_sweeps_is_explained(bmo):
    done = bmo("train", "data=folder", "data.train=a,b")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "has a comma, which separates the values of a sweep (-m)" in done.stderr
    assert "\"data.train='a,b'\"" in done.stderr


# --- whole commands ---

OWN = """
from torch import nn
from bmo_cli.nets.network import Network


class Own(Network):
    def __init__(self, *, channels: int = 1):
        super().__init__()
        self.channels = channels
        self.c = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return x - 0.05 * self.c(x)
"""
FOLDER = "my [own], 'files' = a\"l$l {x} é;#&"


@pytest.fixture
def nasty(tmp_path):
    """A folder with a plug-in, its YAML and a table, under a name with all that can go wrong."""
    folder = tmp_path / FOLDER
    for name in ("net", "table"):
        (folder / name).mkdir(parents=True)
    (folder / "own.py").write_text(OWN)
    (folder / "net" / "own.yaml").write_text(
        "# own\n_target_: own.Own\nchannels: ${data.channels}\n"
    )
    (folder / "table" / "mine.yaml").write_text(
        "title: Own\ncommon: [net=own, gkm=pg, debug=tiny, data.eval_crop=64, data.crop=32, "
        "eval.images=0]\nrows:\n  bmo: [hyper=bmo]\ncolumns:\n  embedded: []\n"
        "scores:\n  test/psnr: .2f\nseeds: [0]\n"
    )
    return folder


def paste(text, cwd):
    """What bash makes of a command."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["bash", "-c", text], cwd=cwd, capture_output=True, text=True, env=environment
    )


def commands(text):
    """Commands that a message holds, each between the quotes of the sentence."""
    return re.findall(r"'(bmo .*?)'(?=$|[;,]|\n| or )", text, re.MULTILINE)


def own(folder):
    return ["net=own", "gkm=pg", f"plugins=[{quote_if_needed(f'{folder.name}/own.py')}]"]


@pytest.mark.slow
def test_hints_about_a_run_can_be_pasted(bmo, tiny, nasty, tmp_path):
    words = ["train", f"--config-dir={nasty.name}", *own(nasty)]
    words += [word for word in tiny if not word.startswith("net.")]
    run = f"runs {FOLDER}"
    done = bmo(*words, f"hydra.run.dir={quote_if_needed(run)}")
    assert done.returncode == 0, done.stderr
    done = bmo("train", f"resume={quote_if_needed(run)}", own(nasty)[-1])
    assert done.returncode == 2 and "nothing left to do" in done.stderr
    (certify,) = commands(done.stderr)
    done = paste(f"{certify} certificate.turns=1 hydra.run.dir=c", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "c" / "certificate.json").exists()
    whole = result(tmp_path / run)
    (tmp_path / run / "result.json").unlink()
    (tmp_path / run / "checkpoints" / "last.safetensors").unlink()
    for file in (tmp_path / run / "checkpoints").iterdir():
        file.unlink()
    done = bmo("certify", f"run={quote_if_needed(run)}", own(nasty)[-1])
    (resume,) = commands(done.stderr)
    done = paste(resume, tmp_path)
    assert done.returncode == 0, done.stderr
    assert result(tmp_path / run)["metrics"]["test/psnr"] == whole["metrics"]["test/psnr"]


@pytest.mark.slow
def test_the_hint_of_a_sweep_can_be_pasted(bmo, tiny, nasty, tmp_path):
    words = ["train", "-m", f"--config-dir={nasty.name}", *own(nasty), "data.crop=99,24"]
    words += [word for word in tiny if not word.startswith(("net.", "data.crop"))]
    done = bmo(*words, f"hydra.sweep.dir={quote_if_needed(f'sweeps {FOLDER}')}")
    assert done.returncode == 1 and "1 of 2 jobs failed" in done.stderr
    (again,) = commands(done.stderr)
    done = paste(again, tmp_path)
    assert done.returncode == 1, done.stderr
    assert "done before: " in done.stdout and commands(done.stderr) == [again]


@pytest.mark.slow
def test_the_commands_of_a_table_can_be_pasted(bmo, nasty, tmp_path):
    flags = [f"--config-dir={nasty.name}", own(nasty)[-1]]
    done = bmo("table", "mine", *flags, "out=out")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "mine.md").read_text()
    (cell,) = (line.strip() for line in page.splitlines() if line.startswith("    bmo "))
    done = paste(f"{cell} hydra.run.dir=again", tmp_path)
    assert done.returncode == 0, done.stderr
    ours, theirs = (
        result(folder)["metrics"]["test/psnr"]
        for folder in (tmp_path / "again", *(tmp_path / "out" / "runs").iterdir())
    )
    assert ours == theirs


def test_the_report_names_plug_ins_but_none_that_a_folder_brings_along(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "a b", 30.0, config={"plugins": ["own.py", "a b/evil.py", 3]})
    (run,) = find_runs([tmp_path])
    assert Entry(run).resume_command == 'bmo train "resume=\'a b\'" "plugins=[own.py]"' or (
        Entry(run).resume_command == "bmo train \"resume='a b'\" 'plugins=[own.py]'"
    )
