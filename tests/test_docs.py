"""What the documentation shows is true: commands compose, examples and citations exist."""

import functools
import importlib.util
import itertools
import re
import shlex
import sys

import pytest
import yaml
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, RangeSweep
from omegaconf import OmegaConf

from bmo_cli import cli
from bmo_cli.commands import invocation
from bmo_cli.config.locate import config_dir
from bmo_cli.config.schema import check_config
from bmo_cli.report import page, summary
from bmo_cli.results import runs

PAGES = sorted((ROOT / "docs").rglob("*.md"))
WRITTEN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
OF_RUNS = {"runs": runs.USAGE, "compare": summary.USAGE, "report": page.USAGE}


def name(file):
    return str(file.relative_to(ROOT))


def code_lines(text):
    """Lines of the code blocks, joined where they go on, without what a console printed."""
    fenced = re.findall(r"^```(?:bash|sh)\n(.*?)^```", text, flags=re.M | re.S)
    indented = re.findall(r"^ {4,}(\S.*)$", re.sub(r"\\\n\s+", "", text), flags=re.M)
    return [*indented, *(line for block in fenced for line in block.splitlines())]


def shown_commands():
    """Words after `bmo` of every command line of the documents, with the page that shows it."""
    found, variables = {}, {}
    for file in WRITTEN:
        text = file.read_text()
        inline = re.findall(r"`(bmo \w+ [^`\n]+)`", text)
        for line in [
            *code_lines(text),
            *(c for c in inline if not re.search(r"\.\.\.|COMMAND|NAME", c)),
        ]:
            if assigned := re.fullmatch(r'([A-Z]+)="(.*)"', line):
                variables[f"${assigned[1]}"] = assigned[2]
            for part in re.split(r"&&", line):
                for variable, value in variables.items():
                    part = part.replace(variable, value)
                known = re.match(r"\s*(?:[A-Z_]+=\S+ |srun )*(?:scripts/)?bmo (.*)", part)
                if known:
                    found.setdefault(tuple(shlex.split(known[1], comments=True)), name(file))
    return found


COMMANDS = shown_commands()


def values(override):
    """The values that an override of a sweep takes; the lower end of an interval."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        return [f"{override.key_or_group}={value.start}"]
    if isinstance(value, ChoiceSweep | RangeSweep):
        return [f"{override.key_or_group}={text}" for text in override.sweep_string_iterator()]
    return [override.input_line]


def composed(command, words):
    """The configurations that the words make: of a sweep its first and its last job."""
    names = iter(words)
    searched = [next(names) for word in names if word == "--config-dir"]
    words = [word for word in words if word not in {"--cfg", "job", *searched}]
    words = [word for word in words if not word.startswith("-")]
    if command == "table":
        words = [*invocation._rewrite_table_words(words), "out=OUT"]
    jobs = list(itertools.product(*map(values, OverridesParser.create().parse_overrides(words))))
    extra = [f"hydra.searchpath=[file://{ROOT / folder}]" for folder in searched]
    for job in {jobs[0], jobs[-1]}:
        config = compose(command, [*job, *extra])
        yield OmegaConf.to_container(config, resolve=True)


@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_shown_command_composes(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    command, *rest = words
    if command.startswith("-"):
        assert command in ("--help", "--version")
    elif command in OF_RUNS:
        keys = {word.split("=")[0] for word in rest if "=" in word or word.startswith("--")}
        assert all(key in OF_RUNS[command] for key in keys)
    elif "--help" not in rest:
        assert command in cli.COMMANDS
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            for config in composed(command, rest):
                check_config(config, command)
                if command == "table" and config["preset"] is not None:
                    assert config["preset"] in config["table"]["presets"]


def test_every_command_is_shown():
    assert {words[0] for words in COMMANDS} >= {*cli.COMMANDS, *OF_RUNS}


@pytest.mark.parametrize("file", WRITTEN, ids=name)
def test_abbreviations_are_expanded_where_they_are_first_used(file):
    text = " ".join(file.read_text().split())
    for short, long in (
        ("GKM", "generalised Krasnoselskii-Mann"),
        ("BMO", "bilevel meta optimisation"),
    ):
        used = re.search(rf"\b{short}\b(?!\\?_)", text)
        if used:
            before = text[: used.end()].lower() + text[used.end() :][:40].lower()
            assert long.lower() in before


@pytest.mark.parametrize("file", WRITTEN, ids=name)
def test_scripts_that_are_named_exist(file):
    named = set(
        re.findall(
            r"(?<![\w/])(?:scripts|stress|tests|benchmarks|examples)/[\w./-]*\w", file.read_text()
        )
    )
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize("file", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=name)
def test_links_lead_to_files(file):
    links = re.findall(r"\]\(([^)#]+)", file.read_text())
    assert links and not [link for link in links if not (ROOT / link).is_file()]


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_examples_are_the_files():
    text = (ROOT / "docs" / "tutorials" / "extend.md").read_text()
    shown = re.findall(r"`(examples/\S+)`:\n\n```\w+\n(.*?)```", text, flags=re.S)
    files = [f for f in (ROOT / "examples").rglob("*") if f.suffix in (".py", ".yaml")]
    assert {path for path, _ in shown} == {name(file) for file in files}
    for path, content in shown:
        assert (ROOT / path).read_text() == content


def test_sections_of_the_method_that_code_cites_exist():
    sections = re.findall(r"^#+ (.*)$", (ROOT / "docs" / "method.md").read_text(), flags=re.M)
    cited = set()
    for file in (ROOT / "bmo_cli").rglob("*.py"):
        text = " ".join(file.read_text().split())
        for quoted in re.findall(r'docs/method\.md, ("[^"]+"(?: and "[^"]+")*)', text):
            cited |= set(re.findall(r'"([^"]+)"', quoted))
        assert text.count("method.md") == text.count("docs/method.md")
    assert cited and cited <= set(sections)


def test_documents_that_code_and_configurations_name_exist():
    for file in [*(ROOT / "bmo_cli").rglob("*.py"), *(ROOT / "configs").rglob("*.yaml")]:
        for named in re.findall(r"docs/[\w/-]+\.md", file.read_text()):
            assert (ROOT / named).is_file(), f"{name(file)} names {named}"


@functools.cache
def reference():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    module = sys.modules["reference"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_up_to_date():
    assert not reference().outdated(), "run python docs/reference.py"


@pytest.mark.parametrize("group", sorted(p.name for p in (ROOT / "configs").glob("*/")))
def test_the_reference_has_every_group(group):
    if group == "hydra":
        shown = {*(f"hydra/{p.name}" for p in (ROOT / "configs" / "hydra").glob("*/"))}
        assert shown - {"hydra/job_logging", "hydra/hydra_logging"} <= set(reference().GROUPS)
    else:
        assert group in {*reference().GROUPS, "table"}


def leaves(node, prefix):
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}.{key}")
        elif key not in ("_target_", "defaults"):
            yield f"{prefix}.{key}"


@pytest.mark.parametrize("group", ["task", "gkm", "net", "hyper", "data", "optim", "logger"])
def test_the_reference_has_every_key(group):
    text = (ROOT / "docs" / "reference" / f"{group}.md").read_text()
    for file in (ROOT / "configs" / group).glob("*.yaml"):
        content = yaml.safe_load(file.read_text())
        own = content.get(group, {}) if "@package _global_" in file.read_text() else content
        section = text.split(f"## `{group}={file.stem}`\n")[1].split("\n## ")[0]
        assert not [key for key in leaves(own, group) if f"| `{key}` |" not in section]


def test_a_key_without_an_explanation_is_refused():
    with pytest.raises(reference().Unexplained, match=r"net\.depth has no explanation"):
        reference().row("net.depth", "5", int, "")


@pytest.mark.parametrize(
    ("tag", "elsewhere"),
    [
        ('<script src="https://example.org/x.js">', True),
        ('<link href="//example.org/x.css" rel="stylesheet">', True),
        ('<img alt="x" src="images/deconv.jpg">', False),
        ('<a href="https://example.org">', False),
    ],
)
def test_a_page_that_loads_from_another_host_is_refused(tag, elsewhere):
    assert bool(reference()._FROM_ELSEWHERE.search(tag)) == elsewhere
