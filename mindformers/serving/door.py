"""The first to see a request and the last to see its answer: who may in, one log line, the counters."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mindformers.logger import logger
from mindformers.serving.auth import ApiKeys, check_host
from mindformers.serving.errors import CLIENT_GONE, ApiError, failed, too_many
from mindformers.serving.service import Service

# Paths that are none of ours are not named: whoever asks writes them. The page's files go by one name.
_UNMATCHED, _PAGE = "other", "page"


class Door:
    """The outermost application.

    Args:
        app: What comes next.
        service: Counts.
        open_paths: Paths that need no key.
        is_local: Whether only this machine can reach the server.
    """

    def __init__(
        self, app: ASGIApp, service: Service, open_paths: Collection[str], is_local: bool
    ) -> None:
        self._app, self._service = app, service
        self._open_paths = frozenset(open_paths)
        self._keys = ApiKeys(service.settings.api_keys)
        self._checks_host = is_local and not self._keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; whatever fails on the way becomes an answer."""
        if scope["type"] != "http":
            raise RuntimeError(f"this server knows no {scope['type']}")
        started, status = time.perf_counter(), 0
        state = scope.setdefault("state", {})
        state["started"], state["request_id"] = started, uuid.uuid4().hex

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = (b"x-request-id", state["request_id"].encode())
                message = {**message, "headers": [*message["headers"], own]}
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, receive, answer)
        except ApiError as error:
            await error.response()(scope, receive, answer)
        except Exception as error:
            if not status:
                await failed(error).response()(scope, receive, answer)
        finally:
            self._record(scope, status, time.perf_counter() - started)

    def _check(self, scope: Scope) -> None:
        if self._service.is_full():
            raise too_many()
        headers = dict(scope["headers"])
        if self._checks_host:
            check_host(headers.get(b"host", b""))
        if scope["path"] not in self._open_paths:
            self._keys.check(headers.get(b"authorization", b""))

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        state = scope["state"]
        status = CLIENT_GONE if state.get("left") else status or CLIENT_GONE
        unnamed = _PAGE if scope["path"] in self._open_paths else _UNMATCHED
        route = getattr(scope.get("route"), "path", unnamed)
        metrics = self._service.metrics
        metrics.requests.labels(route, str(status)).inc()
        metrics.seconds.labels(route).observe(seconds)
        usage = state.get("usage")
        tokens = ""
        if usage is not None:
            tokens = f" {usage.prompt_tokens}+{usage.completion_tokens} tokens"
        client = scope["client"][0] if scope.get("client") else "-"
        logger.log(
            self._level(scope["path"], status), "%s %s %s %d %.0f ms%s %s",
            client, scope["method"][:16], route, status, seconds * 1000, tokens, state["request_id"],
        )  # fmt: skip

    def _level(self, path: str, status: int) -> int:
        """Return how loud to be: a page is dozens of files, a probe asks for ever; they only count."""
        return logging.DEBUG if path in self._open_paths and status < 400 else logging.INFO
