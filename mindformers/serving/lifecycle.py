"""The server from its start to its end: on SIGTERM running answers may end, a second signal ends all at once."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from mindformers.logger import logger
from mindformers.machine import open_files
from mindformers.serving.address import OPEN_FILES
from mindformers.serving.service import Service

_IDLE_SECONDS = 30  # of a connection without a request, or with one whose headers are not complete
_LAST_SECONDS = 5  # in which answers that were cut tell their clients so


class Server(uvicorn.Server):
    """uvicorn, with an end of our own.

    While running answers end, the server goes on listening: ``/health`` says 503, so that whoever
    shares the load out looks elsewhere, and new requests get 503 too.

    Args:
        app: The application.
        service: Tells what runs.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        # Of the files, three quarters for requests under way, a sixteenth for connections that may get a 503, an
        # eighth for those the loop accepts in one go: one that finds no file for a connection stumbles.
        files = open_files(OPEN_FILES) or OPEN_FILES
        most_requests, self._most_connections = files * 3 // 4, files * 13 // 16
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                proxy_headers=False,
                server_header=False,
                http=self._protocol(),
                backlog=files // 8,
                timeout_keep_alive=_IDLE_SECONDS,
                timeout_graceful_shutdown=_LAST_SECONDS,
            )
        )
        # Its own lines tell of requests that are none; ours has one for each that is.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self._service = service
        service.is_full = lambda: len(self.server_state.tasks) > most_requests
        self._ends: float | None = None
        # When each connection was first seen without a request, and after which.
        self._idle: dict[tuple[Any, Any], float] = {}

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end, or, at the second signal, end at once."""
        if self._service.is_stopping:
            os._exit(128 + sig)
        self._service.is_stopping = True

    async def on_tick(self, counter: int) -> bool:
        """Tell whether to end, asked ten times a second."""
        is_over = await super().on_tick(counter)
        self._close_idle()
        if not self._service.is_stopping:
            return is_over
        if self._ends is None:
            seconds = self._service.settings.drain_timeout
            self._ends = time.monotonic() + seconds
            logger.info("ending; %d requests run and get %g s", self._service.running, seconds)
        return not self._service.running or time.monotonic() >= self._ends

    def _protocol(self) -> type[H11Protocol]:
        """Return the class of a connection: uvicorn's, that makes room where there are too many.

        h11 wherever the server runs: it bounds a request's headers, which others do not.
        """
        server = self

        class Connection(H11Protocol):
            def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
                super().connection_made(transport)
                if len(self.connections) > server._most_connections:
                    server._close_idle()

        return Connection

    def _close_idle(self) -> None:
        """Close connections that have had no request for too long, and of too many the oldest."""
        now = time.monotonic()
        connections: list[Any] = list(self.server_state.connections)
        waiting = [
            (each, each.cycle)
            for each in connections
            if each.cycle is None or each.cycle.response_complete
        ]
        self._idle = {each: self._idle.get(each, now) for each in waiting}
        oldest = sorted(self._idle, key=self._idle.__getitem__)
        surplus = max(0, len(connections) - self._most_connections)
        for place, each in enumerate(oldest):
            if place < surplus or now - self._idle[each] > _IDLE_SECONDS:
                each[0].transport.close()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Cut what still runs and close the connections."""
        if self._service.running:
            logger.warning("%d requests did not end in time and are cut", self._service.running)
        self._service.engine.close()
        await super().shutdown(sockets)
        logger.info("ended")
