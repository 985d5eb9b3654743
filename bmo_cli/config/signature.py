"""Read what a `_target_` accepts from its source file, without importing it.

A plug-in is one Python file and one YAML. Its constructor already states every argument with its
type and range; reading that statement with `ast` lets a configuration be checked in milliseconds,
before torch is imported and before anything is built.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bmo_cli.config import checks
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
    """

    annotations: dict[str, Any]
    required: tuple[str, ...]


@functools.cache
def read_signature(target: str, source: Path | None = None) -> Signature:
    """Constructor of the class `package.module.name`.

    Args:
        target: dotted name of the class.
        source: its file, when the module is a plug-in and not importable by name.

    Raises:
        InputError: no such module or file, or no such class in it.
    """
    module, _, name = target.rpartition(".")
    file = source or _source_file(module, target)
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{file} cannot be read as Python: {error}") from error
    definitions = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    if name not in definitions:
        public = [known for known in definitions if not known.startswith("_")]
        raise InputError(
            f"'_target_: {target}' does not exist: {module} has no class '{name}'"
            f"{nearest(name, public)}"
        )
    node = definitions[name]
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return _from_constructor(item)
    return _inherited(node, tree, module, source)


def _source_file(module: str, target: str) -> Path:
    try:
        spec = importlib.util.find_spec(module) if module else None
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise InputError(
            f"'_target_: {target}' does not exist: no module '{module}' "
            "(a file of your own is named on the command line: plugins=[my_file.py])"
        )
    return Path(spec.origin)


def _inherited(node: ast.ClassDef, tree: ast.Module, module: str, source: Path | None) -> Signature:
    """A class without `__init__` takes its first base's, here or imported from our own modules."""
    for base in node.bases:
        if not isinstance(base, ast.Name):
            continue
        local = [item.name for item in tree.body if isinstance(item, ast.ClassDef)]
        if base.id in local:
            return read_signature(f"{module}.{base.id}", source)
        for item in tree.body:
            if isinstance(item, ast.ImportFrom) and base.id in {name.name for name in item.names}:
                with contextlib.suppress(InputError):  # abc.ABC and the like have no source file
                    return read_signature(f"{item.module}.{base.id}")
    return Signature({}, ())


def _from_constructor(node: ast.FunctionDef) -> Signature:
    positional = node.args.args[1:]
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
