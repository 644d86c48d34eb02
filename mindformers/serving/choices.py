"""One answer while it is written: its text without the form of its turn, its calls apart from the text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mindformers.generation.request import Chunk
from mindformers.tokenizer.tool_calls import AnswerStream, Delta

_FINISH = {"stop_string": "stop"}  # OpenAI's names where they differ


class Choice:
    """An answer, piece by piece.

    Args:
        tokenizer: Knows what belongs to the form of a turn.
        calls: Finds calls in the text; None: all of it is text.
        is_parallel: Whether more than the first call is told of.
    """

    def __init__(
        self, tokenizer: Any, calls: AnswerStream | None = None, is_parallel: bool = True
    ) -> None:
        self._tokenizer, self._calls, self._is_parallel = tokenizer, calls, is_parallel
        self._has_begun = False
        self._blanks = ""  # held back where blanks around an answer are no part of it
        self.finish_reason: str | None = None

    def take(self, chunk: Chunk) -> list[Delta]:
        """Return what a chunk adds."""
        found = list(self._deltas(chunk))
        if chunk.finish_reason and self.finish_reason is None:
            self.finish_reason = _FINISH.get(chunk.finish_reason, chunk.finish_reason)
        return found

    def _deltas(self, chunk: Chunk) -> Iterator[Delta]:
        if self._calls is None:
            if text := self._shown(chunk.text):
                yield Delta(content=text)
            return
        pieces = self._calls.feed(chunk.text)
        if chunk.finish_reason:
            reason = _FINISH.get(chunk.finish_reason, chunk.finish_reason)
            rest, self.finish_reason = self._calls.close(reason)
            pieces = [*pieces, *rest]
        for piece in pieces:
            if self._is_parallel or not piece.index:
                yield piece

    def _shown(self, text: str) -> str:
        """Return what of a text is part of the answer."""
        if text and not self._has_begun:
            text = self._tokenizer.strip_answer(text, is_whole=False)
            self._has_begun = bool(text) or not self._tokenizer.trims_answers
        if not self._tokenizer.trims_answers:
            return text
        text = self._blanks + text
        shown = text.rstrip()
        self._blanks = text[len(shown) :]
        return shown
