"""Every YAML choice composes, passes the schema and builds; the schema knows real signatures."""

import inspect
import typing

import pytest
import torch
import yaml
from conftest import plain_config

from bmo_cli.config.checks import Part
from bmo_cli.config.help import help_text
from bmo_cli.config.locate import choices, config_dir
from bmo_cli.config.schema import check_config, check_target
from bmo_cli.config.signature import read_signature
from bmo_cli.data.splits import Embedded
from bmo_cli.errors import InputError
from bmo_cli.experiment.build import build
from bmo_cli.gkm.scheme import GKM
from bmo_cli.hyper.base import HyperOptimizer
from bmo_cli.tasks.task import Task
from bmo_cli.training.optimizer import build_optimizer

GROUPS = choices()
OPTIONS = [(group, option) for group, options in GROUPS.items() for option in options]


def alone(group, option):
    """The choice, with the task that it needs."""
    learned = group == "gkm" and option in ("lista", "lista_cp", "alista", "dladmm")
    layers = option in ("layers", "guided_layers", "dictionary_layers", "rain_dictionary")
    task = "derain" if layers else "sparse_coding"
    words = [f"task={task}"] if learned or task == "derain" else []
    words += ["gkm=rain_dictionary"] if option == "dictionary_layers" else []
    words += ["net=lip"] if option == "separate" else []  # it fits no guided network
    return [f"{group}={option}", *words]


@pytest.mark.slow
@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_choice_composes_and_passes_the_schema(group, option):
    check_config(plain_config(*alone(group, option)))


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_choice_says_what_it_is(group, option):
    assert len(GROUPS[group][option]) > 15
    assert GROUPS[group][option] in help_text("train", "", "")


PARTS = ("task", "method", "gkm", "net", "hyper", "optim")


@pytest.mark.slow
@pytest.mark.parametrize(("group", "option"), [pair for pair in OPTIONS if pair[0] in PARTS])
def test_choice_builds(group, option):
    config = plain_config(*alone(group, option), "device=cpu")
    experiment = build(check_config(config))
    if experiment.hyper.trains:
        optimizer = build_optimizer(config["optim"], [], experiment.omega, 10)
        assert isinstance(optimizer, torch.optim.Optimizer)
    assert isinstance(experiment.task, Task)
    assert isinstance(experiment.scheme, GKM)
    assert isinstance(experiment.hyper, HyperOptimizer)


def targets():
    for file in config_dir().glob("*/*.yaml"):
        content = yaml.safe_load(file.read_text()) or {}
        for node in (content, content.get("operator") or {}):
            if str(node.get("_target_", "")).startswith("bmo_cli."):
                yield node["_target_"]


def receivers(constructor, passed):
    """The `__init__` that take the arguments of a class in turn, with what the one before gives."""
    if all(p.kind is not p.VAR_KEYWORD for p in inspect.signature(constructor).parameters.values()):
        return []
    with pytest.raises(TypeError, match="unexpected keyword argument 'no_such_key'") as error:
        constructor(**passed, no_such_key=1)
    frames = [entry.frame.f_locals for entry in error.traceback if entry.name == "construct"]
    return [(frame["original"], frame["kwargs"].keys() - passed.keys()) for frame in frames]


@pytest.mark.parametrize("target", sorted(set(targets())))
def test_signature_read_from_source_is_the_real_one(target):
    module, _, name = target.rpartition(".")
    constructor = getattr(__import__(module, fromlist=[name]), name)
    read = read_signature(target)
    real = dict(inspect.signature(constructor).parameters)
    hints = typing.get_type_hints(inspect.unwrap(constructor.__init__), include_extras=True)
    passed = {"data": Embedded(channels=3)} if ".tasks." in target else {}
    for function, given in receivers(constructor, passed)[1:]:
        parameters = inspect.signature(function).parameters
        real |= {k: p for k, p in parameters.items() if k not in {"self", *given, *real}}
        hints = typing.get_type_hints(function, include_extras=True) | hints
    real = {k: p for k, p in real.items() if p.kind is not p.VAR_KEYWORD}
    assert read.complete
    assert list(read.annotations) == list(real)
    for key, annotation in read.annotations.items():
        if annotation is Part:
            assert hints[key].__module__.startswith("bmo_cli.")
        elif Part in typing.get_args(annotation):
            assert typing.get_args(annotation)[1:] == typing.get_args(hints[key])[1:]
        else:
            assert annotation == hints[key]
    assert set(read.required) == {k for k, p in real.items() if p.default is p.empty}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "seed must be an integer from 0 to 2^63 - 1, got -1"),
        ({"tain": {}}, "unknown key 'tain'; did you mean 'train'?"),
        ({"train": 3}, "'train' must be a group of keys"),
        ({"gkm": {}}, "'gkm' needs a '_target_'"),
        ({"gkm": {"_target_": "os.system"}}, "is not allowed"),
        ({"gkm": {"_target_": "bmo_cli.cli.__builtins__"}}, "is not allowed"),
        ({"gkm": {"_target_": "bmo_cli.gkm.scheme.GMK"}}, "did you mean 'GKM'?"),
        ({"gkm": {"_target_": "bmo_cli.gkm.shceme.GKM"}}, "no module 'bmo_cli.gkm.shceme'"),
        ({"plugins": "x.py"}, "plugins must be a list"),
        ({"gkm": {"_target_": "bmo_cli.experiment.build.load_plugins"}}, "is not allowed"),
        ({"data": {"_target_": "bmo_cli.data.images.file.read_image"}}, "has no class"),
    ],
)
def test_schema_refuses(change, message):
    with pytest.raises(InputError) as error:
        check_config(plain_config() | change)
    assert message in str(error.value)


def test_nested_targets_are_checked():
    node = plain_config()["gkm"]
    node["operator"]["gamma"] = -1
    with pytest.raises(InputError, match=r"gkm\.operator\.gamma must be finite and > 0, got -1"):
        check_target(node, "gkm")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(f.stem for f in (config_dir() / "table").glob("*.yaml")))
def test_every_cell_of_every_table_composes(name):
    table = yaml.safe_load((config_dir() / "table" / f"{name}.yaml").read_text())
    pairs = set()
    for number, (column, problem) in enumerate(table["columns"].items()):
        rows = list(table["rows"].items())
        for row, overrides in rows if number % 4 == 0 else rows[:1]:  # columns repeat each other
            further = table.get("adjust", {}).get(row, {}).get(column, ())
            words = [*table["common"], *problem, *overrides, *further]
            config = plain_config(*words)
            task = config["task"]["_target_"].rsplit(".", 1)[-1]
            pairs.add((row, task))
    assert {row for row, _ in pairs} == set(table["rows"])
    assert set(table.get("skip", {})) <= set(table["rows"])
