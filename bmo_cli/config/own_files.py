"""Folders with the user's YAML files, and a check that their names are free.

Hydra looks for a choice in its own folder and in the folder of this package first. It would ignore
a file of the user with a name that is in use, without a message.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from bmo_cli.config.locate import config_dir
from bmo_cli.errors import InputError

CONFIG_DIR_FLAGS = ("--config-dir", "-cd")
SEARCH_PATH = "hydra.searchpath="


def config_dirs(words: Sequence[str]) -> tuple[Path, ...]:
    """The folders that a command line names with --config-dir, in order.

    Args:
        words: of the command line, flags with their values as they were typed.
    """
    folders = []
    for word, after in itertools.pairwise([*words, ""]):
        flag, equals, value = word.partition("=")
        if flag in CONFIG_DIR_FLAGS:
            folders.append(Path(value if equals else after).expanduser())
    return tuple(folders)


def require_free_names(words: Sequence[str]) -> None:
    """Refuse YAML files of the user that Hydra would ignore because another file has their name.

    Args:
        words: of the command line.

    Raises:
        InputError: a file of this name with other content is shipped, or lies in another folder of
            the command line; two folders are given to --config-dir, of which Hydra takes one; or a
            folder does not exist.
    """
    named = config_dirs(words)
    if len({folder.resolve() for folder in named}) > 1:
        raise InputError(
            f"--config-dir is given twice, {named[0]} and {named[-1]}; use one folder for all files"
        )
    for folder in named:
        if not folder.is_dir():
            raise InputError(f"--config-dir={folder}: there is no such folder")
    owners = [
        (folder, "bmo ships") for folder in (config_dir(), _hydra_config_dir()) if folder.is_dir()
    ]
    for folder in dict.fromkeys([*_search_path_folders(words), *named]):
        for file in sorted(folder.rglob("*.yaml")) if folder.is_dir() else ():
            _require_free(file, file.relative_to(folder), owners)
        owners.append((folder, f"{folder} has"))


def _require_free(file: Path, name: Path, owners: Sequence[tuple[Path, str]]) -> None:
    for folder, who in owners:
        other = folder / name
        if other.is_file() and other.read_bytes() != file.read_bytes():
            group, choice = name.parent.as_posix(), name.stem
            what = f"{group}={choice}" if name.parent.parts else f"the name {choice}.yaml"
            raise InputError(
                f"{file} would be ignored: {what} is taken by a file that {who}; give yours "
                "another name"
            )


def _hydra_config_dir() -> Path:
    spec = importlib.util.find_spec("hydra")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "conf"


def _search_path_folders(words: Sequence[str]) -> Iterator[Path]:
    """The folders in `hydra.searchpath=[...]`."""
    typed = [word for word in words if word.lstrip("+").startswith(SEARCH_PATH)]
    if typed:
        from hydra.core.override_parser.overrides_parser import OverridesParser

        value = OverridesParser.create().parse_overrides(typed[-1:])[0].value()
        for place in value if isinstance(value, list) else ():
            if not str(place).startswith("pkg://"):
                yield Path(str(place).removeprefix("file://"))
