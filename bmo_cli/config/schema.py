"""The root schema: every key of a configuration with its type, range and default.

Groups (`task`, `gkm`, `net`, `hyper`, `data`, `optim`) hold a `_target_`. Their keys are those of
the target's constructor (see `config.signature`). All other keys are declared here.
`check_config` converts plain data to these dataclasses, and `to_plain` converts them back.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, overload

from bmo_cli.config.checks import (
    Count,
    Finite,
    HalfOpenUnit,
    Index,
    NonNegative,
    OpenUnit,
    Positive,
    Seed,
    check,
    check_arguments,
)
from bmo_cli.config.signature import read_signature
from bmo_cli.errors import InputError, suggest_nearest


class Target(dict[str, Any]):
    """A group: `_target_` and the arguments of that constructor, checked by `check_target`."""


@dataclass(frozen=True)
class Train:
    """`train.*`: settings of training and hyper-training."""

    steps: Count | None
    """hyper-training steps t; null: only `max_minutes` ends the run"""
    max_minutes: Positive | None
    """minutes of wall time after which training ends; null: only `steps` ends the run"""
    iterations: Count
    """K, inner iterations of a training step"""
    batch: Count
    """images a step"""
    schedule: Literal["constant", "linear", "cosine"]
    """learning rate over the run: constant, or falling from `optim.lr` to (nearly) zero"""
    warmup: Index
    """steps over which the learning rate rises linearly to `optim.lr`"""
    numerical_lr_factor: Positive
    """factor of `optim.lr` that gives the learning rate of step sizes and thresholds"""
    clip: Positive | None
    """largest norm of the hyper-gradient; null: not clipped"""
    validate_every: Count
    """steps between validations (each also writes a checkpoint)"""
    log_every: Count
    """steps between rows of history.csv"""
    validate_iterations: Count | None = None
    """iterations of T in a validation, which chooses the checkpoint; null: `eval.iterations`"""
    devices: Count = 1
    """processes that share a batch, one a device"""
    penalty: NonNegative = 0.0
    """weight of max(|2 J - I|^2, 0.95), J the network's Jacobian on data; 0: none"""


@dataclass(frozen=True)
class Evaluate:
    """`eval.*`: settings of the iteration of a trained scheme, which takes no ground truth."""

    iterations: Count
    """largest number of iterations of T"""
    tolerance: NonNegative
    """stop when |D(u) - u|_G / |u|_G is at most this; 0: never"""
    images: Index
    """number of test images that are written as pictures"""
    anderson: Index = 0
    """memory of safeguarded Anderson acceleration; 0: plain averaged iteration"""
    score_at: list[Count] = field(default_factory=list)
    """further numbers of iterations at which the test split is scored (psnr@N, say), with the
    relative step of the estimate to the iterate before (step@N; none after a start of 0)"""
    null_space: Index = 0
    """number of test cases at whose fixed point the singular values of I - dD/du up to 1e-3 are
    counted (null_space, of unknowns), for at most four problems of a case"""
    test: bool = True
    """whether a training run ends with the test split; false: it is scored on validation alone"""


@dataclass(frozen=True)
class Certify:
    """`certificate.*`: how thoroughly `bmo certify` searches. A weaker search certifies nothing."""

    horizon: Count = 10
    """iterations followed, as a multiple of `train.iterations`; up to 20 times as many until
    `tolerance` is met, where D is nonexpansive"""
    cases: Count = 2
    """number of validation problems"""
    turns: Count = 20
    """steps of every adversarial search, on each of these problems"""
    tolerance: OpenUnit = 1e-5
    """largest |D(u) - u|_G that counts as zero, in units of |u^0|_G or |D(u^0)|_G"""
    curve: Count = 100
    """iterations that certificate.png shows, from five starts on the first validation problem; the
    verdict does not depend on it"""
    seed: Seed = 0
    """seed of random states"""

    def weaker_than_default(self, available: int) -> list[str]:
        """Settings that are weaker than the defaults, each with the default.

        Args:
            available: number of validation problems of the run.
        """
        usual = Certify()
        lower = {
            "horizon": self.horizon < usual.horizon,
            "cases": self.cases < min(usual.cases, available),
            "turns": self.turns < usual.turns,
            "tolerance": self.tolerance > usual.tolerance,
        }
        return [
            f"{key}={getattr(self, key):g} ({getattr(usual, key):g})"
            for key, is_lower in lower.items()
            if is_lower
        ]


@dataclass(frozen=True)
class Preset:
    """`table.presets.NAME`: the table at another scale. A null key keeps the value of the table."""

    common: list[str] = field(default_factory=list)
    """overrides added to those of every cell"""
    rows: list[str] | dict[str, list[str]] | None = None
    """rows that are kept, as a list, or with overrides that are added to each"""
    columns: list[str] | dict[str, list[str]] | None = None
    """columns that are kept, likewise"""
    seeds: list[Seed] | None = None
    """seeds in the place of the table's"""
    claims: bool = True
    """whether the claims of the table are judged; false: runs this short say nothing about them"""


@dataclass(frozen=True)
class Published:
    """An entry of `table.published`: a value from the literature."""

    row: str
    """method; a row of the table with this name is compared"""
    column: str
    """name of a column of the table"""
    score: str
    """name of a score of the table"""
    value: Finite
    """the value as printed in the source"""
    source: str
    """publication that prints the value"""
    protocol: str
    """protocol of the value, in the words of result.json, or their part before the first colon"""
    tolerance: NonNegative | None = None
    """largest difference that counts as reproduced; null: 0.1 for PSNR and NMSE in dB, else 0"""


@dataclass(frozen=True)
class Claim:
    """An entry of `table.claims`: what a publication shows, judged by the seeds of the table."""

    text: str
    """the claim, one line"""
    column: str
    """name of a column of the table"""
    row: str
    """method that the claim is about, a row of the table"""
    score: str
    """name of a score in result.json; at least two seeds decide"""
    direction: Literal["below", "above"]
    """where the score of the row lies"""
    reading: str
    """what the publication shows, with the source"""
    relative_to: str | None = None
    """score of the same run that it is divided by; null: none"""
    than: list[str] = field(default_factory=list)
    """rows that it is compared with"""
    limit: Finite | None = None
    """number that it is compared with instead"""


@dataclass(frozen=True)
class Table:
    """`table.*`: a table of runs; every cell is `bmo train` with the overrides of its place."""

    title: str
    """one line above the table"""
    common: list[str]
    """overrides of every cell"""
    rows: dict[str, list[str]]
    """methods: overrides by name"""
    columns: dict[str, list[str]]
    """problems: overrides by name"""
    scores: dict[str, str]
    """what a cell shows: names in result.json, with their formats"""
    seeds: list[Seed]
    """seeds of the runs of a cell"""
    skip: dict[str, list[str]] = field(default_factory=dict)
    """rows, with the tasks that they do not apply to"""
    adjust: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """further overrides of a row in a column, such as a step size that follows the noise"""
    figures: list[Literal["convergence", "guarantee", "training", "crops"]] = field(
        default_factory=list
    )
    """figures that are drawn with the table"""
    input: str | None = None
    """name of a first row that shows the observations' own scores; null: none"""
    best: dict[str, Literal["max", "min"]] = field(default_factory=dict)
    """scores of which the best and the second value are marked"""
    against: str | None = None
    """row whose scores (those of `best`) are subtracted from the others', seed by seed"""
    tune: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    """rows whose keys are chosen among these values by the validation split"""
    presets: dict[str, Preset] = field(default_factory=dict)
    """the table at other scales"""
    published: list[Published] = field(default_factory=list)
    """values from the literature"""
    shared_images: Literal["refuse", "show"] = "refuse"
    """what happens to the scores of a run whose test images, or near-duplicates of them, are among
    those of training or validation"""
    claims: list[Claim] = field(default_factory=list)
    """what a publication shows of these rows, judged by the seeds of the table"""


@dataclass(frozen=True)
class Config:
    """The root. `configs/<command>.yaml` says which command reads a key."""

    task: Target
    net: Target
    gkm: Target
    hyper: Target
    data: Target
    optim: Target
    train: Train
    eval: Evaluate
    seed: Seed
    device: str
    plugins: list[str]
    resume: str | None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """precision of the networks' layers in training; everything else, and evaluation, is fp32"""
    compile: bool = False
    """whether torch compiles the networks of training"""
    profile: bool = False
    """whether training reports the time of its parts"""
    certify: bool = False
    certificate: Certify | None = None
    logger: Target | None = None
    jobs: Count = 1
    """jobs of a sweep that run at a time"""


@dataclass(frozen=True, kw_only=True)
class EvalConfig(Config):
    """`bmo eval`: the configuration of a run, and the folder of the run."""

    run: str


@dataclass(frozen=True, kw_only=True)
class RestoreConfig(EvalConfig):
    """`bmo restore`: as `bmo eval`, with the files of the user."""

    input: str
    white: Count | None
    kernel: str | None
    kernel_name: Index | str | None
    kernel_clip: bool
    noise: NonNegative | None
    output: str
    overwrite: bool
    boundary: Literal["periodic", "pad"]
    tile: Count
    tile_margin: Index
    max_megapixels: Positive


@dataclass(frozen=True)
class AuditConfig:
    """`bmo audit`: hyper-optimisers and operators, and the small problems they are tested on."""

    problem: str | list[str]
    methods: dict[str, list[str]]
    net: Target
    data: Target
    seed: Seed
    plugins: list[str]
    hyper: Target | None = None
    gkm: Target | None = None


@dataclass(frozen=True)
class TableConfig:
    """`bmo table`: a table of runs, and how it is run."""

    table: Table
    only: str | None
    preset: str | None
    seeds: list[Seed] | None
    out: str
    root: str | None
    jobs: Count
    dry_run: bool
    stale: Literal["keep", "run"]
    plugins: list[str]


AnyConfig = Config | AuditConfig | TableConfig
SCHEMAS: dict[str, type[AnyConfig]] = {
    "train": Config,
    "eval": EvalConfig,
    "certify": EvalConfig,
    "restore": RestoreConfig,
    "audit": AuditConfig,
    "table": TableConfig,
}
PART_PACKAGES = tuple(
    f"bmo_cli.{name}." for name in ("tasks", "gkm", "nets", "hyper", "data", "loggers")
)
TORCH_TARGETS = ("torch.optim.",)
_TORCH_ARGUMENTS: dict[str, Any] = {
    "lr": Positive,
    "weight_decay": NonNegative,
    "momentum": NonNegative,
    "dampening": NonNegative,
    "eps": NonNegative,
    "alpha": OpenUnit,
    "betas": list[HalfOpenUnit],
    "nesterov": bool,
    "amsgrad": bool,
    "maximize": bool,
}


@overload
def check_config(config: Mapping[str, Any], command: Literal["train"] = ...) -> Config: ...
@overload
def check_config(config: Mapping[str, Any], command: str) -> AnyConfig: ...
def check_config(config: Mapping[str, Any], command: str = "train") -> AnyConfig:
    """The configuration of a command as objects.

    Args:
        config: resolved: plain mappings, lists and scalars.
        command: one of `SCHEMAS`; each has its own keys.

    Raises:
        InputError: a key, a type, a range or a target is not valid. The line names the key, what is
            expected and the nearest valid name.
    """
    check(config.get("plugins"), list[str], "plugins")
    checked: AnyConfig = _build_section(config, SCHEMAS[command], "", config["plugins"])
    if isinstance(checked, Config):
        train = checked.train
        if train.steps is None and train.max_minutes is None:
            raise InputError(
                "train.steps and train.max_minutes are both null: nothing would end the run"
            )
        if train.devices > 1 and train.penalty:
            raise InputError("train.penalty needs a whole batch; use it with train.devices=1")
    return checked


def to_plain(value: Any) -> Any:
    """A configuration, or a part of one, as mappings, lists and scalars."""
    if is_dataclass(value):
        return {entry.name: to_plain(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    return [to_plain(item) for item in value] if isinstance(value, list) else value


def _build_section(
    values: Mapping[str, Any], schema: type, prefix: str, plugins: Sequence[str]
) -> Any:
    """Check a mapping and build the dataclass `schema` from it."""
    hints = typing.get_type_hints(schema, include_extras=True)
    for key in values:
        if key not in hints:
            known = [f"{prefix}{name}" for name in hints]
            raise InputError(
                f"unknown key '{prefix}{key}'{suggest_nearest(f'{prefix}{key}', known)}"
            )
    given = {}
    for entry in fields(schema):
        if entry.name in values:
            name = f"{prefix}{entry.name}"
            given[entry.name] = _build_value(values[entry.name], hints[entry.name], name, plugins)
        elif entry.default is MISSING and entry.default_factory is MISSING:
            # Keys with a default may be missing: they are newer than the run.
            raise InputError(f"'{prefix}{entry.name}' is missing")
    return schema(**given)


def _build_value(value: Any, hint: Any, name: str, plugins: Sequence[str]) -> Any:
    """Check a value of a section: a group of keys, several groups, or a plain value."""
    group, item = _group_type(hint), _item_group_type(hint)
    if group is not None and (value is not None or type(None) not in typing.get_args(hint)):
        return _build_group(value, group, name, plugins)
    if item is None:
        check(value, hint, name)
        return value
    if isinstance(value, Mapping):
        return {k: _build_group(v, item, f"{name}.{k}", plugins) for k, v in value.items()}
    listed = enumerate(value or ())
    return [_build_group(v, item, f"{name}.{i}", plugins) for i, v in listed]


def _build_group(value: Any, group: type, name: str, plugins: Sequence[str]) -> Any:
    if not isinstance(value, Mapping):
        raise InputError(f"'{name}' must be a group of keys, got {value!r}")
    if group is not Target:
        return _build_section(value, group, f"{name}.", plugins)
    check_target(value, name, plugins)
    return Target(value)


def _group_type(hint: Any) -> type | None:
    """The group of a hint `Group` or `Group | None`; None for other hints."""
    parts = (hint, *typing.get_args(hint)) if typing.get_origin(hint) not in (dict, list) else ()
    groups = (p for p in parts if isinstance(p, type) and (p is Target or is_dataclass(p)))
    return next(groups, None)


def _item_group_type(hint: Any) -> type | None:
    """The group of a hint `dict[str, Group]` or `list[Group]`; None for other hints."""
    last = typing.get_args(hint)[-1:] if typing.get_origin(hint) in (dict, list) else ()
    return last[0] if last and is_dataclass(last[0]) else None  # type: ignore[return-value]


def check_target(node: Mapping[str, Any], name: str, plugins: Sequence[str] = ()) -> None:
    """Check one `_target_` node: an allowed target, and arguments that its constructor takes."""
    target = node.get("_target_")
    if not isinstance(target, str):
        raise InputError(f"'{name}' needs a '_target_' (a class), got {target!r}")
    check_allowed(target, name, plugins)
    arguments = {key: value for key, value in node.items() if key != "_target_"}
    for key, value in arguments.items():
        if isinstance(value, Mapping) and "_target_" in value:
            check_target(value, f"{name}.{key}", plugins)
    if target.startswith(TORCH_TARGETS):
        if "lr" not in arguments:
            raise InputError(f"'{name}.lr' is missing")
        for key, value in arguments.items():
            check(value, _TORCH_ARGUMENTS.get(key, Any), f"{name}.{key}")
        return
    signature = read_signature(target, plugin_files(plugins))
    if not signature.complete:  # the constructor checks the others
        arguments = {k: v for k, v in arguments.items() if k in signature.annotations}
    given_elsewhere = GIVEN.get(name, ())
    required = [key for key in signature.required if key not in given_elsewhere]
    check_arguments(arguments, signature.annotations, required=required, prefix=f"{name}.")


GIVEN: dict[str, tuple[str, ...]] = {"task": ("data", "seed")}
"""Arguments that the program passes when it builds a group. They are no keys of its YAML."""


def check_allowed(target: str, name: str, plugins: Sequence[str]) -> None:
    """Allow-list of targets: parts of this package, torch's optimisers and the given plug-ins."""
    own = (*PART_PACKAGES, *TORCH_TARGETS, *(f"{plugin_module(plugin)}." for plugin in plugins))
    if not target.startswith(own) or "__" in target:
        raise InputError(
            f"'{name}._target_: {target}' is not allowed: expected a class of bmo_cli.tasks, "
            "gkm, nets, hyper or data, of torch.optim, or of a "
            "file of your own named as plugins=[my_file.py]"
        )


def plugin_module(plugin: str) -> str:
    """Module name of a plug-in given as a file (`folder/my_file.py`) or as a module name."""
    stem = plugin.replace("\\", "/").rsplit("/", 1)[-1]
    return stem.removesuffix(".py") if plugin.endswith(".py") else plugin


def plugin_files(plugins: Sequence[str]) -> tuple[Path, ...]:
    """The plug-ins that are files; the others are importable modules.

    Raises:
        InputError: there is no such file.
    """
    files = [Path(plugin) for plugin in plugins if plugin.endswith(".py")]
    for file in files:
        if not file.is_file():
            raise InputError(f"no plug-in file {file}; check the path in plugins=[...]")
    return tuple(file.resolve() for file in files)
