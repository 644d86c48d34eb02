"""Packages that only some runs have: imported on use, with one hint when they are not there."""

from __future__ import annotations

import importlib
from types import ModuleType

from mindformers.errors import MissingExtraError
from mindformers.logger import logger

PIP_LINE = "pip install 'mindformers[viz]'"
_hinted: set[str] = set()


def import_viz(name: str, purpose: str) -> ModuleType:
    """Import a package of the ``viz`` extra.

    Args:
        name: The module.
        purpose: What it is for, in the user's words.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise MissingExtraError(
            f"{purpose} needs {package}, which is not installed", fix=f"run: {PIP_LINE}"
        ) from error


def viz_or_hint(name: str, purpose: str) -> ModuleType | None:
    """Import a package of the ``viz`` extra, or log one line about it and return None."""
    try:
        return import_viz(name, purpose)
    except MissingExtraError as error:
        if purpose not in _hinted:
            _hinted.add(purpose)
            logger.info("%s", error)
        return None
