"""Arguments read from source files against what Python's own classes accept."""

import importlib
import itertools
import subprocess
import sys

import pytest
from conftest import result

from bmo_cli.config.schema import check_target, plugin_files
from bmo_cli.config.signature import read_signature
from bmo_cli.errors import InputError

FILES = {
    "base.py": """
        from abc import ABC
        from typing import Generic, TypeVar
        from torch import nn
        T = TypeVar("T")
        class Root(nn.Module, ABC):
            def __init__(self, *, alpha=1, beta=2):
                super().__init__()
        class Plain(Root): pass
        class Typed(Plain, Generic[T]): pass
        class Left(nn.Module): pass
        class Right(Root):
            def __init__(self, *, gamma=3):
                super().__init__()
        Alias = Plain
    """,
    "deep/__init__.py": "from .inner import *\nfrom . import inner as within\n",
    "deep/inner.py": """
        from ..base_of_package import Top
        class Deep(Top): pass
    """.replace("..base_of_package", "deep.top"),
    "deep/top.py": """
        class Top:
            def __init__(self, *, delta=4): pass
    """,
    "own.py": """
        import base
        import base as b
        from bmo_cli.config import checks
        import deep.inner
        import deep.inner as d
        from base import Plain, Root as R
        from deep import Deep
        from deep import within
        from torch import nn
        import torch.nn as tnn
        import torch
        import abc
        import collections
        try:
            from not_installed import Missing
        except ImportError:
            from base import Left as Missing

        try:
            from base import Plain as Either
        except ImportError:
            class Either: pass

        class First(Either): pass
        class FromImport(Plain): pass
        class Renamed(R): pass
        class Dotted(base.Plain): pass
        class DottedAs(b.Plain): pass
        class Aliased(b.Alias): pass
        class Subscript(b.Typed[int]): pass
        class ThreeDots(deep.inner.Deep): pass
        class ThreeDotsAs(d.Deep): pass
        class Star(Deep): pass
        class Within(within.Deep): pass
        class Chain(ThreeDotsAs): pass
        class LongChain(Chain): pass
        class NoArguments(nn.Module): pass
        class NoArguments2(tnn.Module, abc.ABC): pass
        class NoArguments3(torch.nn.Module): pass
        class NoArguments4(object): pass
        class Both(b.Left, b.Right): pass
        class Diamond(Plain, b.Right): pass
        class DiamondBack(b.Right): pass
        class Swallowing(Plain):
            def __init__(self, *, width=1, **kwargs):
                super().__init__()
        class Handing(Plain):
            def __init__(self, *, width=1, **kwargs):
                super().__init__(**kwargs)
        class HandingTwice(Handing):
            def __init__(self, depth, *, beta=5, **others):
                super().__init__(beta=beta, **others)
        class Fixing(b.Root):
            def __init__(self, **kwargs):
                super().__init__(alpha=7, **kwargs)
        class ByName(b.Root):
            def __init__(self, *, width=1, **kwargs):
                b.Root.__init__(self, **kwargs)
        class Positional(HandingTwice):
            def __init__(self, **kwargs):
                super().__init__(3, **kwargs)
        class Inheriting(HandingTwice): pass
        class Holder:
            def __init__(self, part): pass
        @checks.checked
        class Inner(b.Root):
            def __init__(self, *, width=1, depth, **kwargs):
                super().__init__(**kwargs)
        class Building:
            def __init__(self, *, omega=1, **kwargs):
                self.inner = Inner(width=2, **kwargs)
        class BuildingInCall(Holder):
            def __init__(self, *, omega=1, **kwargs):
                super().__init__(Inner(**kwargs))
        class Overloaded(b.Left):
            def __init__(self, alpha=1): super().__init__()
            def __init__(self, *, omega=1): super().__init__()
    """,
    "sibling.py": """
        from own import Handing
        class Sister(Handing): pass
    """,
    "reexport.py": "from own import Handing, Both as Renamed\n",
}
CLASSES = (
    "First FromImport Renamed Dotted DottedAs Aliased Subscript ThreeDots ThreeDotsAs Star Within "
    "Chain LongChain NoArguments NoArguments2 NoArguments3 NoArguments4 Both Diamond DiamondBack "
    "Handing HandingTwice Fixing ByName Positional Inheriting Building BuildingInCall Overloaded"
)
NAMES = ("alpha", "beta", "gamma", "delta", "omega", "width", "depth", "other")


def dedented(text):
    return "\n".join(line[8:] if line.startswith(" " * 8) else line for line in text.splitlines())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files, and Python able to import them."""
    folder = tmp_path_factory.mktemp("sources")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(dedented(text))
    before = set(sys.modules)
    sys.path.append(str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def accepted(cls):
    """(arguments that a class takes, those that it needs), by trying."""

    def works(names):
        try:
            cls(**dict.fromkeys(names, 1))
        except TypeError:
            return False
        return True

    sets = [set(c) for n in range(3) for c in itertools.combinations(NAMES, n)]
    needed = min((names for names in sets if works(names)), key=len)
    return {name for name in NAMES if works(needed | {name})}, needed


@pytest.mark.parametrize(
    "target",
    [
        *(f"own.{name}" for name in CLASSES.split()),
        "sibling.Sister",
        "reexport.Handing",
        "reexport.Renamed",
    ],
)
def test_arguments_are_those_that_python_accepts(folder, target):
    """With only some of the files named: the others are found beside them."""
    module, _, name = target.rpartition(".")
    read = read_signature(target, (folder / f"{module}.py",))
    real, needed = accepted(getattr(importlib.import_module(module), name))
    assert (set(read.annotations), set(read.required)) == (real, needed)
    assert read.complete


def test_what_a_constructor_swallows_is_no_key(folder):
    read = read_signature("own.Swallowing", (folder / "own.py",))
    assert set(read.annotations) == {"width"} and read.complete


def test_a_sibling_may_be_in_another_folder(tmp_path):
    for name, text in {
        "a/apart.py": "class Base:\n    def __init__(self, *, alpha=1): pass\n",
        "b/elsewhere.py": "import apart\nclass Mine(apart.Base): pass\n",
    }.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    files = (tmp_path / "b" / "elsewhere.py", tmp_path / "a" / "apart.py")
    assert read_signature("elsewhere.Mine", files).annotations.keys() == {"alpha"}
    alone = read_signature("elsewhere.Mine", files[:1])
    assert not alone.complete and alone.annotations == {}


INCOMPLETE = """
import functools
import torch
from bmo_cli.config.checks import checked
from dataclasses import dataclass
import bmo_cli.nets.network as network
from missing_package import Base, deep
def made(base): return base
Computed = made(object)
class Missing(Base): pass
class MissingDotted(deep.Base): pass
class Called(made(object)): pass
class Assigned(Computed): pass
@dataclass
class Generated: width: int = 1
class OfGenerated(Generated): pass
class Elsewhere(network.Network):
    def __init__(self, *, channels: int = 1, **kwargs):
        super().__init__()
        self.inner = made(**kwargs)
class Twice(network.Network):
    def __init__(self, *, channels: int = 1, **kwargs):
        depth = kwargs.pop("depth", 3)
        super().__init__(**kwargs)
class Unchecked(network.Network):
    def __init__(self, *, channels: int = 1, **kwargs):
        self.inner = torch.nn.Conv2d(**kwargs)
@checked
class Nested(network.Network):
    def __init__(self, *, channels: int = 1, **kwargs):
        self.inner = Nested(channels=3, **kwargs) if channels == 1 else None
class Itself(Itself): pass
"""


@pytest.mark.parametrize(
    ("name", "known"),
    [
        *((n, set()) for n in ("Missing", "MissingDotted", "Called", "Assigned", "Computed")),
        *((n, set()) for n in ("Generated", "OfGenerated", "Itself")),
        *((n, {"channels"}) for n in ("Elsewhere", "Twice", "Unchecked", "Nested")),
    ],
)
def test_what_cannot_be_read_is_left_to_python(tmp_path, name, known):
    """Never silently "takes no arguments": keys pass until the object is built."""
    file = tmp_path / "unread.py"
    file.write_text(INCOMPLETE)
    read = read_signature(f"unread.{name}", (file,))
    assert not read.complete and set(read.annotations) == known
    node = {"_target_": f"unread.{name}", "anything": 3}
    check_target(node, "net", [str(file)])
    if known:
        with pytest.raises(InputError, match=r"net\.channels must be an integer"):
            check_target(node | {"channels": "x"}, "net", [str(file)])


def test_unknown_names_are_refused_with_the_nearest_one(folder):
    files = (folder / "own.py",)
    for target in ("own.Handin", "own.collections"):
        if target == "own.Handin":
            with pytest.raises(InputError, match=r"own has no class 'Handin'; did you mean"):
                read_signature(target, files)
        else:
            assert not read_signature(target, files).complete
    with pytest.raises(InputError, match=r"unknown key 'net\.widht'; did you mean 'net\.width'"):
        check_target({"_target_": "own.Handing", "widht": 3}, "net", [str(files[0])])
    with pytest.raises(InputError, match=r"'net\.depth' is missing"):
        check_target({"_target_": "own.HandingTwice"}, "net", [str(files[0])])


def test_classes_of_the_package_are_named_where_they_are():
    for target in ("bmo_cli.nets.convex_potential.Network", "bmo_cli.gkm.scheme.Tensor"):
        with pytest.raises(InputError, match="has no class"):
            read_signature(target)


def test_reading_imports_nothing(folder, tmp_path):
    """Bases in torch are read, too, and torch is not imported for it."""
    (tmp_path / "conv.py").write_text("from torch import nn\nclass Mine(nn.Conv2d): pass\n")
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from bmo_cli.config.signature import read_signature\n"
        f"read = read_signature('conv.Mine', (Path({str(tmp_path / 'conv.py')!r}),))\n"
        "assert 'kernel_size' in read.required and read.complete, read\n"
        f"read_signature('own.Both', (Path({str(folder / 'own.py')!r}),))\n"
        "assert not {'torch', 'own', 'base'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_syntax_errors_are_said_with_their_line(tmp_path, monkeypatch):
    file = tmp_path / "broken.py"
    file.write_text("class A:\n    def f(self:\n        pass\n")
    with pytest.raises(InputError, match=r"plug-in broken\.py, line 2: not valid Python"):
        read_signature("broken.A", (file,))
    package = tmp_path / "folder" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("x = 1\ny = = 2\n")
    monkeypatch.syspath_prepend(str(tmp_path / "folder"))
    with pytest.raises(InputError, match=r"package/__init__\.py, line 2: not valid Python"):
        read_signature("package.A")
    (tmp_path / "good.py").write_text("import package\nclass A(package.B): pass\n")
    assert not read_signature("good.A", (tmp_path / "good.py",)).complete
    with pytest.raises(InputError, match=r"no plug-in file gone\.py"):
        plugin_files(["gone.py"])


@pytest.mark.slow
def test_a_network_from_three_files_trains(bmo, tiny, tmp_path):
    """Its arguments come from a base in a module beside it, through a named sibling."""
    (tmp_path / "ground.py").write_text(
        "import bmo_cli.nets.dncnn as dncnn\n\n\nclass Ground(dncnn.DnCNN):\n    pass\n"
    )
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "middle.py").write_text(
        "import ground\n\n\nclass Middle(ground.Ground):\n"
        "    def __init__(self, *, shift: float = 0.0, **kwargs):\n"
        "        super().__init__(**kwargs)\n        self.shift = shift\n"
    )
    (tmp_path / "top.py").write_text("import middle as m\n\n\nclass Top(m.Middle):\n    pass\n")
    words = ["net._target_=top.Top", "+net.shift=0.5", "hydra.run.dir=run"]
    plugins = "plugins=[top.py,folder/middle.py]"
    done = bmo("train", *tiny, *words, plugins)
    assert done.returncode == 0, done.stderr
    assert result(tmp_path / "run")["status"] == "ok"
    done = bmo("train", *tiny, *words, plugins, "+net.shft=1")
    assert done.returncode == 2
    assert "unknown key 'net.shft'; did you mean 'net.shift'?" in done.stderr
    done = bmo("train", *tiny, *words, plugins, "net.width=0")
    assert "net.width must be an integer >= 1, got 0" in done.stderr
