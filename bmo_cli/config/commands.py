"""Words of a command line, quoted for Hydra's grammar and then for the shell.

A printed command can be pasted into bash in the same folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

_PLAIN_TEXT = re.compile(r"[A-Za-z_./][\w./-]*", re.ASCII)
_NO_TEXT = re.compile(r"(?i)null|true|false|nan|inf")
_SAFE_IN_A_SHELL = re.compile(r"[\w@%+=:,./-]+")


def quote_value(value: object) -> str:
    """A value in quotes, which Hydra's grammar reads literally.

    A backslash is literal in quotes, except before a quote. `${` is escaped, because it would start
    an interpolation.
    """
    text = str(value).replace("${", "\\${")
    text = re.sub(r"(\\*)'", r"\1\1\\'", text)
    text = re.sub(r"(\\+)$", r"\1\1", text)
    return f"'{text}'"


def quote_if_needed(value: object) -> str:
    """A text as a value of Hydra's grammar, in quotes only where the grammar requires them."""
    text = str(value)
    plain = _PLAIN_TEXT.fullmatch(text) and not _NO_TEXT.fullmatch(text)
    return text if plain else quote_value(text)


def quote_for_shell(word: str) -> str:
    """A word that bash reads literally; unprintable characters are written as their bytes."""
    if _SAFE_IN_A_SHELL.fullmatch(word):
        return word
    if not word.isprintable():
        return "$'" + "".join(map(_escape_for_ansi_quotes, word)) + "'"
    if "!" in word:  # in double quotes an interactive shell would expand it
        return "'" + word.replace("'", "'\"'\"'") + "'"
    return '"' + re.sub(r'(["$`\\])', r"\\\1", word) + '"'


def _escape_for_ansi_quotes(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


def format_command(
    name: str, *words: str, plugins: Sequence[str] = (), **places: str | Path | None
) -> str:
    """A command of this program, as the user types it.

    Args:
        name: of the command.
        words: overrides and flags, quoted for Hydra.
        plugins: plug-in files and modules that the command needs.
        places: paths by key, such as `resume`; None: left out. A path below the current folder is
            shown relative to it.
    """
    flags = [word for word in words if word.startswith("-")]
    own = [
        f"{key}={quote_if_needed(relative_to_cwd(path))}"
        for key, path in places.items()
        if path is not None
    ]
    rest = [word for word in words if not word.startswith("-")]
    rest += [format_plugins(plugins)] if plugins else []
    return " ".join(["bmo", name, *map(quote_for_shell, [*flags, *own, *rest])])


def format_plugins(plugins: Sequence[str]) -> str:
    """The override `plugins=[...]`."""
    return f"plugins=[{','.join(map(quote_if_needed, plugins))}]"


def relative_to_cwd(path: str | Path) -> str:
    """A path relative to the current folder if it lies below, else unchanged."""
    path = Path(path)
    below = path.is_absolute() and path.is_relative_to(Path.cwd())
    return str(path.relative_to(Path.cwd()) if below else path)
