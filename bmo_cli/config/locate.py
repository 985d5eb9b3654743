"""Where the shipped YAML files are, what each group offers, and a line about each choice."""

from __future__ import annotations

from pathlib import Path

import bmo_cli

OVERLAYS = ("recipe", "method", "experiment", "debug")
GROUPS = ("task", "gkm", "net", "hyper", "data", "optim", "logger", *OVERLAYS)
"""Groups of a run; `table` is the group of `bmo table`."""


def config_dir() -> Path:
    """`configs/`: inside the installed package, or beside it in a checkout."""
    package = Path(bmo_cli.__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def choices(
    extra_dirs: tuple[Path, ...] = (), groups: tuple[str, ...] = GROUPS
) -> dict[str, dict[str, str]]:
    """`{group: {choice: one line about it}}`; the line is the first comment of the YAML file."""
    choices_by_group: dict[str, dict[str, str]] = {}
    for group in groups:
        files = [f for root in (config_dir(), *extra_dirs) for f in (root / group).glob("*.yaml")]
        choices_by_group[group] = {file.stem: _first_comment(file) for file in sorted(files)}
    return choices_by_group


def _first_comment(file: Path) -> str:
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and "@package" not in line:
            return line.lstrip("# ").rstrip()
    return ""
