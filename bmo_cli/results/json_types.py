"""Conversion of JSON to typed objects. A file may come from a stranger and hold anything."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Union

from bmo_cli.config.checks import check
from bmo_cli.errors import InputError


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} is damaged: expected an object")
    return content


def convert(value: Any, hint: Any, name: str = "", *, tolerant: bool = False) -> Any:
    """Convert a JSON value to the type of a hint.

    A field of a dataclass that is null counts as missing.

    Args:
        value: value as `json.loads` returns it.
        hint: a dataclass, a mapping from text, a sequence, or what `config.checks.check` knows.
        name: name of the value in messages; empty for a whole file.
        tolerant: leave out fields and entries that do not fit. In a list whose entries may be null
            they become null, so that the others keep their positions.

    Raises:
        InputError: the value does not fit.
    """
    options = _options(hint)
    if value is None and type(None) in options:
        return None
    for kind in options:
        if is_dataclass(kind):
            return _instance(_object(value, name), kind, name, tolerant)
        if typing.get_origin(kind) is Mapping:
            hints = dict.fromkeys(_object(value, name), typing.get_args(kind)[1])
            return _entries(value, hints, name, tolerant)
        if typing.get_origin(kind) is Sequence:
            return _items(value, typing.get_args(kind)[0], name, tolerant)
    check(value, hint, name)
    if isinstance(value, int | float) and not _is_finite(value):
        raise InputError(f"{name} must be a finite number")
    return value


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{name} must be an object, got {value!r}")
    return value


def _instance(content: Mapping[str, Any], kind: Any, name: str, tolerant: bool) -> Any:
    known = {key: hint for key, hint in _hints(kind).items() if content.get(key) is not None}
    given = _entries(content, known, name, tolerant)
    for entry in fields(kind):
        if entry.name not in given and entry.default is MISSING is entry.default_factory:
            raise InputError(f"{name or 'it'} has no {entry.name} that is known")
    return kind(**given)


def _entries(
    content: Mapping[str, Any], hints: Mapping[str, Any], name: str, tolerant: bool
) -> dict[str, Any]:
    entries = {}
    for key, hint in hints.items():
        with contextlib.suppress(InputError) if tolerant else contextlib.nullcontext():
            path = f"{name}.{key}" if name else key
            entries[key] = convert(content[key], hint, path, tolerant=tolerant)
    return entries


def _items(value: Any, hint: Any, name: str, tolerant: bool) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{name} must be a list, got {value!r}")
    items = []
    for i, item in enumerate(value):
        try:
            items.append(convert(item, hint, f"{name}[{i}]", tolerant=tolerant))
        except InputError:
            if not tolerant:
                raise
            if type(None) in _options(hint):
                items.append(None)
    return items


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


_hints = functools.cache(typing.get_type_hints)


def _options(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)
