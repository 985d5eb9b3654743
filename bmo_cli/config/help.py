"""`bmo COMMAND --help`: the choices of every group, one line each, and the keys."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_store import ConfigStore

from bmo_cli.config.locate import GROUPS, choices, config_dir
from bmo_cli.config.own_files import config_dirs

_TITLES = {"recipe": "recipe, chosen by the names TASK_NET_GKM_HYPER of the other groups"}
"""Of groups that are not typed as GROUP=CHOICE."""


def register_help(command: str, purpose: str, example: str, words: Sequence[str]) -> None:
    """Store the text as Hydra's help configuration `hydra/help: bmo_command`."""
    text = help_text(command, purpose, example, config_dirs(words))
    node = {"app_name": "bmo", "header": "", "footer": "", "template": text}
    ConfigStore.instance().store(group="hydra/help", name="bmo_command", node=node)


def help_text(command: str, purpose: str, example: str, extra: tuple[Path, ...] = ()) -> str:
    """The help page of a command as text."""
    lines = [f"bmo {command}: {purpose}", "", f"example: {example}", ""]
    groups = []
    own = ("table",) if command == "table" else ()
    for group, options in choices(extra, (*own, *GROUPS)).items():
        groups.append(_TITLES.get(group, f"{group}="))
        width = max((len(name) for name in options), default=0)
        groups += [f"  {name:<{width}}  {about}".rstrip() for name, about in options.items()]
    keys = [f"keys of bmo {command} (change any with KEY=VALUE; nested keys as train.steps=100)"]
    keys += [f"  {line}" for line in _key_lines(config_dir() / f"{command}.yaml")]
    if command == "train":
        lines += [*groups, "", *keys]
    elif command == "certify":
        every = _key_lines(config_dir() / "train.yaml")
        start = next(i for i, line in enumerate(every) if line.startswith("certificate:"))
        own_keys = [line for line in every[start + 1 :] if line.startswith(" ")]
        lines += [*keys, *(f"  certificate.{line.strip()}" for line in own_keys)]
        lines.append("  and device, plugins, and where the data are (data.val=...), nothing else")
    elif command in ("audit", "table"):
        lines += [*keys, "", *groups]
    else:
        keys.append("  and the keys of the run's own configuration (bmo train --help)")
        lines += [*keys, "", *groups]
    lines += [
        "",
        "--cfg job prints the configuration, -m sweeps, --dry-run lists the jobs of a sweep,",
        "--hydra-help lists Hydra's flags.",
    ]
    return "\n".join(lines)


def _key_lines(file: Path) -> list[str]:
    """Lines of a YAML file with comments, without the defaults list and Hydra's section."""
    body = re.split(r"^hydra:", file.read_text(encoding="utf-8"), maxsplit=1, flags=re.M)[0]
    _, _, body = body.partition("- _self_")
    kept = [line for line in body.splitlines() if not line.lstrip().startswith("- ")]
    return [re.sub(r"\$\{(.*?)\}", r"as \1", line) for line in kept if line.strip()]
