"""Overrides as the user typed them. The error of an unreadable one shows the quoting that works."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from bmo_cli.config.commands import quote_for_shell, quote_value
from bmo_cli.config.paths import expand_home, is_path
from bmo_cli.errors import InputError

_SYNTAX = "[]{}(),='\"\\"
_UNQUOTED = re.compile(r"[\w/+.$%*@?|: \t-]*", re.ASCII)
"""Characters that Hydra's grammar reads literally without quotes."""


def quote_overrides(words: Sequence[str]) -> list[str]:
    """The words of a command line, with values in quotes where Hydra's grammar requires them.

    Hydra's grammar does not know the characters of most scripts. Quotes do not change their
    meaning.

    Args:
        words: flags, which are kept unchanged, and overrides.

    Raises:
        InputError: an override cannot be read, or a key of a path has another value.
    """
    quoted = []
    for word in words:
        if not word.startswith("-"):
            word = quote_override(word)
            _require_path(word, parse_override(word))
        quoted.append(word)
    return quoted


def quote_override(word: str) -> str:
    """An override, with its value in quotes if it holds characters that Hydra does not know."""
    key, equals, value = word.partition("=")
    syntax = {character for character in value if character in _SYNTAX}
    if not equals or _UNQUOTED.fullmatch(value) or "${" in value or not syntax <= {","}:
        return word
    return f"{key}={','.join(map(_quote_where_needed, value.split(',')))}"


def _quote_where_needed(value: str) -> str:
    return value if _UNQUOTED.fullmatch(value) else quote_value(value)


def parse_override(word: str) -> Override:
    """Parse an override with Hydra's grammar.

    Raises:
        InputError: the override cannot be read.
    """
    if word.startswith("="):
        raise InputError(unreadable_message(word))
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        raise InputError(unreadable_message(word, error)) from error
    except (ValueError, RecursionError) as error:  # limits of Python
        what = "is nested too deeply" if isinstance(error, RecursionError) else "is too long"
        raise InputError(
            f"cannot read the override '{word[:40]}...' of {len(word)} characters: its value {what}"
        ) from error


def path_of_key(words: Sequence[str], key: str) -> str | None:
    """The last path that was typed for a key, or None.

    Raises:
        InputError: the value is no path, or several values of a sweep.
    """
    typed = [word for word in words if word.lstrip("+").startswith(f"{key}=")]
    if not typed:
        return None
    override = parse_override(typed[-1])
    if override.is_sweep_override():
        raise InputError(f"'{typed[-1]}': there is one {key} at a time; {_quoting_hint(typed[-1])}")
    value = override.value()
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise InputError(f"'{typed[-1]}': {key} is the folder of a run")
    return expand_home(value.replace("\\${", "${"))


def unreadable_message(word: str, error: Exception | None = None) -> str:
    """The message about an override that Hydra's grammar does not read.

    Args:
        word: the override.
        error: of Hydra, if any.
    """
    key, equals, _ = word.partition("=")
    start = f"cannot read the override '{word}'"
    if not equals or not key:
        return f"{start}: expected key=value"
    cause = error.__cause__ if error is not None else None
    if _is_open_list(word):
        return (
            f"{start}: its bracket is not closed. A shell divides words at spaces: "
            f"write {quote_for_shell(f'{key}=[A,B]')}"
        )
    if cause is not None and cause.args != (None,):  # of choice(...), say; the grammar gives None
        start += f": {' '.join(str(cause).split())}"
    place = _first_special(word, len(key) + 1)
    if place is not None:
        start += f": '{word[place]}' is character {place + 1} of it"
    return f"{start}; {_quoting_hint(word)}"


def ambiguous_message(word: str) -> str:
    """The message about an override with commas outside of a sweep."""
    key, _, value = word.partition("=")
    start = f"'{word}' has a comma, which separates the values of a sweep (-m)"
    if is_path(key):
        return f"{start}; {_quoting_hint(word)}"
    return f"{start}; a list is in brackets: {quote_for_shell(f'{key}=[{value}]')}"


def _is_open_list(word: str) -> bool:
    """Whether a value is the first part of a list that the shell has divided."""
    key, _, value = word.partition("=")
    quoted = any(mark in value for mark in "'\"")
    return value.startswith("[") and "]" not in value and not quoted and not is_path(key)


def _quoting_hint(word: str) -> str:
    key, _, value = word.partition("=")
    stripped = value[1:-1] if re.fullmatch(r"'.*'|\".*\"", value, re.DOTALL) else value
    quoted = quote_for_shell(f"{key}={quote_value(stripped)}")
    return f"quoted twice, for the shell and for Hydra: {quoted}"


def _first_special(word: str, start: int) -> int | None:
    """Index of the first character that is special in Hydra's grammar or unknown to it."""
    special = (i for i in range(start, len(word)) if not _UNQUOTED.fullmatch(word[i]))
    return next(special, None)


def _require_path(word: str, override: Override) -> None:
    """Refuse a number or a list as the value of a key that holds a path."""
    key = override.key_or_group
    if not is_path(key) or override.is_sweep_override() or override.is_delete():
        return
    value = override.value()
    if value is not None and not isinstance(value, str):
        kind = "a list" if isinstance(value, list) else f"{value!r}"
        raise InputError(f"'{word}': {key} holds a path, and this is {kind}; {_quoting_hint(word)}")
