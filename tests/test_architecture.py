"""Imports go down only, and what has to start fast does not import torch."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

LAYERS = [
    {"errors"},
    {"config"},
    {"linear", "nets", "results"},
    {"solver", "data", "metrics"},
    {"gkm"},
    {"hyper", "tasks"},
    {"verification", "report", "loggers"},
    {"experiment"},
    {"training"},
    {"jobs"},
    {"tables"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(file for file in (ROOT / "bmo_cli").rglob("*.py") if file.name != "__init__.py")


def imports(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def part(module):
    return module.split(".")[1] if module.count(".") else None


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_go_down(file):
    own = file.relative_to(ROOT / "bmo_cli").parts[0].removesuffix(".py")
    for module in imports(file):
        if module.startswith("bmo_cli.") and part(module) != own:
            assert LEVEL[part(module)] < LEVEL[own], f"{own} imports {module}"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_hydra_stays_at_the_top_and_torch_below(file):
    own = file.relative_to(ROOT / "bmo_cli").parts[0].removesuffix(".py")
    roots = {module.split(".")[0] for module in imports(file)}
    if roots & {"hydra", "omegaconf"}:
        assert own in ("cli", "config", "commands", "tables", "jobs")
    if "torch" in roots:
        assert own not in ("cli", "config", "results", "errors")


@pytest.mark.parametrize(
    "package, bases",
    [
        ("tasks", {"task", "restoration"}),
        ("hyper", {"base", "memory", "reverse"}),
        ("gkm", {"operator"}),
    ],
)
def test_plugins_do_not_import_one_another(package, bases):
    for file in (ROOT / "bmo_cli" / package).glob("*.py"):
        own = [m for m in imports(file) if m.startswith(f"bmo_cli.{package}.")]
        assert set(own) <= {f"bmo_cli.{package}.{base}" for base in bases}


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--help"], [], ["train", "train.stps=1"], ["train", "seed=x"]])
def test_torch_is_not_imported_for(words, tmp_path):
    code = (
        "import sys\nfrom bmo_cli.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
