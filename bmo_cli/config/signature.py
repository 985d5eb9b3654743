"""Read what a `_target_` accepts from its source file, without importing it.

A plug-in is one Python file and one YAML. Its constructor already states every argument with its
type and range; reading that statement with `ast` lets a configuration be checked in milliseconds,
before torch is imported and before anything is built.
"""

from __future__ import annotations

import ast
import functools
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bmo_cli.config import checks
from bmo_cli.config.sources import Base, Definition, Sources, Unknown, sources
from bmo_cli.errors import InputError, nearest

_NAMES: dict[str, Any] = {
    **{name: getattr(checks, name) for name in dir(checks) if not name.startswith("_")},
    **{kind.__name__: kind for kind in (bool, int, float, str, list, tuple, dict)},
    "Any": Any,
    "Sequence": typing.Sequence,
    "Literal": typing.Literal,
}


@dataclass(frozen=True)
class Signature:
    """Arguments by name with their annotations, and the required ones.

    A name that is not one of `config.checks` is a class of the program: a `Part`.

    Attributes:
        annotations: by argument.
        required: arguments without a default.
        complete: whether there are no other arguments; where a base or a use of `**kwargs` cannot
            be read, only building the object tells.
    """

    annotations: dict[str, Any]
    required: tuple[str, ...]
    complete: bool = True


_UNREADABLE = Signature({}, (), complete=False)


@functools.cache
def read_signature(target: str, files: tuple[Path, ...] = ()) -> Signature:
    """Constructor of the class `package.module.name`.

    Args:
        target: dotted name of the class.
        files: plug-in files, in which it or its bases may be.

    Raises:
        InputError: no such module or file, or no such class in it.
    """
    reader = sources(files)
    definition = _target(target, reader)
    if definition is None:
        return Signature({}, ())
    return _constructor(_order(definition, reader), reader)


def _target(target: str, reader: Sources) -> Base | None:
    module, _, name = target.rpartition(".")
    known = reader.module(module) if module else None
    if known is None:
        raise InputError(
            f"'_target_: {target}' does not exist: no module '{module}' "
            "(a file of your own is named on the command line: plugins=[my_file.py])"
        )
    own = name in known.classes
    elsewhere = not module.startswith("bmo_cli.")  # in the package a class is named where it is
    bound = name in known.imported or name in known.assigned or known.stars
    if own or (elsewhere and bound):
        return reader.find(module, name)
    public = [other for other in known.classes if not other.startswith("_")]
    raise InputError(
        f"'_target_: {target}' does not exist: {module} has no class '{name}'"
        f"{nearest(name, public)}"
    )


def _order(definition: Base, reader: Sources, above: tuple[Base, ...] = ()) -> list[Base]:
    """The class and its bases in the order in which Python looks for methods (C3).

    Bases without arguments are left out.
    """
    if isinstance(definition, Unknown) or definition in above:  # it would inherit from itself
        return [Unknown()]
    bases: list[Base] = [
        base
        for base in (reader.base(node, definition.module) for node in definition.node.bases)
        if base is not None
    ]
    lines = [_order(base, reader, (*above, definition)) for base in bases]
    return [definition, *_merged([*lines, bases])]


def _merged(lines: list[list[Base]]) -> list[Base]:
    """C3: again and again the first head that is in no tail."""
    order: list[Base] = []
    while lines := [line for line in lines if line]:
        tails = {id(base) for line in lines for base in line[1:]}
        heads = [line[0] for line in lines]
        head = next((base for base in heads if id(base) not in tails), heads[0])
        order.append(head)
        lines = [[base for base in line if base is not head] for line in lines]
    return order


def _constructor(
    order: Sequence[Base], reader: Sources, builders: tuple[Definition, ...] = ()
) -> Signature:
    """The first `__init__` in this order, with what it hands on.

    Args:
        order: of the class and its bases.
        reader: of their files.
        builders: classes whose constructors build this one.
    """
    for i, base in enumerate(order):
        if isinstance(base, Unknown) or _is_generated(base.node):
            return _UNREADABLE
        for item in reversed(base.node.body):  # of several, overloads say, the last counts
            if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                return _with_inherited(item, (*builders, base), order[i + 1 :], reader)
    return Signature({}, ())


def _is_generated(node: ast.ClassDef) -> bool:
    """Whether a decorator or an assignment makes the constructor."""
    assigned = [t for item in node.body if isinstance(item, ast.Assign) for t in item.targets]
    written = any(isinstance(t, ast.Name) and t.id == "__init__" for t in assigned)
    return written or "dataclass" in _decorators(node)


def _decorators(node: ast.ClassDef) -> list[str]:
    """Names of the decorators of a class, without the modules that they are from."""
    functions = [d.func if isinstance(d, ast.Call) else d for d in node.decorator_list]
    return [f.attr if isinstance(f, ast.Attribute) else getattr(f, "id", "") for f in functions]


def _with_inherited(
    node: ast.FunctionDef,
    builders: tuple[Definition, ...],
    further: Sequence[Base],
    reader: Sources,
) -> Signature:
    """The arguments of an `__init__`, and through `**kwargs` those of what it hands them to."""
    own = _from_constructor(node)
    if node.args.kwarg is None:
        return own
    kwargs = node.args.kwarg.arg
    uses = [n for n in ast.walk(node) if isinstance(n, ast.Name) and n.id == kwargs]
    calls = [n for n in ast.walk(node) if isinstance(n, ast.Call) and _hands_on(n, kwargs)]
    if not uses:  # what they hold is lost, and no key should be
        return own
    if len(calls) != 1 or len(uses) != 1:
        return Signature(own.annotations, own.required, complete=False)
    (call,) = calls
    inherited, explicit = _receiver(call, builders, further, reader)
    given = {keyword.arg for keyword in call.keywords} | set(own.annotations)
    given |= set(list(inherited.annotations)[: len(explicit)])
    left = {k: v for k, v in inherited.annotations.items() if k not in given}
    required = [k for k in inherited.required if k not in given]
    return Signature(
        {**own.annotations, **left}, (*own.required, *required), complete=inherited.complete
    )


def _receiver(
    call: ast.Call, builders: tuple[Definition, ...], further: Sequence[Base], reader: Sources
) -> tuple[Signature, list[ast.expr]]:
    """The constructor that a call hands `**kwargs` to, and the positional arguments it is given.

    It is that of the next class, that of a base by name, or that of a part which the object builds.
    A part is read where it is `@checked`: only then are its annotations enforced.
    """
    function, module = call.func, builders[-1].module
    if isinstance(function, ast.Attribute) and function.attr == "__init__":
        if isinstance(function.value, ast.Call):  # super().__init__(**kwargs)
            return _constructor(further, reader, builders), call.args
        base = reader.base(function.value, module)  # Base.__init__(self, **kwargs)
        order = [] if base is None else _order(base, reader)
        return _constructor(order, reader, builders), call.args[1:]
    part = reader.base(function, module)  # Part(**kwargs)
    if not isinstance(part, Definition) or part in builders:  # it would build itself
        return _UNREADABLE, call.args
    if "checked" not in _decorators(part.node):
        return _UNREADABLE, call.args
    return _constructor(_order(part, reader), reader, builders), call.args


def _hands_on(call: ast.Call, kwargs: str) -> bool:
    """Whether a call passes on all of `**kwargs`."""
    last = [k.value for k in call.keywords if k.arg is None]
    return any(isinstance(value, ast.Name) and value.id == kwargs for value in last)


def _from_constructor(node: ast.FunctionDef) -> Signature:
    positional = [*node.args.posonlyargs, *node.args.args][1:]
    no_default = positional[: len(positional) - len(node.args.defaults)]
    required = [argument.arg for argument in no_default]
    required += [
        argument.arg
        for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        if default is None
    ]
    arguments = [*positional, *node.args.kwonlyargs]
    return Signature({a.arg: _annotation(a.annotation) for a in arguments}, tuple(required))


def _annotation(node: ast.expr | None) -> Any:
    """The annotation as an object, written in the names of `checks`; `Any` where it is not."""
    if node is None or not _is_plain(node):
        return Any
    code = compile(ast.Expression(node), "<annotation>", "eval")
    try:  # names, subscripts and unions only: no call and no attribute can be reached
        return eval(code, {"__builtins__": {}}, _Names(_NAMES))
    except TypeError:
        return Any


class _Names(dict[str, Any]):
    def __missing__(self, name: str) -> Any:
        return checks.Part


def _is_plain(node: ast.AST) -> bool:
    allowed = (ast.Name, ast.Subscript, ast.Tuple, ast.List, ast.Constant, ast.BinOp)
    context = (ast.Load, ast.BitOr)
    return all(isinstance(item, allowed + context) for item in ast.walk(node))
