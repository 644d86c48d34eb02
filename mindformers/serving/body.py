"""A request's body is read before anything looks at it: how long, how deep and in what form it is."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

import numpy as np
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mindformers.serving.errors import ApiError
from mindformers.serving.settings import Limits

_WITH_BODY = ("POST", "PUT", "PATCH")
# A text of JSON, an unfinished one to the end of the body: nothing is read twice.
_TEXT = re.compile(rb'"[^"\\]*(?:\\.?[^"\\]*)*(?:"|\Z)', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
MAX_PARTS = (
    50_000  # lists and objects of a body: to make many takes long, and streams wait meanwhile
)


class BodyGate:
    """Lets requests through whose body keeps the limits.

    Args:
        app: What comes next; it reads the body as if nobody had.
        limits: Of the body.

    Raises:
        ApiError: 408, 413, 415 or 400.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] not in _WITH_BODY:
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        _check_type(headers)
        try:
            body = await asyncio.wait_for(self._read(headers, receive), self._limits.body_timeout)
        except asyncio.TimeoutError:
            raise ApiError(
                408, f"the body did not arrive within {self._limits.body_timeout:g} seconds"
            ) from None
        if body is None:
            return  # nobody is there to answer any more
        check_json_bytes(body, self._limits.max_json_depth)
        await self._app(scope, _replay(body, receive), send)

    async def _read(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes | None:
        most = self._limits.max_body_bytes
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared[:20]) > most:
            raise _too_long(most)
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > most:
                raise _too_long(most)
            if not message.get("more_body", False):
                return bytes(body)


def check_json_bytes(body: bytes, most: int) -> None:
    """Refuse JSON nested deeper than ``most`` or of very many parts, and zero bytes, before it is parsed.

    Raises:
        ApiError: 400.
    """
    if b"\0" in body:
        raise ApiError(400, "the body is not JSON in UTF-8: it holds a zero byte")
    if body.count(b"[") + body.count(b"{") <= most:
        return
    marks = np.frombuffer(_TEXT.sub(b"", body).translate(None, _NO_BRACKETS), np.uint8)
    is_open = (marks == ord("[")) | (marks == ord("{"))
    if np.cumsum(np.where(is_open, 1, -1)).max(initial=0) > most:
        raise ApiError(400, f"the body is nested deeper than {most} levels, or is not JSON")
    if is_open.sum() > MAX_PARTS:
        raise ApiError(400, f"the body has more than {MAX_PARTS} lists and objects")


def _check_type(headers: Mapping[bytes, bytes]) -> None:
    """Take JSON only: other types are what a page elsewhere can send without the browser asking us."""
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        raise ApiError(
            415, "the body must be JSON: send the header 'Content-Type: application/json'"
        )


def _too_long(most: int) -> ApiError:
    return ApiError(413, f"the body has more than {most} bytes", code="request_too_large")


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives the body once and then what the connection says."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return pending.pop() if pending else await receive()

    return next_message
