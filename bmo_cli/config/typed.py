"""Overrides as a user typed them: what cannot be read is named with the quoting that works."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from bmo_cli.config.commands import quoted, shell_quoted
from bmo_cli.config.paths import at_home, is_path
from bmo_cli.errors import InputError

_SYNTAX = "[]{}(),='\"\\"
_UNQUOTED = re.compile(r"[\w/+.$%*@?|: \t-]*", re.ASCII)
"""characters that Hydra's grammar takes without quotes and that mean nothing in it"""


def readable(words: Sequence[str]) -> list[str]:
    """The words of a command line as Hydra reads them.

    Values with characters that Hydra's grammar does not know, as those of most scripts, are put in
    quotes; they mean nothing else.

    Args:
        words: flags, which stay as they are, and overrides.

    Raises:
        InputError: an override cannot be read, or gives a key that holds a path something else.
    """
    found = []
    for word in words:
        if word.startswith("-"):
            found.append(word)
            continue
        word = with_quotes(word)
        _require_text(word, parsed(word))
        found.append(word)
    return found


def with_quotes(word: str) -> str:
    """An override, its value in quotes where it holds characters that Hydra's grammar lacks."""
    key, equals, value = word.partition("=")
    syntax = {character for character in value if character in _SYNTAX}
    if not equals or _UNQUOTED.fullmatch(value) or "${" in value or not syntax <= {","}:
        return word
    return f"{key}={','.join(map(_with_own_quotes, value.split(',')))}"


def _with_own_quotes(value: str) -> str:
    return value if _UNQUOTED.fullmatch(value) else quoted(value)


def parsed(word: str) -> Override:
    """An override, read by Hydra.

    Raises:
        InputError: it cannot be read.
    """
    if word.startswith("="):
        raise InputError(cannot_read(word))
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        raise InputError(cannot_read(word, error)) from error
    except (ValueError, RecursionError) as error:  # of Python, which has limits of its own
        what = "is nested too deeply" if isinstance(error, RecursionError) else "is too long"
        raise InputError(
            f"cannot read the override '{word[:40]}...' of {len(word)} characters: its value {what}"
        ) from error


def text_of(words: Sequence[str], key: str) -> str | None:
    """The path that a key was given last, or None.

    Raises:
        InputError: it was given something else, or several in a sweep.
    """
    typed = [word for word in words if word.lstrip("+").startswith(f"{key}=")]
    if not typed:
        return None
    override = parsed(typed[-1])
    if override.is_sweep_override():
        raise InputError(f"'{typed[-1]}': there is one {key} at a time; {_as_one_text(typed[-1])}")
    value = override.value()
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise InputError(f"'{typed[-1]}': {key} is the folder of a run")
    return at_home(value.replace("\\${", "${"))


def cannot_read(word: str, error: Exception | None = None) -> str:
    """A line about an override that Hydra's grammar does not read.

    Args:
        word: the override.
        error: of Hydra.
    """
    key, equals, _ = word.partition("=")
    start = f"cannot read the override '{word}'"
    if not equals or not key:
        return f"{start}: expected key=value"
    if error is not None and error.__cause__ is not None:  # of a function such as choice(...)
        start += f": {' '.join(str(error.__cause__).split())}"
    place = _first_odd(word, len(key) + 1)
    if place is not None:
        start += f": '{word[place]}' is character {place + 1} of it"
    return f"{start}; {_as_one_text(word)}"


def ambiguous(word: str) -> str:
    """A line about an override with commas where nothing sweeps."""
    return (
        f"'{word}' has a comma, which separates the values of a sweep (-m); a list is in brackets; "
        f"{_as_one_text(word)}"
    )


def _as_one_text(word: str) -> str:
    key, _, value = word.partition("=")
    stripped = value[1:-1] if re.fullmatch(r"'.*'|\".*\"", value, re.DOTALL) else value
    return f"as one text, in a shell: {shell_quoted(f'{key}={quoted(stripped)}')}"


def _first_odd(word: str, start: int) -> int | None:
    """Place of the first character that means something in the grammar or is unknown to it."""
    odd = (i for i in range(start, len(word)) if not _UNQUOTED.fullmatch(word[i]))
    return next(odd, None)


def _require_text(word: str, override: Override) -> None:
    """Refuse a number, a list or the like where a path belongs."""
    key = override.key_or_group
    if not is_path(key) or override.is_sweep_override() or override.is_delete():
        return
    value = override.value()
    if value is not None and not isinstance(value, str):
        kind = "a list" if isinstance(value, list) else f"{value!r}"
        raise InputError(f"'{word}': {key} holds a path, and this is {kind}; {_as_one_text(word)}")
