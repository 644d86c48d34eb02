"""One request of a client while the engine works on it: its chunks, its tokens, its end."""

from __future__ import annotations

import time
from collections.abc import Sequence

from starlette.datastructures import State

from mindformers.generation.request import Chunk, EmbeddingRequest, Request, RequestHandle, Usage
from mindformers.serving.errors import failed, stopping, timed_out
from mindformers.serving.feed import Feed
from mindformers.serving.service import Service

_PING_SECONDS = 15.0  # a stream that says nothing for longer is cut by some proxies


class Run:
    """Prompts that were handed to the engine; has to be closed.

    Args:
        service: Whose engine answers.
        requests: One for each prompt, with as many answers each; or one for embeddings.
        state: Of the client's request; gets ``usage``.

    Raises:
        ApiError: 503, while the server ends.
        EngineBusyError: If no more can wait.
        GenerationError: If a request can never be answered.
    """

    def __init__(
        self, service: Service, requests: Sequence[Request | EmbeddingRequest], state: State
    ) -> None:
        if service.is_stopping:
            raise stopping()
        self._service, self._state = service, state
        self._handles: list[RequestHandle] = []
        self._seen = state.started
        self._has_begun = False
        service.running += 1
        try:
            for request in requests:
                self._handles.append(service.engine.submit(request))
            self._feed = Feed(self._handles, requests[0].num_answers, service.bell)
        except BaseException:
            self.close()
            raise

    async def read(self) -> list[Chunk] | None:
        """Wait for something new; return it, or nothing after a while, or None at the end.

        Answer i of prompt p has the index p * answers + i.

        Raises:
            ApiError: 500 if the model failed, 503 if the server ends, 504 if the time is over.
        """
        try:
            chunks = await self._feed.read(_PING_SECONDS)
        except Exception as error:
            raise failed(error) from error
        for chunk in chunks or ():
            if chunk.finish_reason == "timeout":
                raise timed_out(self._service.settings.limits.request_timeout)
            if chunk.finish_reason == "cancelled":
                raise stopping()
        if any(chunk.embedding is None for chunk in chunks or ()):
            self._time()
        return chunks

    async def read_all(self) -> list[Chunk]:
        """Wait for the end; return all there is.

        Raises:
            ApiError: As ``read``.
        """
        found: list[Chunk] = []
        while (chunks := await self.read()) is not None:
            found += chunks
        return found

    @property
    def usage(self) -> Usage:
        """The tokens of all prompts and answers so far."""
        total = Usage()
        for handle in self._handles:
            total.prompt_tokens += handle.usage.prompt_tokens
            total.cached_tokens += handle.usage.cached_tokens
            total.completion_tokens += handle.usage.completion_tokens
        return total

    def close(self) -> None:
        """Stop what still runs."""
        for handle in self._handles:
            handle.cancel()
        self._service.running -= 1
        self._state.usage = self.usage

    def _time(self) -> None:
        now, metrics = time.perf_counter(), self._service.metrics
        (metrics.token_gap if self._has_begun else metrics.first_token).observe(now - self._seen)
        self._seen, self._has_begun = now, True


def usage_body(usage: Usage) -> dict[str, object]:
    """Return the tokens of a request as OpenAI tells them."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
