"""Read the arguments of a `_target_` from its source file, without importing it.

A plug-in is one Python file and one YAML. Its constructor states every argument with its type and
range. This module reads the constructor with `ast`, so that a configuration is checked in
milliseconds, before torch is imported and before any object is built.
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
from bmo_cli.config.sources import Base, Definition, Sources, Unknown, get_sources
from bmo_cli.errors import InputError, suggest_nearest

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

    A name that is not in `config.checks` is a class of the program: a `Part`.

    Attributes:
        annotations: by argument.
        required: arguments without a default.
        complete: whether there are no other arguments. Where a base or a use of `**kwargs` cannot
            be read, only the constructor itself checks the others.
    """

    annotations: dict[str, Any]
    required: tuple[str, ...]
    complete: bool = True


_UNREADABLE = Signature({}, (), complete=False)


@functools.cache
def read_signature(target: str, files: tuple[Path, ...] = ()) -> Signature:
    """Read the constructor of the class `package.module.name`.

    Args:
        target: dotted name of the class.
        files: plug-in files, which may hold the class or its bases.

    Raises:
        InputError: no such module or file, or no such class in it.
    """
    reader = get_sources(files)
    definition = _find_target(target, reader)
    if definition is None:
        return Signature({}, ())
    return _read_constructor(_linearise(definition, reader), reader)


def _find_target(target: str, reader: Sources) -> Base | None:
    module, _, name = target.rpartition(".")
    known = reader.module(module) if module else None
    if known is None:
        raise InputError(
            f"'_target_: {target}' does not exist: no module '{module}' "
            "(a file of your own is named on the command line: plugins=[my_file.py])"
        )
    own = name in known.classes
    elsewhere = not module.startswith("bmo_cli.")  # in this package, only its own module counts
    bound = name in known.imported or name in known.assigned or known.stars
    if own or (elsewhere and bound):
        return reader.find(module, name)
    public = [other for other in known.classes if not other.startswith("_")]
    raise InputError(
        f"'_target_: {target}' does not exist: {module} has no class '{name}'"
        f"{suggest_nearest(name, public)}"
    )


def _linearise(definition: Base, reader: Sources, above: tuple[Base, ...] = ()) -> list[Base]:
    """The class and its bases in method resolution order (C3).

    Bases without constructor arguments are left out.
    """
    if isinstance(definition, Unknown) or definition in above:  # a cycle of bases
        return [Unknown()]
    bases: list[Base] = [
        base
        for base in (reader.base(node, definition.module) for node in definition.node.bases)
        if base is not None
    ]
    lines = [_linearise(base, reader, (*above, definition)) for base in bases]
    return [definition, *_merge_linearisations([*lines, bases])]


def _merge_linearisations(lines: list[list[Base]]) -> list[Base]:
    """C3: repeatedly take the first head that is in no tail."""
    order: list[Base] = []
    while lines := [line for line in lines if line]:
        tails = {id(base) for line in lines for base in line[1:]}
        heads = [line[0] for line in lines]
        head = next((base for base in heads if id(base) not in tails), heads[0])
        order.append(head)
        lines = [[base for base in line if base is not head] for line in lines]
    return order


def _read_constructor(
    order: Sequence[Base], reader: Sources, builders: tuple[Definition, ...] = ()
) -> Signature:
    """The arguments of the first `__init__` in this order, with those it passes on.

    Args:
        order: the class and its bases.
        reader: of their files.
        builders: classes whose constructors build this one.
    """
    for i, base in enumerate(order):
        if isinstance(base, Unknown) or _is_generated(base.node):
            return _UNREADABLE
        for item in reversed(base.node.body):  # of several definitions (overloads) the last counts
            if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                return _add_inherited_arguments(item, (*builders, base), order[i + 1 :], reader)
    return Signature({}, ())


def _is_generated(node: ast.ClassDef) -> bool:
    """Whether a decorator or an assignment defines the constructor."""
    assigned = [t for item in node.body if isinstance(item, ast.Assign) for t in item.targets]
    written = any(isinstance(t, ast.Name) and t.id == "__init__" for t in assigned)
    return written or "dataclass" in _decorators(node)


def _decorators(node: ast.ClassDef) -> list[str]:
    """Names of the decorators of a class, without their modules."""
    functions = [d.func if isinstance(d, ast.Call) else d for d in node.decorator_list]
    return [f.attr if isinstance(f, ast.Attribute) else getattr(f, "id", "") for f in functions]


def _add_inherited_arguments(
    node: ast.FunctionDef,
    builders: tuple[Definition, ...],
    further: Sequence[Base],
    reader: Sources,
) -> Signature:
    """The arguments of an `__init__`, with those of the callable that receives its `**kwargs`."""
    own = _read_arguments(node)
    if node.args.kwarg is None:
        return own
    kwargs = node.args.kwarg.arg
    uses = [n for n in ast.walk(node) if isinstance(n, ast.Name) and n.id == kwargs]
    calls = [n for n in ast.walk(node) if isinstance(n, ast.Call) and _passes_kwargs(n, kwargs)]
    if not uses:  # unused `**kwargs` would silently discard keys
        return own
    if len(calls) != 1 or len(uses) != 1:
        return Signature(own.annotations, own.required, complete=False)
    (call,) = calls
    inherited, explicit = _read_receiver(call, builders, further, reader)
    given = {keyword.arg for keyword in call.keywords} | set(own.annotations)
    given |= set(list(inherited.annotations)[: len(explicit)])
    left = {k: v for k, v in inherited.annotations.items() if k not in given}
    required = [k for k in inherited.required if k not in given]
    return Signature(
        {**own.annotations, **left}, (*own.required, *required), complete=inherited.complete
    )


def _read_receiver(
    call: ast.Call, builders: tuple[Definition, ...], further: Sequence[Base], reader: Sources
) -> tuple[Signature, list[ast.expr]]:
    """The constructor that receives the `**kwargs` of a call, and the call's positional arguments.

    It belongs to the next class, to a base by name, or to a part that the object builds. A part is
    read only if it is `@checked`, because only then are its annotations enforced.
    """
    function, module = call.func, builders[-1].module
    if isinstance(function, ast.Attribute) and function.attr == "__init__":
        if isinstance(function.value, ast.Call):  # super().__init__(**kwargs)
            return _read_constructor(further, reader, builders), call.args
        base = reader.base(function.value, module)  # Base.__init__(self, **kwargs)
        order = [] if base is None else _linearise(base, reader)
        return _read_constructor(order, reader, builders), call.args[1:]
    part = reader.base(function, module)  # Part(**kwargs)
    if not isinstance(part, Definition) or part in builders:  # a cycle of constructors
        return _UNREADABLE, call.args
    if "checked" not in _decorators(part.node):
        return _UNREADABLE, call.args
    return _read_constructor(_linearise(part, reader), reader, builders), call.args


def _passes_kwargs(call: ast.Call, kwargs: str) -> bool:
    """Whether a call passes on all of `**kwargs`."""
    last = [k.value for k in call.keywords if k.arg is None]
    return any(isinstance(value, ast.Name) and value.id == kwargs for value in last)


def _read_arguments(node: ast.FunctionDef) -> Signature:
    positional = [*node.args.posonlyargs, *node.args.args][1:]
    no_default = positional[: len(positional) - len(node.args.defaults)]
    required = [argument.arg for argument in no_default]
    required += [
        argument.arg
        for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        if default is None
    ]
    arguments = [*positional, *node.args.kwonlyargs]
    return Signature(
        {a.arg: _evaluate_annotation(a.annotation) for a in arguments}, tuple(required)
    )


def _evaluate_annotation(node: ast.expr | None) -> Any:
    """The annotation as an object, in the names of `checks`; `Any` for other expressions."""
    if node is None or not _is_plain(node):
        return Any
    code = compile(ast.Expression(node), "<annotation>", "eval")
    try:  # names, subscripts and unions only: no call and no attribute can be reached
        return eval(code, {"__builtins__": {}}, _AnnotationNames(_NAMES))
    except TypeError:
        return Any


class _AnnotationNames(dict[str, Any]):
    def __missing__(self, name: str) -> Any:
        return checks.Part


def _is_plain(node: ast.AST) -> bool:
    allowed = (ast.Name, ast.Subscript, ast.Tuple, ast.List, ast.Constant, ast.BinOp)
    context = (ast.Load, ast.BitOr)
    return all(isinstance(item, allowed + context) for item in ast.walk(node))
