"""What was typed when a run or a sweep was started, as far as it may be typed again.

A folder may come from a stranger: of its overrides only those are taken that reach nothing but
what a run computes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from bmo_cli.config.locate import GROUPS, choices
from bmo_cli.config.plain_yaml import read_plain
from bmo_cli.config.schema import Config
from bmo_cli.errors import InputError


def recorded_overrides(run: Path, *, all_of_them: bool) -> list[str]:
    """What was typed when the run was made, as far as it may be typed again.

    The snapshot holds every value, so only the choices of groups are needed, to know which keys
    there are.

    Args:
        run: run folder.
        all_of_them: also keep choices that this installation does not have, for a command line
            that names its own --config-dir.

    Raises:
        InputError: no run folder, one whose run was killed before its configuration was written, or
            a damaged one.
    """
    file = run / ".hydra" / "overrides.yaml"
    if not run.is_dir():
        raise InputError(f"no run folder {run}; expected a folder that 'bmo train' wrote")
    if not file.is_file():
        if {entry.name for entry in run.iterdir()} <= {".hydra", "run.log"}:
            raise _killed_at_start_up(run)
        raise InputError(f"{run} is not a run folder: it has no .hydra/overrides.yaml")
    content = read_plain(file)
    if not isinstance(content, list) or not all(isinstance(item, str) for item in content):
        raise InputError(f"{file} is damaged: expected a list of overrides")
    if not (run / "result.json").exists() and set(_typed_by_hydra(run)) - set(content):
        raise _killed_at_start_up(run)
    known = choices()
    return [
        text
        for text in content
        for chosen in [_CHOICE.fullmatch(text)]
        if chosen and (all_of_them or chosen["name"] in known[chosen["group"]])
    ]


_ANY_GROUP = "|".join(GROUPS)
_CHOICE = re.compile(rf"(?P<group>{_ANY_GROUP})(@({_ANY_GROUP})(\.\w+)+)?=(?P<name>[\w-]+)")
"""`net=lip`, or `net@net.background=lip`: inside of a group, where it can reach nothing else"""


def _killed_at_start_up(run: Path) -> InputError:
    return InputError(
        f"{run} is not a run folder: it has no whole .hydra/overrides.yaml; a run that was killed "
        "that early has trained nothing: give the command that started it once more"
    )


def _typed_by_hydra(run: Path) -> list[str]:
    """The overrides in hydra.yaml, which is complete before overrides.yaml is begun."""
    file = run / ".hydra" / "hydra.yaml"
    node = read_plain(file) if file.is_file() else None
    for key in ("hydra", "overrides", "task"):
        node = node.get(key) if isinstance(node, dict) else None
    return [item for item in node if isinstance(item, str)] if isinstance(node, list) else []


_LAUNCHING = re.compile(
    r"hydra/(launcher|sweeper)=[\w-]+|hydra\.launcher\.n_jobs=\d+"
    r"|hydra\.sweeper\.((n_trials|n_jobs|seed)=\d+|direction=\w+)"
)
_NAMES = re.compile(r"[\w\-,()* ]+")
"""choices of a group: no paths, which would lead to a stranger's own YAML"""
_OF_HYDRA_ITSELF = re.compile(r"hydra\.(mode|sweep\.dir)=.*|resume=.*", re.DOTALL)


@dataclass(frozen=True)
class RecordedSweep:
    """What was typed when a sweep was started.

    Attributes:
        overrides: that may be typed again.
        left_out: that the user has to name again, if they are wanted: a stranger's settings of
            Hydra may hold commands, and plug-ins are programs.
    """

    overrides: list[str]
    left_out: list[str]


def recorded_sweep(folder: Path) -> RecordedSweep | None:
    """Read what was typed when a sweep was started.

    The folder may be a stranger's: what is typed again are keys of a run, choices by name, and the
    names of the launcher and of the sweeper.

    Returns:
        None where this is not the folder of a sweep.

    Raises:
        InputError: damaged.
    """
    file = folder / "multirun.yaml"
    if not file.is_file():
        return None
    content = read_plain(file)
    node: object = content
    for key in ("hydra", "overrides"):
        node = node.get(key) if isinstance(node, dict) else None
    given: list[str] = []
    for key in ("task", "hydra"):
        part = node.get(key) if isinstance(node, dict) else None
        if not isinstance(part, list) or not all(isinstance(item, str) for item in part):
            raise InputError(f"{file} is damaged: expected a list in hydra.overrides.{key}")
        given += part
    taken = [text for text in given if _LAUNCHING.fullmatch(text) or _is_of_a_run(text)]
    rest = [text for text in given if text not in taken and not _OF_HYDRA_ITSELF.fullmatch(text)]
    return RecordedSweep(taken, rest)


def _is_of_a_run(text: str) -> bool:
    """Whether an override changes nothing but what a run computes."""
    key, _, value = text.lstrip("+~").partition("=")
    if key in GROUPS:
        return bool(_NAMES.fullmatch(value))
    keys = {field.name for field in fields(Config)} - {"plugins", "resume"}
    return bool(re.fullmatch(r"[\w.]+", key)) and key.split(".")[0] in keys


def refuse_changes_of_a_sweep(typed: Sequence[str]) -> None:
    """A sweep goes on as it was started.

    Raises:
        InputError: something would change its jobs.
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


def combine(recorded: Sequence[str], typed: Sequence[str]) -> list[str]:
    """Recorded overrides first, then the typed ones; a key typed again replaces the recorded."""
    keys = {key_of(text) for text in typed}
    return [text for text in recorded if key_of(text) not in keys] + list(typed)
