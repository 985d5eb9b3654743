"""One truth about the Python versions: metadata, scripts, tools, workflow and documents agree."""

import re
import tomllib

import pytest
import yaml
from conftest import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
OLDEST = PROJECT["requires-python"].removeprefix(">=")
NAME = "Programming Language :: Python :: 3."
DECLARED = [word.rsplit(" ", 1)[-1] for word in PROJECT["classifiers"] if word.startswith(NAME)]


def test_the_oldest_python_is_the_first_that_is_declared():
    assert PROJECT["requires-python"] == f">={OLDEST}"
    assert DECLARED[0] == OLDEST


def test_tools_check_for_the_oldest_python():
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{OLDEST.replace('.', '')}"
    assert PYPROJECT["tool"]["mypy"]["python_version"] == OLDEST


def test_the_scripts_ask_for_the_oldest_python():
    script = (ROOT / "scripts" / "environment.sh").read_text()
    major, minor = OLDEST.split(".")
    assert f"sys.version_info < ({major}, {minor})" in script
    assert set(re.findall(r"(\d\.\d+) or newer", script)) == {OLDEST}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/quick-start.md"])
def test_documents_name_the_oldest_python(name):
    assert set(re.findall(r"Python (\d\.\d+)", (ROOT / name).read_text())) == {OLDEST}


def test_the_workflow_runs_every_declared_python():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == DECLARED


def test_the_citation_has_the_version():
    import bmo_cli

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == bmo_cli.__version__
    assert PROJECT["authors"] == [{"name": author["name"]} for author in citation["authors"]]


def test_every_dependency_of_the_documentation_is_pinned():
    pinned = {
        re.split("==", line)[0].lower().replace("_", "-")
        for line in (ROOT / "scripts" / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    }
    for extra in ("docs", "dev"):
        for requirement in PROJECT["optional-dependencies"][extra]:
            name = re.split(r"[\[<>=]", requirement)[0].lower()
            assert name in pinned | {"bmo-cli"}, requirement
