"""What an answer says and calls, shown while it is being made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mindformers.errors import ConfigError
from mindformers.tokenizer.tool_calls import (
    AnswerStream,
    Delta,
    ParsedAnswer,
    dialect_of,
    parse_answer,
)

_WHOLE = ("stop", "stop_string", "tool_calls")  # an answer that ended so is not broken off


class AnswerReader:
    """Reads one answer: its words go to ``show`` as they come, its calls are told at the end.

    Args:
        tokenizer: Tells how the model writes calls, and what belongs to the form of a turn.
        tools: Schemas of what may be called; none: all is words.
        show: Gets the words.

    Raises:
        ConfigError: If there are tools, and the model is of a family that cannot call them.
    """

    def __init__(
        self, tokenizer: Any, tools: Sequence[Mapping[str, Any]], show: Callable[[str], None]
    ) -> None:
        self._tokenizer, self._tools, self._show = tokenizer, tools, show
        self._shown = ""
        self._has_begun = False
        self._stream: AnswerStream | None = None
        if tools:
            if tokenizer.trims_answers:
                raise ConfigError("this model calls no tools", allowed="GLM-4 and later")
            self._dialect = dialect_of(tokenizer)
            self._stream = AnswerStream(tools, self._dialect)

    def feed(self, text: str) -> None:
        """Take more of the answer."""
        if self._stream is not None:
            self._show_deltas(self._stream.feed(text))
        else:
            if not self._has_begun:
                text = self._tokenizer.strip_answer(text, is_whole=False)
                self._has_begun = bool(text) or not self._tokenizer.trims_answers
            self._show_more(text)

    def close(self, text: str, finish_reason: str) -> ParsedAnswer:
        """End the answer; return what it says and calls. One that was broken off calls nothing.

        Args:
            text: All of the answer.
            finish_reason: Why it ended.
        """
        if self._stream is None:
            return ParsedAnswer(self._tokenizer.strip_answer(text), (), finish_reason)
        deltas, _ = self._stream.close(finish_reason)
        self._show_deltas(deltas)
        parsed = parse_answer(text, self._tools, finish_reason, self._dialect)
        if finish_reason not in _WHOLE:
            parsed = ParsedAnswer(text.removeprefix("\n"), (), finish_reason)
        if not parsed.tool_calls and parsed.content.startswith(self._shown):
            self._show_more(parsed.content[len(self._shown) :])  # what might have become a call
        return parsed

    def _show_deltas(self, deltas: Sequence[Delta]) -> None:
        for delta in deltas:
            self._show_more(delta.content)

    def _show_more(self, text: str) -> None:
        if text:
            self._shown += text
            self._show(text)
