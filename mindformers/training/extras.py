"""Packages that only some runs have: imported on use, with one hint when they are not there."""

from __future__ import annotations

from types import ModuleType

from mindformers.errors import MissingExtraError
from mindformers.extras import import_extra
from mindformers.logger import logger

_hinted: set[str] = set()


def import_viz(name: str, purpose: str) -> ModuleType:
    """Import a module of the ``viz`` extra; see ``import_extra``."""
    return import_extra(name, purpose, "viz")


def viz_or_hint(name: str, purpose: str) -> ModuleType | None:
    """Import a package of the ``viz`` extra, or log one line about it and return None."""
    try:
        return import_viz(name, purpose)
    except MissingExtraError as error:
        if purpose not in _hinted:
            _hinted.add(purpose)
            logger.info("%s", error)
        return None
