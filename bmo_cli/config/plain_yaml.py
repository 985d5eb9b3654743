"""YAML files of untrusted run folders, read as plain data."""

from __future__ import annotations

from pathlib import Path

import yaml

from bmo_cli.errors import InputError

_MAX_BYTES = 5 * 2**20
"""Size in bytes of the largest file that is read."""


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases: a few lines with aliases can expand to gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)


def read_plain_yaml(file: Path) -> object:
    """The content of a YAML file as plain data.

    Raises:
        InputError: the file is missing, too large, no regular file, or not YAML.
    """
    if file.exists() and not file.is_file():
        raise InputError(f"{file} is no regular file")
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise InputError(f"{file} is larger than a configuration can be (5 MiB)")
        return yaml.load(file.read_text(encoding="utf-8"), _PlainLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        detail = " ".join(str(error).split())
        raise InputError(f"{file} cannot be read: {detail}") from error
