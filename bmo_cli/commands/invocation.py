"""Convert the words of a command line to those that Hydra takes. Nothing is run or written here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bmo_cli.config.commands import quote_value
from bmo_cli.config.locate import choices
from bmo_cli.config.own_files import CONFIG_DIR_FLAGS, config_dirs, require_free_names
from bmo_cli.config.paths import expand_home
from bmo_cli.config.recorded import (
    RecordedSweep,
    merge_overrides,
    read_recorded_overrides,
    read_recorded_sweep,
    refuse_sweep_changes,
)
from bmo_cli.config.typed import path_of_key, quote_overrides
from bmo_cli.errors import InputError, suggest_nearest
from bmo_cli.results.run_folder import require_closed

_FLAGS_WITH_VALUE = {
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"),
    *("--config-dir", "-cd"),
}
_FLAGS = _FLAGS_WITH_VALUE | {
    *("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m"),
    *("--info", "-i", "--shell-completion", "-sc"),
}
"""Allowed flags of Hydra. --experimental-rerun is excluded, because it unpickles a file."""
_FOLDERS = {*CONFIG_DIR_FLAGS, "--config-path", "-cp"}
_DRY_RUN = "--dry-run"
_ONLY_SHOW = {"--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i"}
_SWEEPS = {"-m", "--multirun", "hydra.mode=MULTIRUN"}
NO_SWEEPS = {
    "table": "bmo table runs its cells itself, without -m; see table.rows",
    "restore": "bmo restore works on one photograph at a time, without -m",
}


@dataclass(frozen=True)
class Invocation:
    """A command line that was read.

    Attributes:
        command: its first word.
        words: flags first, then the recorded overrides of a run or sweep, then the typed ones.
        typed: overrides of this command line alone.
        dry_run: whether the jobs of a sweep are only listed.
        resumed: folder of the resumed sweep; None for other commands.
        warnings: lines for the user.
    """

    command: str
    words: tuple[str, ...]
    typed: tuple[str, ...]
    dry_run: bool = False
    resumed: Path | None = None
    warnings: tuple[str, ...] = ()

    @property
    def sweeps(self) -> bool:
        """Whether this is a sweep."""
        return bool(_SWEEPS & set(self.words))

    @property
    def wants_help(self) -> bool:
        """Whether the command line has a help flag."""
        return bool({"--help", "-h"} & set(self.words))


def read_invocation(command: str, words: Sequence[str]) -> Invocation:
    """Read the words that follow a command.

    `eval`, `restore` and a resumed `train` start from the recorded overrides of the run.

    Args:
        command: one of `cli.COMMANDS`.
        words: flags and overrides, in any order.

    Raises:
        InputError: a word cannot be read, a flag is unknown, or the named run cannot be used.
    """
    dry_run = command != "table" and _DRY_RUN in words
    words = [word for word in words if word != _DRY_RUN or not dry_run]
    if command in NO_SWEEPS and _SWEEPS & set(words):
        raise InputError(NO_SWEEPS[command])
    words = (_rewrite_table_words if command == "table" else _move_flags_first)(words)
    require_free_names(words)
    _refuse_recipe(words)
    words = quote_overrides(words)
    typed = tuple(word for word in words if not word.startswith("-"))
    invocation = Invocation(command, tuple(words), typed, dry_run)
    if any("=" in word for word in words):
        invocation = _add_recorded(invocation)
    if dry_run and not invocation.sweeps:
        raise InputError(
            "--dry-run lists the jobs of a sweep (-m, or resume=SWEEP) or the cells of a table; "
            "--cfg job shows the configuration of a run"
        )
    return invocation


def _refuse_recipe(words: Sequence[str]) -> None:
    if any(re.match(r"[+~]*recipe\b", word) for word in words):
        raise InputError(
            "the recipe follows from task, net, gkm and hyper; choose these, and change single "
            "keys, such as train.iterations=20 (recipe= is no choice of its own)"
        )


def _rewrite_table_words(words: Sequence[str]) -> list[str]:
    """`bmo table NAME task=TASK` as Hydra's `table=NAME only=TASK`."""
    words = _move_flags_first(["dry_run=true" if word == _DRY_RUN else word for word in words])
    renamed = [
        f"table={word}"
        if re.fullmatch(r"\w[\w-]*", word)
        else re.sub(r"^task=", "only=", word)  # `bmo table` has no group `task`
        for word in words
    ]
    shows = any(word in _ONLY_SHOW for word in words)
    if not shows and not any(word.startswith("table=") for word in renamed):
        names = ", ".join(choices(config_dirs(words), ("table",))["table"])
        raise InputError(f"name a table: bmo table NAME, with NAME one of {names}")
    return renamed


def _move_flags_first(words: Sequence[str]) -> list[str]:
    """Move flags before the overrides: Hydra's parser does not accept flags between overrides."""
    flags: list[str] = []
    rest = iter(words)
    overrides = []
    for word in rest:
        if not word.startswith("-"):
            overrides.append(word)
            continue
        if word.split("=")[0] not in _FLAGS:
            hint = suggest_nearest(word, {*_FLAGS, _DRY_RUN}) or "; see bmo --help"
            raise InputError(f"unknown flag '{word}'{hint}")
        flag, equals, value = word.partition("=")
        if flag in _FLAGS_WITH_VALUE:
            following = value if equals else next(rest, None)
            if not following:
                raise InputError(f"{flag} is given without a value: {flag} VALUE")
            word = f"{flag}={_absolute_folder(following) if flag in _FOLDERS else following}"
        flags.append(word)
    return flags + overrides


def _absolute_folder(folder: str) -> str:
    """A folder of YAML files; Hydra would look for a relative one beside its caller."""
    return folder if folder.startswith("pkg://") else str(Path(expand_home(folder)).absolute())


def _add_recorded(invocation: Invocation) -> Invocation:
    """The invocation with the recorded overrides of the run or sweep that it names, if any."""
    resumes, words = invocation.command == "train", invocation.words
    text = path_of_key(words, "resume" if resumes else "run")
    if text is None:
        return invocation
    folder, sweep = Path(text), None
    if resumes:  # other commands do not write into this folder
        require_closed(folder)
        sweep = read_recorded_sweep(folder)
    if sweep is not None:
        return _resume_sweep(invocation, folder, sweep)
    if resumes and invocation.sweeps:
        raise InputError(
            f"{folder} is no sweep, and a run goes on alone: leave out -m; a sweep goes on with "
            "resume=SWEEP"
        )
    combined = merge_overrides(
        read_recorded_overrides(folder, all_of_them=bool(config_dirs(words))), words
    )
    # A resumed run keeps its folder. Its snapshot is replaced only after the run has started.
    place = [f"hydra.run.dir={quote_value(text)}", "hydra.output_subdir=null"] if resumes else []
    return replace(invocation, words=tuple(_move_flags_first([*combined, *place])))


def _resume_sweep(invocation: Invocation, folder: Path, sweep: RecordedSweep) -> Invocation:
    words = invocation.words
    refuse_sweep_changes(words)
    warnings = []
    for override in sweep.left_out:
        key = override.split("=", 1)[0]
        if any(word.startswith(f"{key}=") for word in words):
            continue
        if key == "hydra.sweep.subdir":
            raise InputError(f"{folder} was started with {override}; its jobs are there: type it")
        warnings.append(f"not taken from {folder}: {override} (type it again, if you trust it)")
    typed = [word for word in words if not word.startswith("resume=")]
    where = f"hydra.sweep.dir={quote_value(folder.absolute())}"
    return replace(
        invocation,
        words=tuple(
            _move_flags_first([*merge_overrides(sweep.overrides, typed), where, "--multirun"])
        ),
        resumed=folder.absolute(),
        warnings=tuple(warnings),
    )
