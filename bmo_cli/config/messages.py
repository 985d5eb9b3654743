"""Errors of Hydra and OmegaConf in one line: what was wrong, and the nearest valid name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bmo_cli.config.locate import GROUPS, choices, config_dir
from bmo_cli.config.typed import ambiguous_message, unreadable_message
from bmo_cli.errors import BmoError, InputError, suggest_nearest, wrap_os_error, wrap_resource_error

_NO_NAMES = {"nan", "inf", "true", "false", "null"}
_EXTRAS = {
    "joblib": "joblib",
    "submitit_local": "slurm",
    "submitit_slurm": "slurm",
}
"""Launchers of Hydra, with the extra of this package that installs each."""


def convert_to_bmo_error(error: Exception, overrides: Sequence[str], command: str) -> BmoError:
    """Convert any error that reached the command line.

    Args:
        error: of Hydra, OmegaConf or the operating system, or an internal error.
        overrides: of the command line.
        command: the first word of the command line.
    """
    if str(error).startswith("Unable to configure handler") and isinstance(
        error.__cause__, Exception
    ):
        error = error.__cause__  # a log file that cannot be written
    wrapped = wrap_resource_error(error)
    if isinstance(wrapped, BmoError):
        return wrapped
    if isinstance(error, ValueError) and str(error).startswith("Only one of --"):
        return InputError(str(error))
    if isinstance(error, TypeError | ValueError):  # Hydra's, where a group has no name of a choice
        for word in overrides:
            key, _, value = word.lstrip("+~").partition("=")
            named = re.fullmatch(r"[A-Za-z_][\w/-]*", value)
            if key in GROUPS and (not named or value.lower() in _NO_NAMES):
                return InputError(
                    f"'{word}': a group takes the name of a choice; "
                    f"'bmo {command} --help' lists the choices"
                )
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        return wrap_os_error(error)
    if not isinstance(error, HydraException | OmegaConfBaseException):
        detail = " ".join(str(error).split())
        return BmoError(
            f"internal error: {type(error).__name__}: {detail} "
            "(HYDRA_FULL_ERROR=1 shows the traceback)"
        )
    return InputError(explain_hydra_error(error, overrides, command))


def explain_hydra_error(error: Exception, overrides: Sequence[str], command: str) -> str:
    """One line about an error that Hydra raised while it composed the configuration."""
    if isinstance(error, MissingConfigException):
        explanation = _explain_unknown_choice(error)
        if explanation:
            return explanation
    if isinstance(error, OverrideParseException):
        return unreadable_message(str(error.override), error)
    text = str(error)
    several = re.match(r"Ambiguous value for argument '(.*?)'\n", text, re.DOTALL)
    if several:
        return ambiguous_message(several.group(1))
    unknown = re.search(
        r"Could not (?:override|append to|delete from config)\W*'?([\w./@-]+)", text
    )
    taken = re.search(r"An item is already at '([\w./@-]+)'", text)
    if taken:
        return f"'{taken.group(1)}' is there already: change it without the +"
    if unknown:
        key = unknown.group(1).rstrip(".'")
        if f"~{key}" in overrides and "delete" in unknown.group(0):
            return f"'~{key}' drops nothing: there is no such key, or it is null"
        return f"unknown key '{key}'{_suggest_key(key, overrides, command)}"
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    return " ".join(str(cause).split())


def _explain_unknown_choice(error: MissingConfigException) -> str:
    name = error.missing_cfg_file
    if not isinstance(name, str):
        return ""
    group, _, choice = name.rpartition("/")
    options = sorted(error.options if error.options is not None else choices().get(group, ()))
    if not group:
        return f"no configuration named '{name}'{suggest_nearest(name, options)}"
    if group == "hydra/launcher" and choice in _EXTRAS:
        return f"{group}={choice} needs a package: pip install 'bmo-cli[{_EXTRAS[choice]}]'"
    hint = suggest_nearest(choice, options)
    return f"unknown {group} '{choice}'{hint or '.'} Choices: {', '.join(options) or 'none'}"


def _suggest_key(key: str, overrides: Sequence[str], command: str) -> str:
    """Suggest a valid key. Composes once more, with the group choices alone, to list the keys."""
    owners = _choices_with(key)
    if owners:
        return f": it is one of {', '.join(owners[:3])}, which this command has not chosen"
    groups = [o for o in overrides if o.split("=", 1)[0] in GROUPS]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            known = list(_iterate_keys(compose(command, groups)))
    except (HydraException, OmegaConfBaseException):
        return ""
    hint = suggest_nearest(key, known)
    if not hint:  # a valid name without its section: `alpha` for `gkm.alpha`
        places = [name for name in known if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
        hint = f"; did you mean '{places[0]}'?" if places else ""
    return hint or "; 'bmo COMMAND --cfg job' prints the valid keys"


def _choices_with(key: str) -> list[str]:
    """The choices of a group, as `group=choice`, that have a key of its section."""
    group, *names = key.split(".")
    owners = []
    for choice in choices().get(group, ()) if names else ():
        node = yaml.safe_load((config_dir() / group / f"{choice}.yaml").read_text("utf-8")) or {}
        node = node.get(group, node)  # of a choice that is merged into the root
        for name in names:
            if not isinstance(node, dict) or name not in node:
                break
            node = node[name]
        else:
            owners.append(f"{group}={choice}")
    return owners


def _iterate_keys(config: DictConfig, prefix: str = "") -> Iterable[str]:
    for key in config:
        name = f"{prefix}{key!s}"
        yield name
        if not OmegaConf.is_missing(config, key) and not OmegaConf.is_interpolation(
            config, str(key)
        ):
            value = config[key]
            if isinstance(value, DictConfig):
                yield from _iterate_keys(value, f"{name}.")
