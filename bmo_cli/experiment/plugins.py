"""Load plug-ins, and report errors in them with file, line and function."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import bmo_cli
from bmo_cli.config.schema import plugin_files, plugin_module
from bmo_cli.errors import BmoError, InputError, PluginError, wrap_resource_error

_P = ParamSpec("_P")
_R = TypeVar("_R")


def load_plugins(plugins: Sequence[str]) -> Sequence[str]:
    """Import the plug-ins of the command line: a file under the name of its stem, or a module.

    Files may import one another and modules of their folders, in any order.

    Raises:
        InputError: a plug-in is missing, needs a missing module, or is not valid Python.
        PluginError: the code of a plug-in fails.
    """
    for file in plugin_files(plugins):
        if str(file.parent) not in sys.path:
            sys.path.append(str(file.parent))
    for plugin in plugins:
        if plugin.endswith(".py"):
            with explain_import_errors(plugin, plugins):
                _load_file(Path(plugin).resolve(), plugin_module(plugin))
        else:
            import_module(plugin, plugins)
    return plugins


def import_module(name: str, plugins: Sequence[str]) -> ModuleType:
    """Import a module that is a plug-in, or lies in a package that is one.

    Raises:
        InputError, PluginError: see `load_plugins`.
    """
    with explain_import_errors(name, plugins):
        return importlib.import_module(name)


@contextmanager
def explain_import_errors(plugin: str, plugins: Sequence[str]) -> Iterator[None]:
    """Context that converts errors of importing a plug-in to one line."""
    try:
        yield
    except Exception as error:
        if isinstance(wrap_resource_error(error), BmoError):
            raise
        raise _explain_import_failure(error, plugin, plugins) from error


def _load_file(file: Path, name: str) -> None:
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__file__", None) == str(file):
        return
    if loaded is not None or name in sys.stdlib_module_names:
        raise InputError(f"plug-in {file} has the name of another module, '{name}'; rename it")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]  # else the next import would return the incomplete module
        raise


def _explain_import_failure(error: Exception, plugin: str, plugins: Sequence[str]) -> BmoError:
    if isinstance(error, ModuleNotFoundError) and error.name:
        name, top = error.name, error.name.split(".")[0]
        if plugin_module(plugin) == name or plugin_module(plugin).startswith(f"{name}."):
            return InputError(
                f"plug-in {plugin} does not exist: no module '{name}' (a file of your own is named "
                "with its ending: plugins=[my_file.py])"
            )
        if name != top and importlib.util.find_spec(top) is not None:
            return InputError(f"plug-in {plugin} needs the module {name}, which {top} has not")
        return InputError(f"plug-in {plugin} needs the package {name}, which is not installed")
    if isinstance(error, SyntaxError):
        where = f"{_display_path(error.filename or plugin)}, line {error.lineno}"
        return InputError(f"plug-in {plugin}: {where}: not valid Python: {error.msg}")
    return plugin_error(error, locate_failure(error, plugins) or plugin)


class WithPlugins(Protocol):
    """A configuration, a run or its spec."""

    @property
    def plugins(self) -> Sequence[str]:
        """Plug-in files and modules."""


_W = TypeVar("_W", bound=WithPlugins)


def names_plugins(
    command: Callable[Concatenate[_W, _P], _R],
) -> Callable[Concatenate[_W, _P], _R]:
    """Decorator of a function of a run: errors in a plug-in name file, line and function.

    Errors that are one line already, and those of disk and memory, do not change.
    """

    @functools.wraps(command)
    def run(given: _W, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return command(given, *args, **kwargs)
        except Exception as error:
            place = locate_failure(error, given.plugins)
            if place is None or isinstance(wrap_resource_error(error), BmoError):
                raise
            raise plugin_error(error, place) from error

    return run


def plugin_error(error: Exception, place: str, more: str = "") -> PluginError:
    """The error about a failure in a plug-in.

    Args:
        error: raised in the plug-in.
        place: see `locate_failure`.
        more: end of the message.
    """
    detail = " ".join(str(error).split())
    return PluginError(f"{place}: {type(error).__name__}{f': {detail}' if detail else ''}{more}")


def locate_failure(error: BaseException, plugins: Sequence[str]) -> str | None:
    """`FILE, line N, in FUNCTION` of the innermost call of a plug-in; None: there is none.

    Modules in the folder of a plug-in file count as parts of the plug-in.
    """
    names = {plugin_module(plugin) for plugin in plugins}
    folders = {Path(plugin).resolve().parent for plugin in plugins if plugin.endswith(".py")}
    place = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        code, module = frame.f_code, str(frame.f_globals.get("__name__"))
        own = any(module == name or module.startswith(f"{name}.") for name in names)
        if own or _is_local_module(Path(code.co_filename), folders):
            place = f"{_display_path(code.co_filename)}, line {line}, in {code.co_name}"
    return place


def hash_plugins(plugins: Sequence[str]) -> dict[str, str]:
    """Hashes of every plug-in and of the modules that plug-in files import from their folders.

    For a module in a package the whole package is hashed, because the module may import from it.

    Args:
        plugins: plug-ins that are loaded, see `load_plugins`.

    Returns:
        The hashes by name of the module.
    """
    names = {plugin_module(plugin) for plugin in plugins}
    packages = {name.partition(".")[0] for name in names} - {bmo_cli.__name__}
    names |= packages & set(sys.modules)
    files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    folders = {file.parent for file in plugin_files(plugins)}
    local_modules = {
        name
        for name, file in files.items()
        if file is not None and _is_local_module(Path(file), folders)
    }
    return {name: _hash_module(sys.modules[name]) for name in sorted(names | local_modules)}


def _hash_module(module: ModuleType) -> str:
    """Hash of a module's file; for a package, of all files of its modules."""
    files = sorted(
        (file.relative_to(folder).as_posix(), file)
        for folder in getattr(module, "__path__", ())
        for file in Path(folder).rglob("*.py")
    )
    alone = getattr(module, "__file__", None)
    if not files and alone is not None:
        files = [("", Path(alone))]
    digest = hashlib.sha256()
    for where, file in files:
        if file.is_file():
            digest.update(f"{where} {hashlib.sha256(file.read_bytes()).hexdigest()} ".encode())
    return digest.hexdigest()[:16]


def _is_local_module(file: Path, folders: set[Path]) -> bool:
    """Whether a source file is in one of these folders, and not in Python, a package or bmo."""
    if not file.is_absolute() or not any(folder in file.parents for folder in folders):
        return False
    installed = {"site-packages", "dist-packages"} & set(file.parts)
    others = (Path(sysconfig.get_path("stdlib")), Path(bmo_cli.__file__).parent)
    return not installed and not any(other in file.parents for other in others)


def _display_path(file: str) -> str:
    """A path relative to the current folder if it lies below, else unchanged."""
    path = Path(file)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
