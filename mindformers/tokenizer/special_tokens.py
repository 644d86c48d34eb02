"""Special tokens: their texts, their ids, and where they stand in a string."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from mindformers.errors import TokenizerError


class Segment(NamedTuple):
    """A stretch of a prompt: ordinary text, or exactly one special token."""

    text: str
    is_control: bool


@dataclass(frozen=True)
class AddedToken:
    """A token beside the byte-pair vocabulary.

    Args:
        content: Its text.
        id: Its id, at or above the number of ranks.
        special: False for a marker that belongs to the answer (``<think>``): decoding never skips
            it.
    """

    content: str
    id: int
    special: bool = True


class SpecialTokens:
    """The table of special tokens, by text and by id.

    Args:
        tokens: The tokens; texts and ids must be unique.

    Raises:
        TokenizerError: If a text is empty or stands twice, or two texts share an id.
    """

    def __init__(self, tokens: Iterable[AddedToken]) -> None:
        self.by_text: dict[str, AddedToken] = {}
        self.by_id: dict[int, AddedToken] = {}
        for token in tokens:
            other = self.by_id.get(token.id) or self.by_text.get(token.content)
            if not token.content or other is not None:
                raise TokenizerError(
                    f"special token {token.content!r} with id {token.id} "
                    + (f"collides with {other.content!r} ({other.id})" if other else "has no text"),
                    fix="correct added_tokens_decoder in tokenizer_config.json",
                )
            self.by_text[token.content] = token
            self.by_id[token.id] = token
        longest_first = sorted(self.by_text, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def split(self, text: str) -> Iterator[Segment]:
        """Yield the stretches of ``text`` in order, special tokens apart; none is empty."""
        end = 0
        for match in self._pattern.finditer(text):
            if match.start() > end:
                yield Segment(text[end : match.start()], False)
            yield Segment(match.group(), True)
            end = match.end()
        if end < len(text):
            yield Segment(text[end:], False)


def build_special_tokens(
    num_ranks: int,
    family: Iterable[str],
    added_tokens_decoder: Mapping[Any, Any] | None = None,
    extra: Iterable[str] = (),
) -> SpecialTokens:
    """Number a family's special tokens from ``num_ranks`` on, then add what the model folder names.

    Args:
        num_ranks: Size of the byte-pair vocabulary.
        family: Texts every model of the family has, in id order.
        added_tokens_decoder: ``{id: {"content": text, "special": bool}}`` of tokenizer_config.json.
        extra: Further texts (``additional_special_tokens``); new ones take the next free ids.

    Raises:
        TokenizerError: If the folder's ids do not fit the vocabulary.
    """
    tokens = {text: AddedToken(text, num_ranks + offset) for offset, text in enumerate(family)}
    for token in _declared(added_tokens_decoder or {}):
        known = tokens.get(token.content)
        if known is not None and known.id != token.id:
            raise TokenizerError(
                f"tokenizer_config.json gives {token.content!r} the id {token.id}, "
                f"but with the {num_ranks} ranks of this vocabulary it is {known.id}",
                fix="tokenizer.model and tokenizer_config.json must come from the same model",
            )
        if token.id < num_ranks:
            raise TokenizerError(
                f"{token.content!r} has the id {token.id}, which is an ordinary token's",
                where="tokenizer_config.json",
                allowed=f"ids from {num_ranks} on",
            )
        tokens[token.content] = token if known is None else known
    free = max((token.id for token in tokens.values()), default=num_ranks - 1) + 1
    for text in extra:
        if text not in tokens:
            tokens[text] = AddedToken(text, free)
            free += 1
    return SpecialTokens(tokens.values())


def _declared(decoder: Mapping[Any, Any]) -> Iterator[AddedToken]:
    for key, entry in decoder.items():
        content = (
            entry.get("content") if isinstance(entry, Mapping) else getattr(entry, "content", entry)
        )
        if not isinstance(content, str) or not str(key).isdigit():
            raise TokenizerError(
                f"added_tokens_decoder has {key!r}: {entry!r}",
                allowed='an id and {"content": "text", "special": true}',
            )
        special = entry.get("special", True) if isinstance(entry, Mapping) else True
        yield AddedToken(content, int(key), bool(special))
