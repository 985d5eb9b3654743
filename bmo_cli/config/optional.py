"""Methods that a class of the user's own may leave out, and what is said where one is needed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from bmo_cli.errors import InputError


class Extensible:
    """Base of interfaces of which a subclass may leave out some methods.

    A call of a method named in `optional` that raises NotImplementedError, in the interface or in
    a subclass, ends in an `InputError` with the class, the method and its entry.

    Attributes:
        optional: by name of the method, how the sentence "CLASS has no `METHOD`" goes on.
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
                setattr(cls, name, _refusing(method, name, entry))


def _refusing(method: Callable[..., Any], name: str, entry: str) -> Callable[..., Any]:
    """The method, with NotImplementedError turned into a line."""

    @functools.wraps(method)
    def call(self: object, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except NotImplementedError as error:
            said = " ".join(str(error).split())
            text = f"{type(self).__name__} has no `{name}`{entry}"
            raise InputError(f"{text} ({said})" if said else text) from error

    return call
