"""Build objects from a configuration: only allowed targets, and every error in one line."""

from __future__ import annotations

import importlib
import inspect
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bmo_cli.config.schema import GIVEN, Config, check_allowed, plugin_files, plugin_module
from bmo_cli.config.signature import read_signature
from bmo_cli.data.splits import PhotographData
from bmo_cli.errors import BmoError, InputError
from bmo_cli.experiment.plugins import import_module, load_plugins, locate_failure, plugin_error
from bmo_cli.gkm.scheme import GKM
from bmo_cli.hyper.base import HyperOptimizer
from bmo_cli.tasks.task import Task
from bmo_cli.verification.evidence import declarers, parts_of_scheme

Node = Mapping[str, Any]


@dataclass(frozen=True)
class Experiment:
    """The objects of a configuration, on their device and in evaluation mode."""

    task: Task
    scheme: GKM
    hyper: HyperOptimizer
    device: torch.device
    notes: tuple[str, ...]
    """assumptions of the theory that this configuration does not meet"""

    @property
    def nonexpansive(self) -> bool:
        """Whether D is nonexpansive by construction on the problems of the task.

        Declarations of classes from outside of the package do not count.
        """
        own = not declarers((*parts_of_scheme(self.scheme), self.task))
        return own and self.scheme.nonexpansive and self.task.convex

    @property
    def omega(self) -> nn.ModuleDict:
        """Every hyper-training variable: the scheme's and the task's."""
        return nn.ModuleDict({"scheme": self.scheme, "task": self.task})


def build(config: Config) -> Experiment:
    """Build task, scheme and hyper-optimiser.

    Raises:
        InputError: a target, an argument, a file or the device cannot be used.
    """
    device = choose_device(config.device)
    plugins = load_plugins(config.plugins)
    torch.manual_seed(config.seed)  # for plug-in networks without a seed argument
    torch.backends.cudnn.deterministic = True
    data = instantiate(config.data, "data", plugins, PhotographData)
    values = {"data": data, "seed": config.seed}
    given = {name: values[name] for name in GIVEN["task"]}
    task = instantiate(config.task, "task", plugins, Task, **given)
    scheme = instantiate(config.gkm, "gkm", plugins, GKM, layers=task.layers)
    hyper = instantiate(config.hyper, "hyper", plugins, HyperOptimizer)
    notes = list(hyper.check(scheme))
    outside = declarers(parts_of_scheme(scheme))
    if outside and scheme.nonexpansive:
        notes.append(f"D is nonexpansive as declared by {', '.join(outside)}, not proved")
    if not task.convex:
        notes.append("the problems of this task are not convex: D need not be nonexpansive")
    stages, iterations = len(scheme.stages), config.train.iterations
    if stages > iterations and hyper.trains:
        notes.append(
            f"gkm.stages={stages}, but train.iterations={iterations} trains only the first "
            f"{iterations} of them"
        )
    return Experiment(task.to(device).eval(), scheme.to(device), hyper, device, tuple(notes))


def instantiate(node: Node, name: str, plugins: Sequence[str], kind: type, **given: Any) -> Any:
    """Build the object of a `_target_` node, after its nested nodes.

    A target is called only if the allow-list holds it and it is a class of the right kind.

    Args:
        node: `_target_` and the arguments of its constructor.
        name: of the node in the configuration, for messages.
        plugins: plug-ins that the command line adds to the allow-list.
        kind: base class that the target must have.
        given: further arguments, for constructors that take them.
    """
    constructor = load_target_class(node, name, plugins, kind)
    arguments = {
        key: instantiate(value, f"{name}.{key}", plugins, nn.Module)
        if isinstance(value, Mapping) and "_target_" in value
        else value
        for key, value in node.items()
        if key != "_target_"
    }
    arguments |= {
        key: value for key, value in given.items() if takes_argument(constructor, key, plugins)
    }
    try:
        return constructor(**arguments)
    except BmoError:
        raise
    except (TypeError, ValueError) as error:
        unexpected = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        hint = f" (drop it with '~{name}.{unexpected.group(1)}')" if unexpected else ""
        place = locate_failure(error, plugins)
        if place is not None:
            raise plugin_error(error, f"{name}: {place}", hint) from error
        raise InputError(f"{name}: {error}{hint}") from error


def takes_argument(constructor: type, name: str, plugins: Sequence[str]) -> bool:
    """Whether a constructor takes an argument, itself or through its `**kwargs`."""
    parameters = inspect.signature(constructor).parameters
    if name in parameters or all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
        return name in parameters
    target = f"{constructor.__module__}.{constructor.__qualname__}"
    return name in read_signature(target, plugin_files(plugins)).annotations


def load_target_class(node: Node, name: str, plugins: Sequence[str], kind: type) -> Any:
    """The class that a `_target_` node names, if it is allowed and has the base class `kind`."""
    target = str(node.get("_target_"))
    check_allowed(target, name, plugins)
    module, _, attribute = target.rpartition(".")
    try:
        if any(target.startswith(f"{plugin_module(plugin)}.") for plugin in plugins):
            cls = getattr(import_module(module, plugins), attribute)
        else:
            cls = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"'{name}._target_: {target}' does not exist: {error}") from error
    if not isinstance(cls, type) or not issubclass(cls, kind):
        raise InputError(f"'{name}._target_: {target}' must be a {kind.__name__}")
    return cls


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA, then MPS, then the CPU.

    Raises:
        InputError: the device does not exist here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"device must be auto, cpu, cuda, cuda:N or mps, got '{name}'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise InputError(f"device={name} asked for, but there are {count} CUDA devices; use auto")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("device=mps asked for, but this machine has none; use device=auto")
    return device


def describe_device(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()}, {torch.get_num_threads()} threads)"
