"""A file of a user's Python functions as tools."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from types import ModuleType

from mindformers.agent.function_tool import FunctionTool
from mindformers.errors import ConfigError


def load_tools(path: str | Path) -> list[FunctionTool]:
    """Return the tools of a Python file: what ``__all__`` names, else the functions written in it.

    Names that begin with ``_`` and functions the file imports are no tools. The file is run as any
    other module, and may import its neighbours.

    Raises:
        ConfigError: If the file cannot be run, or holds no function a model can call.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError("no such file", where=str(path), allowed="a Python file with functions")
    module = _run(path)
    named = getattr(module, "__all__", None)
    names = list(named) if named is not None else [n for n in vars(module) if n[:1] != "_"]
    found = []
    for name in names:
        value = getattr(module, name, None)
        is_own = inspect.isfunction(value) and value.__module__ == module.__name__
        if value is None or (named is not None and not callable(value)):
            raise ConfigError(f"__all__ names {name!r}, which is no function", where=str(path))
        if named is not None or is_own:
            found.append(FunctionTool(value))
    if not found:
        raise ConfigError(
            "holds no function that a model could call",
            where=str(path),
            fix="write one with type hints and a docstring; names that begin with _ are left out",
        )
    return found


def _run(path: Path) -> ModuleType:
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    name = f"tools_of_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError("is no Python file", where=str(path), allowed="a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(
            f"cannot be run: {type(error).__name__}: {error}", where=_place(error, path)
        ) from error
    return module


def _place(error: Exception, path: Path) -> str:
    """Return file and line of what went wrong, the deepest of them in the file itself."""
    if isinstance(error, SyntaxError):
        return f"{path}:{error.lineno}"
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename) == path
    ]
    return f"{path}:{lines[-1]}" if lines else str(path)
