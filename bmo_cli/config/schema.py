"""The root schema: every key of a configuration with its type and range.

Groups (`task`, `gkm`, `net`, `hyper`, `data`, `optim`) hold a `_target_`; their keys are those of
the target's constructor (see `config.signature`). Everything else is declared here.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

from bmo_cli.config.checks import (
    Count,
    Index,
    NonNegative,
    OpenUnit,
    Positive,
    check,
    check_arguments,
)
from bmo_cli.config.signature import read_signature
from bmo_cli.errors import InputError, nearest


class Target:
    """A group: a mapping with `_target_` and the arguments of that constructor."""


@dataclass(frozen=True)
class Train:
    """`train.*`: how long and how the hyper-training runs."""

    steps: Count | None
    """hyper-training steps t; null: only `max_minutes` ends the run"""
    max_minutes: Positive | None
    """wall time after which training ends; null: only `steps` ends the run"""
    iterations: Count
    """K, inner iterations of a training step"""
    batch: Count
    """images a step"""
    schedule: Literal["constant", "linear", "cosine"]
    """learning rate over the run, from `optim.lr` to (nearly) zero"""
    warmup: Index
    """steps over which the learning rate rises linearly to `optim.lr`"""
    numerical_lr: Positive
    """learning rate of step sizes and thresholds, as a multiple of `optim.lr`"""
    clip: Positive | None
    """largest norm of the hyper-gradient; null: not clipped"""
    validate_every: Count
    """steps between validations (each also writes a checkpoint)"""
    log_every: Count
    """steps between rows of history.csv"""


@dataclass(frozen=True)
class Evaluate:
    """`eval.*`: how a trained scheme is iterated. The ground truth is not among its inputs."""

    iterations: Count
    """largest number of iterations of T"""
    tolerance: NonNegative
    """stop when |D(u) - u|_G / |u|_G is at most this; 0: never"""
    images: Index
    """how many test images are written as pictures"""


@dataclass(frozen=True)
class Config:
    """The root. Which command reads a key is said in `configs/<command>.yaml`."""

    task: Target
    net: Target
    gkm: Target
    hyper: Target
    data: Target
    optim: Target
    train: Train
    eval: Evaluate
    seed: Index
    device: str
    plugins: list[str]
    run: str | None = None
    resume: str | None = None
    input: str | None = None
    kernel: str | None = None
    kernel_name: Index | str | None = None
    output: str | None = None
    overwrite: bool = False
    boundary: Literal["periodic", "pad"] = "periodic"


TORCH_TARGETS = ("torch.optim.",)
_TORCH_ARGUMENTS: dict[str, Any] = {
    "lr": Positive,
    "weight_decay": NonNegative,
    "momentum": NonNegative,
    "dampening": NonNegative,
    "eps": NonNegative,
    "alpha": OpenUnit,
    "betas": list[OpenUnit],
    "nesterov": bool,
    "amsgrad": bool,
    "maximize": bool,
}


def check_config(config: Mapping[str, Any]) -> None:
    """Refuse a resolved configuration whose keys, types, ranges or targets are not valid.

    Raises:
        InputError: one line naming the key, what is expected and the nearest valid name.
    """
    if isinstance(config.get("plugins"), list):
        check(config["plugins"], list[str], "plugins")
    _check_section(config, Config, "", config.get("plugins") or [])
    train = config["train"]
    if train["steps"] is None and train["max_minutes"] is None:
        raise InputError(
            "train.steps and train.max_minutes are both null: nothing would end the run"
        )


def _check_section(
    values: Mapping[str, Any], schema: type, prefix: str, plugins: Sequence[str]
) -> None:
    hints = typing.get_type_hints(schema, include_extras=True)
    for key in values:
        if key not in hints:
            raise InputError(f"unknown key '{prefix}{key}'{nearest(key, hints)}")
    for field in fields(schema):
        name = f"{prefix}{field.name}"
        if field.name not in values:
            continue
        value, hint = values[field.name], hints[field.name]
        if hint is Target or is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise InputError(f"'{name}' must be a group of keys, got {value!r}")
            if hint is Target:
                check_target(value, name, plugins)
            else:
                _check_section(value, typing.cast(type, hint), f"{name}.", plugins)
        else:
            check(value, hint, name)


def check_target(node: Mapping[str, Any], name: str, plugins: Sequence[str] = ()) -> None:
    """Check one `_target_` node: an allowed target, and arguments that its constructor takes."""
    target = node.get("_target_")
    if not isinstance(target, str):
        raise InputError(f"'{name}' needs a '_target_' (a class or function), got {target!r}")
    check_allowed(target, name, plugins)
    arguments = {key: value for key, value in node.items() if key != "_target_"}
    for key, value in arguments.items():
        if isinstance(value, Mapping) and "_target_" in value:
            check_target(value, f"{name}.{key}", plugins)
    if target.startswith(TORCH_TARGETS):
        for key, value in arguments.items():
            check(value, _TORCH_ARGUMENTS.get(key, Any), f"{name}.{key}")
        return
    signature = read_signature(target)
    given_elsewhere = _GIVEN.get(name, ())
    required = [key for key in signature.required if key not in given_elsewhere]
    check_arguments(arguments, signature.annotations, required=required, prefix=f"{name}.")


_GIVEN: dict[str, tuple[str, ...]] = {"task": ("data", "seed")}
"""Arguments that the program passes when it builds a group, so that no YAML has them."""


def check_allowed(target: str, name: str, plugins: Sequence[str]) -> None:
    """Only this package, torch's optimisers and files named as plug-ins may be instantiated."""
    own = ("bmo_cli.", *TORCH_TARGETS, *(f"{plugin_module(plugin)}." for plugin in plugins))
    if not target.startswith(own) or "__" in target:
        raise InputError(
            f"'{name}._target_: {target}' is not allowed: expected bmo_cli.*, torch.optim.* or a "
            "file of your own named as plugins=[my_file.py]"
        )


def plugin_module(plugin: str) -> str:
    """Module name of a plug-in given as a file (`folder/my_file.py`) or as a module name."""
    stem = plugin.replace("\\", "/").rsplit("/", 1)[-1]
    return stem.removesuffix(".py") if plugin.endswith(".py") else plugin
