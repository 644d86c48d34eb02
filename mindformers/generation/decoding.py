"""Token ids to text, one id at a time.

Only whole characters come out: never U+FFFD for one whose bytes are still to come or never came.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

from mindformers.errors import GenerationError

_BROKEN = "\ufffd"


class TextDecoder(Protocol):
    """What turns ids into text piece by piece."""

    def put(self, token_id: int) -> str:
        """Take one id; return the characters it completes, possibly none."""

    def flush(self) -> str:
        """End the text: return what was held back and drop an unfinished character."""


def open_decoder(
    tokenizer: Any,
    skip_special_tokens: bool = False,
    decode_kwargs: dict[str, Any] | None = None,
    shown: Sequence[str] = (),
) -> TextDecoder:
    """Return a decoder of one answer.

    Args:
        tokenizer: One with ``stream_decoder(skip_special_tokens=...)``, else one with ``decode``.
        skip_special_tokens: Leave control tokens out of the text.
        decode_kwargs: Further arguments of ``tokenizer.decode``; when given, that is used.
        shown: Control tokens that are not left out; for the library's own tokenizers.

    Raises:
        GenerationError: If the tokenizer has neither.
    """
    if hasattr(tokenizer, "stream_decoder") and not decode_kwargs:
        options: dict[str, Any] = {"skip_special_tokens": skip_special_tokens}
        if shown:
            options.update(shown=shown, spaces_between_special_tokens=False)
        decoder = tokenizer.stream_decoder(**options)
        return _TokenizerDecoder(decoder, special_ids(tokenizer))
    if not hasattr(tokenizer, "decode"):
        raise GenerationError(
            f"an object of type {type(tokenizer).__name__} cannot turn ids into text",
            where="tokenizer",
            allowed="an object with decode(ids) or stream_decoder()",
        )
    return _WindowDecoder(
        tokenizer, {"skip_special_tokens": skip_special_tokens, **(decode_kwargs or {})}
    )


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Return the ids of a tokenizer's control tokens; none when it does not name them."""
    table = getattr(tokenizer, "special_tokens", None)
    ids = table.values() if isinstance(table, dict) else getattr(tokenizer, "all_special_ids", ())
    return frozenset(int(number) for number in ids)


class _TokenizerDecoder:
    """The tokenizer's own decoder, made to drop unfinished characters."""

    def __init__(self, decoder: TextDecoder, special: Collection[int]) -> None:
        self._decoder, self._special = decoder, special

    def put(self, token_id: int) -> str:
        # A character left unfinished before a control token stays so.
        before = self.flush() if token_id in self._special else ""
        return before + self._decoder.put(token_id)

    def flush(self) -> str:
        return self._decoder.flush().rstrip(_BROKEN)


class _WindowDecoder:
    """Any tokenizer's ``decode`` over a short window: the text one more id adds to the last."""

    def __init__(self, tokenizer: Any, decode_kwargs: dict[str, Any]) -> None:
        self._tokenizer, self._kwargs = tokenizer, decode_kwargs
        self._ids: list[int] = []
        self._context = 0  # ids before this one are of no use any more
        self._shown = 0  # ids before this one are in the text given out

    def put(self, token_id: int) -> str:
        self._ids.append(token_id)
        before, after = self._decode(self._shown), self._decode(len(self._ids))
        if after.endswith(_BROKEN) or len(after) <= len(before):
            return ""
        self._context, self._shown = self._shown, len(self._ids)
        return after[len(before) :]

    def flush(self) -> str:
        before, after = self._decode(self._shown), self._decode(len(self._ids))
        self._ids, self._context, self._shown = [], 0, 0
        return after[len(before) :].rstrip(_BROKEN)

    def _decode(self, end: int) -> str:
        ids = self._ids[self._context : end]
        return str(self._tokenizer.decode(ids, **self._kwargs)) if ids else ""
