"""What a client gets of the engine's work: one body at the end, or server-sent events as it goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any, Protocol

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from mindformers.generation.request import Chunk, Request, Usage
from mindformers.serving.connection import EventStream, while_connected
from mindformers.serving.errors import ApiError, failed
from mindformers.serving.run import Run
from mindformers.serving.service import Service

_PING = b": still working\n\n"
_DONE = b"data: [DONE]\n\n"


class Answer(Protocol):
    """The form of a request's answers."""

    def whole(self, chunks: Iterable[Chunk], usage: Usage) -> dict[str, Any]:
        """Return the body of answers that have ended."""

    def first(self) -> Iterable[dict[str, Any]]:
        """Return the bodies a stream begins with."""

    def parts(self, chunk: Chunk) -> Iterable[dict[str, Any]]:
        """Return the bodies of what is new in one answer."""

    def last(self, usage: Usage) -> Iterable[dict[str, Any]]:
        """Return the bodies after the end of all answers."""


async def reply(
    service: Service,
    wanted: Sequence[Request],
    answer: Answer,
    http: HttpRequest,
    *,
    as_stream: bool,
) -> Response:
    """Let the engine work and return what it says; the work ends when the client goes away.

    Args:
        service: Whose engine.
        wanted: One request of the engine for each prompt, with as many answers each.
        answer: Gives the answers their form.
        http: The client's request.
        as_stream: Whether to send them as they are written.

    Raises:
        ApiError: As ``Run``.
        MindFormersError: As ``Run``.
    """
    run = Run(service, wanted, http.state)
    if as_stream:
        return EventStream(events(run, answer), run)
    try:
        chunks = await while_connected(run.read_all(), http.receive)
        # Log probabilities of many tokens take long to write: others' streams must not wait for it.
        return await asyncio.to_thread(lambda: JSONResponse(answer.whole(chunks, run.usage)))
    finally:
        run.close()


async def events(run: Run, answer: Answer) -> AsyncGenerator[bytes, None]:
    """Yield the events of a run up to ``[DONE]``, those that are there at once as one piece.

    An error on the way is one of them.
    """
    try:
        yield b"".join(map(event, answer.first()))
        while (chunks := await run.read()) is not None:
            yield b"".join(event(body) for c in chunks for body in answer.parts(c)) or _PING
        yield b"".join(map(event, answer.last(run.usage)))
    except ApiError as error:
        yield event(error.body)
    except Exception as error:
        yield event(failed(error).body)
    yield _DONE


def event(body: Any) -> bytes:
    """Return one event."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode()
