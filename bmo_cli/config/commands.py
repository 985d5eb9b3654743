"""Words of a command line, quoted for Hydra's grammar and then for the shell.

What is printed as a command can be pasted into bash in the same folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

_PLAIN_TEXT = re.compile(r"[A-Za-z_./][\w./-]*", re.ASCII)
_NO_TEXT = re.compile(r"(?i)null|true|false|nan|inf")
_SAFE_IN_A_SHELL = re.compile(r"[\w@%+=:,./-]+")


def quoted(value: object) -> str:
    """A value as Hydra's grammar takes it literally.

    A backslash is one there, except before a quote; `${` would be an interpolation.
    """
    text = str(value).replace("${", "\\${")
    text = re.sub(r"(\\*)'", r"\1\1\\'", text)
    text = re.sub(r"(\\+)$", r"\1\1", text)
    return f"'{text}'"


def literal(value: object) -> str:
    """A text as a value of Hydra's grammar, in quotes only where it needs them."""
    text = str(value)
    plain = _PLAIN_TEXT.fullmatch(text) and not _NO_TEXT.fullmatch(text)
    return text if plain else quoted(text)


def shell_quoted(word: str) -> str:
    """A word as bash takes it literally; what cannot be printed is written by its bytes."""
    if _SAFE_IN_A_SHELL.fullmatch(word):
        return word
    if not word.isprintable():
        return "$'" + "".join(map(_in_ansi_quotes, word)) + "'"
    if "!" in word:  # which double quotes do not hide from an interactive shell
        return "'" + word.replace("'", "'\"'\"'") + "'"
    return '"' + re.sub(r'(["$`\\])', r"\\\1", word) + '"'


def _in_ansi_quotes(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


def command(
    name: str, *words: str, plugins: Sequence[str] = (), **places: str | Path | None
) -> str:
    """A command of this program, as one types it.

    Args:
        name: of the command.
        words: overrides and flags, quoted for Hydra.
        plugins: files and modules of the user's own that it needs.
        places: paths by key, such as `resume`; None: left out. A path below the present folder is
            shown from there.
    """
    flags = [word for word in words if word.startswith("-")]
    own = [f"{key}={literal(here(path))}" for key, path in places.items() if path is not None]
    rest = [word for word in words if not word.startswith("-")]
    rest += [plugins_word(plugins)] if plugins else []
    return " ".join(["bmo", name, *map(shell_quoted, [*flags, *own, *rest])])


def plugins_word(plugins: Sequence[str]) -> str:
    """`plugins=[...]`."""
    return f"plugins=[{','.join(map(literal, plugins))}]"


def here(path: str | Path) -> str:
    """A path as it is named from the present folder, where it lies below."""
    path = Path(path)
    below = path.is_absolute() and path.is_relative_to(Path.cwd())
    return str(path.relative_to(Path.cwd()) if below else path)
