"""Patterns on the names of weights: ``*`` stands for any text, ``?`` for one character, as in a shell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from mindformers.errors import ConfigError

Patterns = Sequence[str]


def matches(name: str, patterns: Patterns) -> bool:
    """Tell whether a name is that of any pattern."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def unmatched(patterns: Patterns, names: Iterable[str]) -> list[str]:
    """Return the patterns that name none of these weights."""
    known = list(names)
    return [each for each in patterns if not any(fnmatchcase(name, each) for name in known)]


def compiled(where: str, text: str) -> re.Pattern[str]:
    """Return a regular expression.

    Raises:
        ConfigError: If it is none.
    """
    try:
        return re.compile(text)
    except re.error as error:
        raise ConfigError(f"{text!r} is no regular expression: {error}", where=where) from error
