"""Which modules of this package a module needs, read from the source text without importing anything."""

from __future__ import annotations

import ast
import sys
from importlib.util import resolve_name
from pathlib import Path

PACKAGE = __name__.partition(".")[0]
ROOT = Path(__file__).parent


def source_of(module: str) -> Path:
    """Return the file of a module of this package: `NAME.py`, or a subpackage's `__init__.py`.

    Raises:
        ValueError: there is no such module.
    """
    path = ROOT.joinpath(*module.split(".")[1:])
    for file in (path.with_suffix(".py") if path != ROOT else path, path / "__init__.py"):
        if file.is_file():
            return file
    raise ValueError(f"{module}: no such module in {ROOT}")


def module_of(target: str) -> str:
    """Return the module that a dotted name such as `pipeline.networks.UNet3D` lies in.

    Raises:
        ValueError: no module of this package fits.
    """
    module = target
    while "." in (module := module.rpartition(".")[0]):
        if _is_module(module):
            return module
    raise ValueError(f"{target}: not in a module of {PACKAGE}")


def needed_modules(modules: set[str]) -> set[str]:
    """Return these modules and all modules of this package that they import, directly or not, anywhere in their text.

    The package's own `__init__` is never among them: a copy of the modules gets one of its own.

    Raises:
        ValueError: a module imports a name from the package itself, or the package by its absolute name.
    """
    needed: set[str] = set()
    waiting = set(modules)
    while waiting:
        module = waiting.pop()
        needed.add(module)
        parents = {module.rpartition(".")[0]} - {PACKAGE}
        waiting |= (parents | {name for name in _imports(module) if _is_own(name)}) - needed
    return needed


def foreign_packages(modules: set[str]) -> dict[str, str]:
    """Return what modules import from outside this package and the standard library, each with a module that does."""
    found: dict[str, str] = {}
    for module in sorted(modules):
        names = {name.partition(".")[0] for name in _imports(module) if not _is_own(name)}
        found |= dict.fromkeys(names - sys.stdlib_module_names, module)
    return found


def _is_own(module: str) -> bool:
    return module == PACKAGE or module.startswith(f"{PACKAGE}.")


def _is_module(module: str) -> bool:
    try:
        return source_of(module).is_file()
    except ValueError:
        return False


def _imports(module: str) -> set[str]:
    """Return the absolute names of the modules that a module of this package imports."""
    path = source_of(module)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in _run_time_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            found |= _relative_imports(node, package, f"{path}:{node.lineno}")
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else {node.module or ""}
            if any(_is_own(name) for name in names):
                raise ValueError(f"{path}:{node.lineno}: names {PACKAGE}; a copy of the module needs a relative import")
            found |= names
    return found


def _relative_imports(node: ast.ImportFrom, package: str, place: str) -> set[str]:
    """Return the modules that `from .base import name, ...` needs: `base.name` where that is one, else `base`."""
    base = resolve_name("." * node.level + (node.module or ""), package)
    found = set()
    for alias in node.names:
        inner = f"{base}.{alias.name}"
        if _is_module(inner):
            found.add(inner)
        elif base != PACKAGE:
            found.add(base)
        elif alias.name != "__version__":
            raise ValueError(f"{place}: imports {alias.name} from {PACKAGE} itself, whose __init__ is not copied")
    return found


def _run_time_nodes(node: ast.AST) -> list[ast.AST]:
    """Return all nodes below one except what stands under `if TYPE_CHECKING`."""
    found = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        found += [child, *_run_time_nodes(child)]
    return found
