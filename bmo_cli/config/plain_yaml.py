"""YAML files that may come from a stranger, read as data and nothing else."""

from __future__ import annotations

from pathlib import Path

import yaml

from bmo_cli.errors import InputError

_LARGEST = 5 * 2**20
"""bytes of a file that is read"""


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases: a few lines of them can stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)


def read_plain(file: Path) -> object:
    """What a YAML file holds, as data.

    Raises:
        InputError: missing, too large, no regular file, or not YAML.
    """
    if file.exists() and not file.is_file():
        raise InputError(f"{file} is no regular file")
    try:
        if file.stat().st_size > _LARGEST:
            raise InputError(f"{file} is larger than a configuration can be (5 MiB)")
        return yaml.load(file.read_text(encoding="utf-8"), _PlainLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        detail = " ".join(str(error).split())
        raise InputError(f"{file} cannot be read: {detail}") from error
