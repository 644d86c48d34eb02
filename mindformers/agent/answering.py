"""One answer of a model to a conversation, given out as it is made and stopped when nobody wants it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mindformers.agent.cached_model import ASSISTANT, Answer, CachedModel
from mindformers.generation.decoding import open_decoder
from mindformers.generation.stopping import CANCELLED
from mindformers.generation.streamer import BaseStreamer
from mindformers.models.text_model import turn_ends


class _StoppedError(Exception):
    """Leaves the token loop."""


class _Listener(BaseStreamer):
    """Turns ids into text and passes it on."""

    def __init__(
        self,
        tokenizer: Any,
        ends: Sequence[int],
        on_text: Callable[[str], None],
        is_unwanted: Callable[[], bool],
    ) -> None:
        self.text, self.num_prompt, self.num_made = "", 0, 0
        self._decoder = open_decoder(tokenizer, skip_special_tokens=True)
        self._assistant = tokenizer.special_tokens.get(ASSISTANT)
        self._ends, self._on_text, self._is_unwanted = frozenset(ends), on_text, is_unwanted

    def put(self, value: Any) -> None:
        """Take the prompt's ids, then those of each step."""
        ids = np.atleast_1d(np.asarray(value)).tolist()
        if not self.num_prompt:
            self.num_prompt = len(ids)
            return
        self.num_made += len(ids)
        self.put_text("".join(self._text_of(token) for token in ids if token not in self._ends))
        if self._is_unwanted():
            raise _StoppedError

    def _text_of(self, token: int) -> str:
        if token == self._assistant:
            return self._decoder.flush() + ASSISTANT
        return self._decoder.put(token)

    def put_text(self, text: str) -> None:
        """Take text that ids cannot say."""
        if text:
            self.text += text
            self._on_text(text)

    def end(self) -> None:
        """Pass on what was held back."""
        self.put_text(self._decoder.flush())

    def fail(self, error: BaseException) -> None:
        """Drop an unfinished character."""
        del error


def answer(
    network: Any,
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    on_text: Callable[[str], None] = lambda text: None,
    is_unwanted: Callable[[], bool] = lambda: False,
    seed: int | None = None,
    **settings: Any,
) -> Answer:
    """Answer a conversation.

    Args:
        network: A model with ``generate``, or a ``CachedModel``.
        tokenizer: Its tokenizer.
        messages: The conversation; not changed.
        tools: Schemas the chat template shows.
        on_text: Gets the text as it comes.
        is_unwanted: Asked after every token; True ends the answer as ``cancelled``.
        seed: Seed of the draws.
        **settings: Fields of ``GenerationConfig``.

    Raises:
        MindFormersError: If the conversation or a setting cannot be used.
    """
    segments = tokenizer.render(messages, tools=tools or None, add_generation_prompt=True)
    prompt = tokenizer.encode_segments(segments)
    ends = turn_ends(network, tokenizer)
    settings = {"eos_token_id": ends, "allowed_vocab_size": len(tokenizer), **settings}
    if isinstance(network, CachedModel):
        return network.answer(prompt, settings, seed, on_text, is_unwanted)
    listener = _Listener(tokenizer, ends, on_text, is_unwanted)
    started, drafted, accepted = time.monotonic(), 0, 0
    try:
        output = network.generate(
            [prompt],
            seed=seed,
            streamer=listener,
            tokenizer=tokenizer,
            **{**settings, "return_dict_in_generate": True},
        )
        reason = output.finish_reasons[0]
        drafted, accepted = sum(output.num_drafted), sum(output.num_accepted)
    except _StoppedError:
        reason = CANCELLED
    return Answer(
        listener.text,
        reason,
        listener.num_prompt,
        listener.num_made,
        time.monotonic() - started,
        drafted_tokens=drafted,
        accepted_tokens=accepted,
    )
