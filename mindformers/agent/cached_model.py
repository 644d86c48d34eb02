"""A model behind an engine: what a prompt has in common with earlier ones is not read again."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mindformers.generation.config import GenerationConfig
from mindformers.generation.request import Chunk, Request
from mindformers.generation.serving_engine import open_engine
from mindformers.models.text_model import is_length_open, open_length

ASSISTANT = "<|assistant|>"  # between the calls of one turn
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Args:
        text: All of it, ``<|assistant|>`` between the parts of a turn, no other control token.
        finish_reason: ``stop``, ``length``, ``tool_calls``, ``stop_string`` or ``cancelled``.
        prompt_tokens: Tokens that were read.
        completion_tokens: Tokens that were made, the end token included.
        seconds: From the question to the last token.
        cached_tokens: Of the prompt's, those that did not have to be computed again.
        drafted_tokens: Guesses that were read.
        accepted_tokens: Of them right: tokens of the answer that took no step of their own.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    cached_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0


class CachedModel:
    """Answers one prompt after another; in a conversation each begins with all that was said before.

    Args:
        network: A model that can answer through an engine, as ``open_in_files`` and ``AutoModel`` give.
        tokenizer: Its tokenizer.

    Raises:
        GenerationError: If the model cannot answer in steps.
    """

    def __init__(self, network: Any, tokenizer: Any) -> None:
        self.network, self.config = network, network.config
        self._shown = (ASSISTANT,) if ASSISTANT in tokenizer.special_tokens else ()
        self._engine = open_engine(network, tokenizer)

    def generation_defaults(self) -> GenerationConfig:
        """Return the model's own settings."""
        found: GenerationConfig = self.network.generation_defaults()
        return found

    def answer(
        self,
        prompt: Sequence[int],
        settings: dict[str, Any],
        seed: int | None,
        on_text: Callable[[str], None],
        is_unwanted: Callable[[], bool],
    ) -> Answer:
        """Answer a prompt; arguments as of ``answering.answer``, the prompt as ids.

        Raises:
            GenerationError: If the prompt or a setting cannot be used.
        """
        config = self.generation_defaults().merged(**settings)
        if is_length_open(config, settings):
            config.update(max_new_tokens=open_length(len(prompt), self.config.seq_length))
        chunks: queue.SimpleQueue[Chunk | BaseException | None] = queue.SimpleQueue()
        text, reason, is_cancelled, started = "", "", False, time.monotonic()
        handle = self._engine.submit(Request(prompt, config, seed=seed, shown=self._shown))
        handle.listen(chunks.put)
        try:
            while (chunk := _next(chunks)) is not None:
                if isinstance(chunk, Chunk):
                    text, reason = text + chunk.text, chunk.finish_reason
                    if chunk.text:
                        on_text(chunk.text)
                if not is_cancelled and is_unwanted():
                    handle.cancel()
                    is_cancelled = True
        except BaseException:
            handle.cancel()
            raise
        usage = handle.usage
        return Answer(
            text,
            reason,
            usage.prompt_tokens,
            usage.completion_tokens,
            time.monotonic() - started,
            usage.cached_tokens,
            usage.drafted_tokens,
            usage.accepted_tokens,
        )

    def close(self) -> None:
        """End the engine."""
        self._engine.close()


class _Waiting:
    """Nothing has come yet."""


def _next(chunks: queue.SimpleQueue[Chunk | BaseException | None]) -> Chunk | _Waiting | None:
    """Return the next chunk, None at the end; raises an error that comes instead."""
    try:
        found = chunks.get(timeout=_POLL_SECONDS)
    except queue.Empty:
        return _Waiting()
    if isinstance(found, BaseException):
        raise found
    return found
