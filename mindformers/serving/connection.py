"""The other side of a request: work ends when it goes away, and a stream is written as it can take it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mindformers.serving.errors import ClientGoneError
from mindformers.serving.run import Run

T = TypeVar("T")
_HEADERS = {
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # nginx passes a stream on as it comes
}


async def while_connected(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """Run ``work`` until it is done or the client goes away.

    Raises:
        ClientGoneError: If it went; the work is cancelled.
    """
    running, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_leaving(receive))
    try:
        await asyncio.wait((running, leaving), return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            return running.result()
        raise ClientGoneError
    finally:
        for task in (running, leaving):
            task.cancel()
        await asyncio.gather(running, leaving, return_exceptions=True)


async def _leaving(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


# What a route that may answer so says in the description of the server.
OR_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer, or with stream its events",
        "content": {"text/event-stream": {}},
    }
}


class EventStream(Response):
    """Server-sent events.

    Args:
        events: What to send, each piece one or more whole events.
        run: Closed at the end, whatever ends it.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], run: Run) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._events, self._run = events, run

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end or the client goes away."""
        async with aclosing(self._events):
            try:
                await while_connected(self._send(send), receive)
            except ClientGoneError:
                scope["state"]["left"] = True
            finally:
                self._run.close()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for piece in self._events:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
