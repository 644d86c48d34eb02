"""Packages that only some runs have: imported on use, with the pip line when they are not there."""

from __future__ import annotations

import importlib
from types import ModuleType

from mindformers.errors import MissingExtraError


def import_extra(name: str, purpose: str, extra: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        name: The module.
        purpose: What it is for, in the user's words.
        extra: The extra of this package that brings it.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise MissingExtraError(
            f"{purpose} needs {package}, which is not installed",
            fix=f"run: pip install 'mindformers[{extra}]'",
        ) from error
