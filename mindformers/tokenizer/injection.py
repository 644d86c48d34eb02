"""Keep text from becoming control tokens: mark what others wrote before a template adds its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from mindformers.errors import TokenizerError

MAX_DEPTH = 100

# Characters Unicode will never assign; when a text holds all 32, private ones follow, and no text
# holds all of those.
_SENTINELS = (*range(0xFDD0, 0xFDF0), *range(0xF0000, 0xF1000))


class TextMarker:
    """Break every special token that a text holds, or could complete at its edges.

    A token of the rendered prompt is then the template's own, because nobody else's survives. Case
    is ignored and blanks at the edges are looked through, so a template may change case or trim.
    Deleting characters inside a text is the one thing a template could do to undo a mark.

    Args:
        tokens: The texts of the special tokens.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        tokens = list(tokens)
        by_first: dict[str, list[str]] = {}
        for token in tokens:
            by_first.setdefault(token[0], []).append(token[1:])
        starts = (f"{re.escape(first)}(?={_any_of(rests)})" for first, rests in by_first.items())
        self._inside = re.compile("|".join(starts) or r"(?!)", re.IGNORECASE)
        lowered = [token.lower() for token in tokens]
        self._heads = _proper(lowered, lambda token, cut: token[:cut])
        self._tails = _proper(lowered, lambda token, cut: token[cut:])
        self._fragments = frozenset(
            token[i:j]
            for token in lowered
            for i in range(len(token))
            for j in range(i + 1, len(token) + 1)
        )
        self._longest = max(map(len, lowered), default=0)

    def mark(self, text: str, sentinel: str) -> str:
        """Return ``text`` with ``sentinel`` in whatever could be part of a special token."""
        core = text.strip()
        if not core:
            return text
        lead = len(text) - len(text.lstrip())
        after = sentinel if core[-self._longest :].lower().endswith(self._heads) else ""
        start = core[: self._longest].lower()
        before = (
            sentinel if start.startswith(self._tails) or core.lower() in self._fragments else ""
        )
        marked = self._inside.sub(lambda match: match.group() + sentinel, core)
        return text[:lead] + before + marked + after + text[lead + len(core) :]


def _any_of(texts: Iterable[str]) -> str:
    return "|".join(map(re.escape, texts))


def _proper(tokens: Iterable[str], part: Callable[[str, int], str]) -> tuple[str, ...]:
    return tuple({part(token, cut) for token in tokens for cut in range(1, len(token))})


def strings_in(value: Any, where: str = "", depth: int = 0) -> Iterator[str]:
    """Yield every string of a JSON-like value, keys included.

    Raises:
        TokenizerError: If it is nested beyond ``MAX_DEPTH`` or holds something JSON has no form
            for.
    """
    if isinstance(value, str):
        yield value
        return
    if depth > MAX_DEPTH:
        raise TokenizerError(f"nested deeper than {MAX_DEPTH} levels", where=where)
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from strings_in(key, where, depth + 1)
            yield from strings_in(item, where, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings_in(item, where, depth + 1)
    elif value is not None and not isinstance(value, bool | int | float):
        raise TokenizerError(
            f"holds a {type(value).__name__}",
            where=where,
            allowed="strings, numbers, true, false, null, lists, objects",
        )


def map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """Return a JSON-like value with ``change`` applied to every string, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {map_strings(key, change): map_strings(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [map_strings(item, change) for item in value]
    return value


def choose_sentinel(texts: Iterable[str]) -> str:
    """Return a character that none of ``texts`` holds.

    Raises:
        TokenizerError: If the texts hold all 4,128 candidates.
    """
    present = set(chain.from_iterable(map(_candidates_in, texts)))
    for code in _SENTINELS:
        if chr(code) not in present:
            return chr(code)
    raise TokenizerError(
        "the conversation holds every character that could mark text as text",
        fix="remove the characters U+FDD0 to U+FDEF, which are no text",
    )


def _candidates_in(text: str) -> list[str]:
    return [] if text.isascii() else re.findall("[\ufdd0-\ufdef\U000f0000-\U000f0fff]", text)
