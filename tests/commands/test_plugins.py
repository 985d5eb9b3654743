"""What goes wrong in a file of the user's own is one line with the file, the line, the function."""

import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from conftest import result

from bmo_cli.errors import InputError, PluginError
from bmo_cli.experiment.build import load_target_class
from bmo_cli.experiment.plugins import (
    hash_plugins,
    load_plugins,
    locate_failure,
    names_plugins,
)
from bmo_cli.nets.network import Network

OWN = """
from pathlib import Path

import torch
from torch import nn

import helper
from bmo_cli.config.checks import checked
from bmo_cli.hyper.aggregation import Unrolled
from bmo_cli.nets.network import Network


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise KeyError("in the backward pass")  # BACKWARD


class Failing(Network):
    def __init__(self, *, channels: int = 1, where: str = "nowhere"):
        super().__init__()
        self.channels, self.where = channels, where
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        if where == "constructor":
            raise TypeError("in the constructor")  # CONSTRUCTOR
        if where == "constructor lookup":
            {}["absent"]  # LOOKUP

    def forward(self, x):
        if self.where == "forward" or Path("fail").exists():
            return self.conv(x) + "a text"  # FORWARD
        if self.where == "torch":
            return x @ self.conv.weight  # TORCH
        if self.where == "helper":
            return helper.divide(x)
        if self.where == "os":
            open("no/such/file")  # OS
        if self.where == "left out":
            raise NotImplementedError  # LEFT OUT
        if self.where == "only in training" and torch.is_grad_enabled():
            raise RuntimeError("with\\na graph")  # GRAPH
        if self.where == "backward":
            return Double.apply(self.conv(x))
        return self.conv(x)
"""
HELPER = "def divide(x):\n    return x[len(x) / 2]  # HELPER\n"
CASES = {
    "constructor": ("own.py", "CONSTRUCTOR", "__init__", "TypeError: in the constructor"),
    "constructor lookup": ("own.py", "LOOKUP", "__init__", "KeyError: 'absent'"),
    "forward": ("own.py", "FORWARD", "forward", "TypeError: "),
    "torch": ("own.py", "TORCH", "forward", "RuntimeError: "),
    "helper": ("helper.py", "HELPER", "divide", "IndexError: "),
    "os": ("own.py", "OS", "forward", "FileNotFoundError: "),
    "left out": ("own.py", "LEFT OUT", "forward", "NotImplementedError"),
    "only in training": ("own.py", "GRAPH", "forward", "RuntimeError: with a graph"),
    "backward": ("own.py", "BACKWARD", "backward", "KeyError: 'in the backward pass'"),
}
NET = ["--config-dir", ".", "net=own", "plugins=[own.py]"]


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "helper.py").write_text(HELPER)
    (tmp_path / "net").mkdir()
    target = "_target_: own.Failing\nchannels: ${data.channels}\nwhere: nowhere\n"
    (tmp_path / "net" / "own.yaml").write_text(target)


def without_net(words):
    return [word for word in words if not word.startswith("net.")]


def expected(where):
    """The line, as a pattern."""
    file, mark, function, error = CASES[where]
    text = {"own.py": OWN, "helper.py": HELPER}[file]
    number = next(i for i, line in enumerate(text.splitlines(), 1) if line.endswith(f"# {mark}"))
    return f"{file}, line {number}, in {function}: {re.escape(error)}"


@pytest.mark.slow
@pytest.mark.parametrize("where", CASES)
def test_place_of_an_error(bmo, tiny, own, where):
    done = bmo("train", *without_net(tiny), *NET, f"net.where={where}", "hydra.run.dir=run")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert re.search(expected(where), done.stderr), done.stderr
    assert "internal error" not in done.stderr and "HYDRA" not in done.stderr


def test_the_traceback_is_shown_where_it_is_wished(bmo, tiny, own):
    words = [*without_net(tiny), *NET, "net.where=forward"]
    done = bmo("train", *words, HYDRA_FULL_ERROR="1")
    assert "Traceback" in done.stderr and 'self.conv(x) + "a text"' in done.stderr


@pytest.mark.slow
def test_place_of_an_error_in_the_jobs_of_a_sweep(bmo, tiny, own, tmp_path):
    """In turn and side by side; what works goes on."""
    values = "net.where=nowhere,forward,backward"
    for jobs in (1, 2):
        words = [*without_net(tiny), *NET, values, f"jobs={jobs}", f"hydra.sweep.dir=s{jobs}"]
        done = bmo("train", "-m", *words, timeout=300)
        assert done.returncode == 2, done.stderr
        for i, where in enumerate(("forward", "backward"), 1):
            said = result(tmp_path / f"s{jobs}" / str(i))
            assert said["status"] == "failed"
            assert re.match(expected(where), said["message"])
            assert re.search(expected(where), done.stderr)
            log = (tmp_path / f"s{jobs}" / str(i) / "run.log").read_text()
            assert "Traceback" in log and f"in {CASES[where][2]}" in log
        assert result(tmp_path / f"s{jobs}" / "0")["status"] == "ok"


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_place_of_an_error_in_a_table(bmo, tiny, own, photos, tmp_path, jobs):
    table = {
        "title": "t",
        "common": [*without_net(tiny), "net=own"],
        "rows": {"good": ["net.where=nowhere"], "bad": ["net.where=forward"]},
        "columns": {"one": []},
        "scores": {"test/psnr": ".2f"},
        "seeds": [0],
    }
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "mine.yaml").write_text(yaml.safe_dump(table))
    words = ["--config-dir", ".", "plugins=[own.py]", "out=out", f"jobs={jobs}"]
    done = bmo("table", "mine", *words, timeout=300)
    assert done.returncode == 1, done.stderr
    assert re.search(expected("forward"), done.stdout + done.stderr)
    assert "internal error" not in done.stderr


@pytest.mark.slow
def test_place_of_an_error_on_several_devices(bmo, tiny, own):
    words = [*without_net(tiny), *NET, "net.where=forward", "train.devices=2"]
    done = bmo("train", *words, "train.batch=4", "hydra.run.dir=run", timeout=300)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert re.search(expected("forward"), done.stderr), done.stderr


@pytest.mark.slow
def test_place_of_an_error_in_eval_certify_and_restore(bmo, tiny, own, photos, tmp_path):
    done = bmo("train", *without_net(tiny), *NET, "net.where=nowhere", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    (tmp_path / "fail").touch()
    np.save(tmp_path / "k.npy", np.ones((1, 1)))
    picture = f"input={photos / 'test' / 'test0.png'}"
    for words in (
        ["eval", "run=run", "hydra.run.dir=e"],
        ["certify", "run=run", "hydra.run.dir=c"],
        ["restore", "run=run", picture, "kernel=k.npy", "output=o.png"],
    ):
        done = bmo(*words, "plugins=[own.py]")
        assert done.returncode == 2, done.stderr
        assert re.search(expected("forward"), done.stderr), done.stderr
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / words[-1].split("=")[1]).exists()


# --- importing ------------------------------------------------------------------------------------

IMPORTS = {
    "import not_there_at_all": "plug-in own.py needs the package not_there_at_all, which is not",
    "from not_there.deep import x": "plug-in own.py needs the package not_there, which is not inst",
    "import bmo_cli.nets.nothing": "plug-in own.py needs the module bmo_cli.nets.nothing, which",
    "import beside": "plug-in own.py needs the package absent_here, which is not installed",
    "import broken": r"plug-in own.py: broken.py, line 2: not valid Python: ",
    "from bmo_cli.errors import Nothing": r"own.py, line 1, in <module>: ImportError: cannot impor",
    "undefined_name": r"own.py, line 1, in <module>: NameError: name 'undefined_name' is not def",
    "import failing": r"failing.py, line 2, in <module>: ZeroDivisionError: division by zero",
    "def f(:": r"plug-in own.py, line 1: not valid Python: ",
}


@pytest.mark.parametrize("line", IMPORTS)
def test_what_a_plugin_file_lacks(bmo, tiny, tmp_path, line):
    (tmp_path / "own.py").write_text(f"{line}\nfrom bmo_cli.nets.dncnn import DnCNN as Own\n")
    (tmp_path / "beside.py").write_text("import absent_here\n")
    (tmp_path / "broken.py").write_text("x = 1\ny = (\n")
    (tmp_path / "failing.py").write_text("\n1 / 0\n")
    words = [*tiny, "net._target_=own.Own", "plugins=[own.py]", "hydra.run.dir=run"]
    done = bmo("train", *words)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert IMPORTS[line] in done.stderr
    assert not (tmp_path / "run").exists()


PACKAGES = {
    "package": "plug-in package needs the package absent_here, which is not installed",
    "package.inner": "plug-in package.inner needs the package absent_here, which is not installed",
    "no_such_plugin": "plug-in no_such_plugin does not exist: no module 'no_such_plugin'",
    "good.nothing": "plug-in good.nothing does not exist: no module 'good.nothing'",
    "failing": "line 1, in <module>: ZeroDivisionError",
}


@pytest.mark.parametrize("name", PACKAGES)
def test_what_a_plugin_module_lacks(tmp_path, monkeypatch, name):
    for file, text in {
        "package/__init__.py": "import package.inner\n",
        "package/inner.py": "import absent_here\n",
        "good/__init__.py": "",
        "failing.py": "1 / 0\n",
    }.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError) as said:
        load_plugins([name])
    assert PACKAGES[name] in str(said.value)
    for module in ("package", "good", "failing"):
        sys.modules.pop(module, None)


def test_a_target_in_a_package_that_lacks_something(tmp_path, monkeypatch):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").touch()
    (tmp_path / "pack" / "net.py").write_text("import absent_here\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    load_plugins(["pack"])
    node = {"_target_": "pack.net.Own"}
    with pytest.raises(InputError, match=r"pack\.net needs the package absent_here, which is not"):
        load_target_class(node, "net", ["pack"], Network)
    (tmp_path / "pack" / "net.py").write_text("")
    with pytest.raises(InputError, match=r"'net\._target_: pack\.net\.Own' does not exist: module"):
        load_target_class(node, "net", ["pack"], Network)
    for module in ("pack", "pack.net"):
        sys.modules.pop(module, None)


def test_plugin_files_import_one_another_in_any_order(tmp_path):
    for file, text in {
        "a/first.py": "import second_one\n",
        "b/second_one.py": "VALUE = 3\n",
    }.items():
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_text(text)
    path = list(sys.path)
    files = [str(tmp_path / "a" / "first.py"), str(tmp_path / "b" / "second_one.py")]
    try:
        load_plugins(files)
        assert sys.modules["first"].second_one.VALUE == 3
        load_plugins(files)
    finally:
        sys.path[:] = path
        for name in ("first", "second_one"):
            sys.modules.pop(name, None)


def test_a_plugin_that_failed_is_not_half_there(tmp_path):
    file = tmp_path / "half.py"
    file.write_text("VALUE = 1\n1 / 0\n")
    for _ in range(2):
        with pytest.raises(PluginError, match=r"half\.py, line 2, in <module>: ZeroDivisionError"):
            load_plugins([str(file)])
    file.write_text("VALUE = 2\n")
    load_plugins([str(file)])
    assert sys.modules.pop("half").VALUE == 2


def test_other_errors_stay_what_they_are():
    @names_plugins
    def command(config, error):
        raise error

    for error in (ZeroDivisionError("inside"), InputError("known"), MemoryError()):
        with pytest.raises(type(error)) as said:
            command(SimpleNamespace(plugins=["nowhere/own.py", "json"]), error)
        assert said.value is error
    assert locate_failure(ValueError("never raised"), ["own.py"]) is None


def test_memory_that_ran_out_in_a_plugin_is_said_as_such(tmp_path):
    file = tmp_path / "greedy.py"
    file.write_text("def take():\n    raise MemoryError\n")
    load_plugins([str(file)])

    @names_plugins
    def command(config):
        sys.modules["greedy"].take()

    with pytest.raises(MemoryError):
        command(SimpleNamespace(plugins=[str(file)]))
    del sys.modules["greedy"]


LAZY = """
from bmo_cli.nets.convex_potential import ConvexPotential


class Lazy(ConvexPotential):
    def bind(self, guide=None):
        from amount import FACTOR

        apply = super().bind(guide)
        return lambda x: FACTOR * apply(x)
"""


@pytest.mark.slow
def test_what_a_plugin_imports_while_it_computes_belongs_to_it(bmo, tiny, tmp_path):
    (tmp_path / "lazy.py").write_text(LAZY)
    (tmp_path / "amount.py").write_text("FACTOR = 0.9\n")
    net = ["net=lip", "net.width=4", "net.size=3", "net._target_=lazy.Lazy", "plugins=[lazy.py]"]
    done = bmo("train", *without_net(tiny), *net, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    (tmp_path / "amount.py").write_text("FACTOR = 0.5\n")
    done = bmo("certify", "run=run", "plugins=[lazy.py]", "device=cpu", "certificate.horizon=3")
    assert done.returncode == 2
    assert "the plug-in amount is not the one that the run was trained with" in done.stderr


def test_of_a_module_in_a_package_the_whole_package_counts(tmp_path, monkeypatch):
    bundle = tmp_path / "bundle_of_operators"
    bundle.mkdir()
    for name, text in (("__init__", ""), ("base", "FACTOR = 0.9\n"), ("ops", "import math\n")):
        (bundle / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    plugins = load_plugins(["bundle_of_operators.ops"])
    before = hash_plugins(plugins)
    assert set(before) == {"bundle_of_operators", "bundle_of_operators.ops"}
    (bundle / "base.py").write_text("FACTOR = 0.5\n")
    after = hash_plugins(plugins)
    assert after["bundle_of_operators"] != before["bundle_of_operators"]
    assert after["bundle_of_operators.ops"] == before["bundle_of_operators.ops"]
    assert "bmo_cli" not in hash_plugins(load_plugins(["bmo_cli.metrics"]))
