"""Types with ranges: annotations that are enforced from Python and in configurations.

An argument is declared in a constructor, `def __init__(self, *, alpha: OpenUnit = 0.9)`. `@checked`
enforces the annotation when the object is built from Python. `config.schema` reads it from the
source file and enforces it on a configuration before torch is imported. The message is the same:
the argument, the allowed values, the value got.
"""

from __future__ import annotations

import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union

from bmo_cli.errors import InputError, suggest_nearest


@dataclass(frozen=True)
class Interval:
    """A range of numbers.

    Attributes:
        text: the requirement in words, with the range in mathematical notation.
        low, high, low_open, high_open: the ends of the range.
        limit: added to `text` for finite numbers above `high`, where `text` does not state `high`.
    """

    text: str
    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    limit: str = ""

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below

    def requirement(self, value: float) -> str:
        """The requirement that `value`, which is outside of the range, does not meet."""
        return f"{self.text}{self.limit}" if self.high < abs(value) < math.inf else self.text


def _make_interval(low: float, high: float, brackets: str) -> Interval:
    text = f"lie in {brackets[0]}{low:g}, {high:g}{brackets[1]}"
    return Interval(text, low, high, brackets[0] == "(", brackets[1] == ")")


FLOAT32_MAX = (2 - 2**-23) * 2.0**127
_IN_FLOAT32 = " in float32, which ends at 3.4e38"
Finite = Annotated[
    float, Interval("be a finite number", -FLOAT32_MAX, FLOAT32_MAX, limit=_IN_FLOAT32)
]
Positive = Annotated[
    float, Interval("be finite and > 0", 0, FLOAT32_MAX, low_open=True, limit=_IN_FLOAT32)
]
NonNegative = Annotated[float, Interval("be finite and >= 0", 0, FLOAT32_MAX, limit=_IN_FLOAT32)]
OpenUnit = Annotated[float, _make_interval(0, 1, "()")]
HalfOpenUnit = Annotated[float, _make_interval(0, 1, "[)")]
Decibels = Annotated[float, _make_interval(-300, 300, "[]")]
OpenZeroTwo = Annotated[float, _make_interval(0, 2, "()")]
_MAX_INTEGER = 2**31 - 1
_UP_TO = f" and at most {_MAX_INTEGER}"
Count = Annotated[int, Interval("be an integer >= 1", 1, _MAX_INTEGER, limit=_UP_TO)]
Index = Annotated[int, Interval("be an integer >= 0", 0, _MAX_INTEGER, limit=_UP_TO)]
Repeats = Annotated[int, Interval("be an integer from 1 to 10000", 1, 10_000)]
"""Number of layers, blocks or stages."""
Seed = Annotated[int, Interval("be an integer from 0 to 2^63 - 1", 0, 2**63 - 1)]
"""Seed that the generators of NumPy and torch take; larger seeds derived from it fit as well."""
Workers = Annotated[int, Interval("be an integer from 0 to 256", 0, 256)]
Channels = Literal[1, 3]
"""1: gray, 3: colour."""
Memory = Literal["auto", "full", "segments", "states"]
"""What reverse mode stores, see `hyper.reverse.ReverseMode`."""
LossName = Literal["squared", "log", "charbonnier"]
"""Loss of hyper-training, see `tasks.restoration.LOSSES`."""
Flips = Literal["all", "mirror", "none"]
"""Augmentation of training crops, see `data.patches.Patches`."""


class Part:
    """Annotation of an argument that is a nested object: a node with `_target_`."""


_NUMBER_NAMES = {float: "a number", int: "an integer", bool: "true or false", str: "a text"}
_PLAIN = (int, float, str, list, tuple, dict, type(None))
Cls = TypeVar("Cls", bound=type)


def check(value: Any, annotation: Any, name: str) -> None:
    """Raise `InputError` naming `name` unless `value` fits `annotation`.

    Understands numbers, text, booleans, `None`, `Literal`, unions, lists, tuples, mappings, classes
    and `Annotated[..., Interval]`.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        check(value, arguments[0], name)
        for rule in arguments[1:]:
            if isinstance(rule, Interval) and value not in rule:
                raise InputError(f"{name} must {rule.requirement(value)}, got {value!r}")
    elif origin is Literal:
        if value not in arguments or isinstance(value, bool):
            choices = ", ".join(map(str, arguments))
            hint = suggest_nearest(value, map(str, arguments)) if isinstance(value, str) else ""
            raise InputError(f"{name} must be one of {choices}, got {value!r}{hint}")
    elif origin in (Union, types.UnionType):
        _check_union(value, arguments, name)
    elif origin in (list, tuple, Sequence):
        _check_sequence(value, origin, arguments, name)
    elif origin is dict or annotation is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{name} must be a mapping, got {value!r}")
        for key, item in value.items() if arguments else ():
            check(key, arguments[0], f"a key of {name}")
            check(item, arguments[1], f"{name}.{key}")
    elif annotation in (None, type(None)):
        if value is not None:
            raise InputError(f"{name} must be null, got {value!r}")
    elif annotation is Part:
        if not isinstance(value, Mapping) or "_target_" not in value:
            raise InputError(f"{name} must be a group of keys with a _target_, got {value!r}")
    elif annotation in _NUMBER_NAMES:
        _check_scalar(value, annotation, name)
    elif annotation is Any:
        return
    elif isinstance(annotation, type) and not isinstance(value, annotation):
        wanted = f"{annotation.__module__}.{annotation.__name__}"
        raise InputError(f"{name} must be a {wanted}, got {type(value).__name__}")


def _check_scalar(value: Any, kind: type, name: str) -> None:
    accepted: tuple[type, ...] = (int, float) if kind is float else (kind,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"{name} must be {_NUMBER_NAMES[kind]}, got {value!r}")


def _check_union(value: Any, arguments: tuple[Any, ...], name: str) -> None:
    failures = []
    for candidate in arguments:
        try:
            return check(value, candidate, name)
        except InputError as error:
            failures.append(str(error))
    options = [
        text.split(" must ", 1)[1].rsplit(", got ", 1)[0]
        for text in failures
        if " must be null" not in text
    ]
    also = " (or null)" if len(options) < len(failures) else ""
    shown = repr(value) if isinstance(value, _PLAIN) else type(value).__name__
    raise InputError(f"{name} must {', or '.join(options)}{also}, got {shown}")


def _check_sequence(value: Any, origin: Any, arguments: tuple[Any, ...], name: str) -> None:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InputError(f"{name} must be a list, got {value!r}")
    if origin is tuple and arguments[-1:] != (Ellipsis,):
        if len(value) != len(arguments):
            raise InputError(f"{name} must be a list of {len(arguments)} values, got {value!r}")
        pairs = list(zip(value, arguments, strict=True))
    else:
        pairs = [(item, arguments[0]) for item in value]
    for i, (item, annotation) in enumerate(pairs):
        check(item, annotation, f"{name}[{i}]")


def check_arguments(
    given: Mapping[str, Any],
    annotations: Mapping[str, Any],
    *,
    required: Sequence[str] = (),
    prefix: str = "",
) -> None:
    """Check named arguments against the annotations of a signature; refuse unknown and missing."""
    for key, value in given.items():
        if key not in annotations:
            known = [f"{prefix}{name}" for name in annotations]
            hint = (
                suggest_nearest(f"{prefix}{key}", known) or f"; known: {', '.join(known) or 'none'}"
            )
            raise InputError(f"unknown key '{prefix}{key}'{hint}")
        check(value, annotations[key], f"{prefix}{key}")
    for key in required:
        if key not in given:
            raise InputError(f"'{prefix}{key}' is missing")


def checked(cls: Cls) -> Cls:
    """Class decorator: every construction is checked against the annotations of `__init__`."""
    original: Callable[..., None] = cls.__init__  # type: ignore[misc]
    signature = inspect.signature(original)
    cache: dict[str, Any] = {}

    @functools.wraps(original)
    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        if not cache:
            cache.update(typing.get_type_hints(original, include_extras=True))
        bound = signature.bind(self, *args, **kwargs)
        for key, value in list(bound.arguments.items())[1:]:
            check(value, cache.get(key, Any), key)
        original(self, *args, **kwargs)

    cls.__init__ = construct  # type: ignore[misc]
    return cls
