"""``ChatPrompts``: prompts of a chat template as texts, and back to ids without believing what a text says.

The harness carries prompts as texts. A control token in one must come from the template, never from a
question that spells it; so the segments of each prompt that was rendered are kept by its text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mindformers.errors import TokenizerError

_ANSWER = "<|assistant|>"


class ChatPrompts:
    """Renders conversations and encodes what was rendered.

    Args:
        tokenizer: Has ``render`` and ``encode_segments``.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self._start = "".join(tokenizer.convert_ids_to_tokens(tokenizer.get_prefix_tokens()))
        self._known: dict[str, list[Any]] = {}  # text up to the last <|assistant|> -> segments

    def render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool) -> str:
        """Return a conversation as text; one that waits for an answer ends with the newline of its form."""
        segments = self.tokenizer.render(messages, add_generation_prompt=add_generation_prompt)
        places = [i for i, each in enumerate(segments) if each.is_control and each.text == _ANSWER]
        end = places[-1] + 1 if places else 0
        text = "".join(each.text for each in segments[:end])
        if text:
            self._known[text] = segments[:end]
        rest = "".join(each.text for each in segments[end:])
        return text + (rest or ("\n" if add_generation_prompt else ""))

    def encode(self, text: str) -> list[int] | None:
        """Return the ids of a text that begins with a rendered prompt, the rest being plain; None for others.

        Raises:
            TokenizerError: If it looks like a rendered prompt, but was not rendered here.
        """
        if not text.startswith(self._start):
            return None
        for found in reversed(list(re.finditer(re.escape(_ANSWER), text))):
            segments = self._known.get(text[: found.end()])
            if segments is not None:
                ids = list(self.tokenizer.encode_segments(segments))
                rest = self.tokenizer(text[found.end() :], add_special_tokens=False)["input_ids"]
                return ids + list(rest)
        if not self._start:
            return None
        raise TokenizerError(
            f"a prompt that begins with {self._start} was not rendered in this process",
            where="lm_eval", fix="run without --cache_requests",
        )  # fmt: skip
