"""Optional methods of plug-in interfaces, and the error where a missing one is needed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from bmo_cli.errors import InputError


class Extensible:
    """Base of interfaces with optional methods.

    Where a method named in `optional` raises NotImplementedError, in the interface or in a
    subclass, the call raises an `InputError` that names the class and the method.

    Attributes:
        optional: by name of the method, the end of the sentence "CLASS has no `METHOD`".
    """

    optional: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        entries: dict[str, str] = {}
        for base in reversed(cls.__mro__):
            entries |= vars(base).get("optional", {})
        for name, entry in entries.items():
            method = vars(cls).get(name)
            if callable(method) and not getattr(method, "__isabstractmethod__", False):
                setattr(cls, name, _wrap_optional_method(method, name, entry))


def _wrap_optional_method(method: Callable[..., Any], name: str, entry: str) -> Callable[..., Any]:
    """The method, with NotImplementedError converted to an `InputError`."""

    @functools.wraps(method)
    def call(self: object, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except NotImplementedError as error:
            detail = " ".join(str(error).split())
            text = f"{type(self).__name__} has no `{name}`{entry}"
            raise InputError(f"{text} ({detail})" if detail else text) from error

    return call
