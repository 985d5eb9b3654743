"""Find classes and their bases in source files without importing them.

Names are resolved as in Python: through `import a.b as c`, `from a import b`, relative imports,
star imports and assignments, in installed modules, plug-in files and modules of their folders.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from bmo_cli.errors import InputError

_T = TypeVar("_T")

WITHOUT_ARGUMENTS = {
    *("abc.ABC", "typing.Generic", "typing.Protocol", "torch.nn.Module"),
    *("torch.nn.modules.Module", "torch.nn.modules.module.Module"),
}
"""Bases whose constructor takes no arguments; their source is not read."""


@dataclass
class Module:
    """Names that the top level of a source file binds.

    Attributes:
        name: dotted.
        package: where relative imports start.
        classes: definitions by name.
        imported: by name, the module and the name in it; None: the module itself.
        assigned: expressions by name.
        stars: modules of which everything is imported.
    """

    name: str
    package: str
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    imported: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    assigned: dict[str, ast.expr] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)

    def bind(self, table: dict[str, _T], name: str, value: _T) -> None:
        """Add a name to a table, unless it is bound already."""
        if not any(name in other for other in (self.classes, self.imported, self.assigned)):
            table[name] = value


@dataclass(frozen=True, eq=False)
class Definition:
    """A class with the module whose names it uses."""

    node: ast.ClassDef
    module: Module


class Unknown:
    """A base whose source file is not available."""


Base = Definition | Unknown
UNKNOWN = Unknown()


class Sources:
    """Reads modules.

    Args:
        files: plug-in files, modules under the names of their stems.
    """

    def __init__(self, files: tuple[Path, ...] = ()) -> None:
        self._files = {file.stem: file for file in files}
        self._folders = list(dict.fromkeys(file.parent for file in files))
        self._modules: dict[str, Module | None] = {}
        self._definitions: dict[tuple[str, str], Definition] = {}

    def file(self, module: str) -> Path | None:
        """The source file of a module, plug-in files first; None: there is none."""
        if module in self._files:
            return self._files[module]
        first, *rest = module.split(".")
        for file, folders in self._locate_top_level(first):
            for name in rest:
                file, folders = next(_locate_in(name, folders), (None, []))
            if file is not None:
                return file
        return None

    def module(self, name: str) -> Module | None:
        """The module of this name; None: there is no file.

        Raises:
            InputError: the file cannot be read as Python.
        """
        if name not in self._modules:
            file = self.file(name)
            self._modules[name] = None if file is None else self._parse(name, file)
        return self._modules[name]

    def find(self, module: str, name: str, passed: frozenset[str] = frozenset()) -> Base | None:
        """The class that a name of a module refers to; None: one without arguments."""
        place = f"{module}.{name}"
        if place in WITHOUT_ARGUMENTS:
            return None
        known = None if place in passed else self._module_or_none(module)
        if known is None:
            return UNKNOWN
        if name in known.classes:
            key = (module, name)
            if key not in self._definitions:
                self._definitions[key] = Definition(known.classes[name], known)
            return self._definitions[key]
        passed |= {place}
        if name in known.imported:
            origin, attribute = known.imported[name]
            return UNKNOWN if attribute is None else self.find(origin, attribute, passed)
        if name in known.assigned:
            return self.base(known.assigned[name], known, passed)
        candidates = (self.find(star, name, passed) for star in known.stars)
        return next((base for base in candidates if not isinstance(base, Unknown)), UNKNOWN)

    def base(
        self, node: ast.expr, module: Module, passed: frozenset[str] = frozenset()
    ) -> Base | None:
        """The class that an expression names: a name, dotted or not, or one with a subscript."""
        if isinstance(node, ast.Subscript):  # Generic[T]
            return self.base(node.value, module, passed)
        dotted = _split_dotted(node)
        if not dotted:
            return UNKNOWN
        first, *between = dotted
        if not between:
            return None if first == "object" else self.find(module.name, first, passed)
        if first not in module.imported:
            return UNKNOWN
        origin, attribute = module.imported[first]
        *steps, name = between if attribute is None else [attribute, *between]
        for step in steps:
            origin = self._submodule(origin, step)
        return self.find(origin, name, passed)

    def _submodule(self, module: str, name: str) -> str:
        """The module that `module.name` refers to: its own file, or imported under that name."""
        place = f"{module}.{name}"
        known = self._module_or_none(module) if self.file(place) is None else None
        if known is None or name not in known.imported:
            return place
        origin, attribute = known.imported[name]
        return origin if attribute is None else f"{origin}.{attribute}"

    def _module_or_none(self, name: str) -> Module | None:
        """As `module`; None also for a file that cannot be read, unless it is a plug-in's."""
        try:
            return self.module(name)
        except InputError:
            if name in self._files:
                raise
            return None

    def _locate_top_level(self, first: str) -> Iterator[tuple[Path | None, list[Path]]]:
        """Files and folders of submodules of top-level modules of this name."""
        try:
            spec = importlib.util.find_spec(first)  # imports nothing for a top-level name
        except (ImportError, ValueError):
            spec = None
        if spec is not None:
            file = Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
            yield file, [Path(folder) for folder in spec.submodule_search_locations or ()]
        yield from _locate_in(first, self._folders)

    def _parse(self, name: str, file: Path) -> Module:
        shown = f"plug-in {file.name}" if name in self._files else str(file)
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
        except SyntaxError as error:
            raise InputError(
                f"{shown}, line {error.lineno}: not valid Python: {error.msg}"
            ) from error
        except (OSError, ValueError) as error:
            raise InputError(f"{shown} cannot be read as Python: {error}") from error
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        module = Module(name, package)
        for statement in _statements(tree.body):
            _record_bindings(statement, module)
        return module


@functools.cache
def get_sources(files: tuple[Path, ...] = ()) -> Sources:
    """The reader of these plug-in files and of installed modules."""
    return Sources(files)


def _locate_in(name: str, folders: list[Path]) -> Iterator[tuple[Path | None, list[Path]]]:
    """Files and folders of submodules of a module in one of these folders."""
    for folder in folders:
        if (folder / name / "__init__.py").is_file():
            yield folder / name / "__init__.py", [folder / name]
        elif (folder / f"{name}.py").is_file():
            yield folder / f"{name}.py", []
        elif (folder / name).is_dir():
            yield None, [folder / name]


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of the top level, including those inside `if`, `try` and `with`."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If | ast.Try | ast.With):
            for part in ("body", "handlers", "orelse", "finalbody"):
                for inner in getattr(statement, part, []):
                    yield from _statements(inner.body if part == "handlers" else [inner])


def _record_bindings(statement: ast.stmt, module: Module) -> None:
    """Record the names that a statement binds. The first binding of a name counts."""
    if isinstance(statement, ast.ClassDef):
        module.bind(module.classes, statement.name, statement)
    elif isinstance(statement, ast.Import):
        for name in statement.names:
            whole = (name.name, None) if name.asname else (name.name.split(".")[0], None)
            module.bind(module.imported, name.asname or whole[0], whole)
    elif isinstance(statement, ast.ImportFrom):
        origin = _resolve_origin(statement, module)
        for name in statement.names:
            if name.name == "*":
                module.stars.append(origin)
            else:
                module.bind(module.imported, name.asname or name.name, (origin, name.name))
    elif isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            if isinstance(target, ast.Name):
                module.bind(module.assigned, target.id, statement.value)


def _resolve_origin(statement: ast.ImportFrom, module: Module) -> str:
    """The module that `from ... import` names, dots resolved."""
    if not statement.level:
        return statement.module or ""
    parents = module.package.split(".")
    kept = parents[: len(parents) - statement.level + 1]
    return ".".join([*kept, *([statement.module] if statement.module else [])])


def _split_dotted(node: ast.expr) -> list[str]:
    """["a", "b", "C"] of a.b.C; nothing for another expression."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        front = _split_dotted(node.value)
        return [*front, node.attr] if front else []
    return []
