"""Overrides recorded in the folder of a run or a sweep, as far as they may be used again.

The folder is untrusted: only overrides that change nothing but the computation of a run are used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from bmo_cli.config.locate import GROUPS, choices
from bmo_cli.config.plain_yaml import read_plain_yaml
from bmo_cli.config.schema import Config
from bmo_cli.errors import InputError


def read_recorded_overrides(run: Path, *, all_of_them: bool) -> list[str]:
    """The recorded choices of groups of a run.

    The snapshot holds every value. The choices are only needed to know which keys exist.

    Args:
        run: run folder.
        all_of_them: also keep choices that this installation does not have, for a command line
            with --config-dir.

    Raises:
        InputError: this is no run folder, the run was killed before its configuration was written,
            or the folder is damaged.
    """
    file = run / ".hydra" / "overrides.yaml"
    if not run.is_dir():
        raise InputError(f"no run folder {run}; expected a folder that 'bmo train' wrote")
    if not file.is_file():
        if {entry.name for entry in run.iterdir()} <= {".hydra", "run.log"}:
            raise _killed_at_start_up_error(run)
        raise InputError(f"{run} is not a run folder: it has no .hydra/overrides.yaml")
    content = read_plain_yaml(file)
    if not isinstance(content, list) or not all(isinstance(item, str) for item in content):
        raise InputError(f"{file} is damaged: expected a list of overrides")
    if not (run / "result.json").exists() and set(_read_hydra_overrides(run)) - set(content):
        raise _killed_at_start_up_error(run)
    known = choices()
    return [
        text
        for text in content
        for chosen in [_CHOICE.fullmatch(text)]
        if chosen and (all_of_them or chosen["name"] in known[chosen["group"]])
    ]


_ANY_GROUP = "|".join(GROUPS)
_CHOICE = re.compile(rf"(?P<group>{_ANY_GROUP})(@({_ANY_GROUP})(\.\w+)+)?=(?P<name>[\w-]+)")
"""`net=lip`, or `net@net.background=lip` inside of a group. It cannot change anything else."""


def _killed_at_start_up_error(run: Path) -> InputError:
    return InputError(
        f"{run} is not a run folder: it has no whole .hydra/overrides.yaml; a run that was killed "
        "that early has trained nothing: give the command that started it once more"
    )


def _read_hydra_overrides(run: Path) -> list[str]:
    """The overrides in hydra.yaml, which Hydra completes before it begins overrides.yaml."""
    file = run / ".hydra" / "hydra.yaml"
    node = read_plain_yaml(file) if file.is_file() else None
    for key in ("hydra", "overrides", "task"):
        node = node.get(key) if isinstance(node, dict) else None
    return [item for item in node if isinstance(item, str)] if isinstance(node, list) else []


_LAUNCHER_SETTINGS = re.compile(
    r"hydra/(launcher|sweeper)=[\w-]+|hydra\.launcher\.n_jobs=\d+"
    r"|hydra\.sweeper\.((n_trials|n_jobs|seed)=\d+|direction=\w+)"
)
_NAMES = re.compile(r"[\w\-,()* ]+")
"""Choices of a group. Paths are excluded: they could lead to an untrusted YAML file."""
_SET_BY_RESUME = re.compile(r"hydra\.(mode|sweep\.dir)=.*|resume=.*", re.DOTALL)


@dataclass(frozen=True)
class RecordedSweep:
    """The recorded overrides of a sweep.

    Attributes:
        overrides: those that are used again.
        left_out: those that the user has to type again, if they are wanted. Settings of Hydra from
            an untrusted folder may hold commands, and plug-ins are programs.
    """

    overrides: list[str]
    left_out: list[str]


def read_recorded_sweep(folder: Path) -> RecordedSweep | None:
    """Read the recorded overrides of a sweep.

    The folder is untrusted. An allow-list decides which overrides are used again: keys of a run,
    choices by name, and the names of the launcher and of the sweeper with their numbers.

    Returns:
        None where this is not the folder of a sweep.

    Raises:
        InputError: the folder is damaged.
    """
    file = folder / "multirun.yaml"
    if not file.is_file():
        return None
    content = read_plain_yaml(file)
    node: object = content
    for key in ("hydra", "overrides"):
        node = node.get(key) if isinstance(node, dict) else None
    given: list[str] = []
    for key in ("task", "hydra"):
        part = node.get(key) if isinstance(node, dict) else None
        if not isinstance(part, list) or not all(isinstance(item, str) for item in part):
            raise InputError(f"{file} is damaged: expected a list in hydra.overrides.{key}")
        given += part
    taken = [
        text for text in given if _LAUNCHER_SETTINGS.fullmatch(text) or _changes_only_the_run(text)
    ]
    rest = [text for text in given if text not in taken and not _SET_BY_RESUME.fullmatch(text)]
    return RecordedSweep(taken, rest)


def _changes_only_the_run(text: str) -> bool:
    """Whether an override changes nothing but the computation of a run."""
    key, _, value = text.lstrip("+~").partition("=")
    if key in GROUPS:
        return bool(_NAMES.fullmatch(value))
    keys = {field.name for field in fields(Config)} - {"plugins", "resume"}
    return bool(re.fullmatch(r"[\w.]+", key)) and key.split(".")[0] in keys


def refuse_sweep_changes(typed: Sequence[str]) -> None:
    """Refuse overrides that would change the jobs of a resumed sweep.

    Raises:
        InputError: an override would change them.
    """
    for text in typed:
        key = key_of(text)
        if not text.startswith("-") and not (
            key in ("resume", "plugins", "device", "jobs") or key.startswith("hydra")
        ):
            raise InputError(
                f"'{text}' would change the jobs of the sweep: it goes on as it was started; "
                "device, jobs, plugins and hydra/launcher may be given; a new sweep has other keys"
            )


def key_of(override: str) -> str:
    """The key of an override."""
    return override.lstrip("+~").split("=", 1)[0]


def merge_overrides(recorded: Sequence[str], typed: Sequence[str]) -> list[str]:
    """Recorded overrides first, then the typed ones. A typed key replaces the recorded one."""
    keys = {key_of(text) for text in typed}
    return [text for text in recorded if key_of(text) not in keys] + list(typed)
