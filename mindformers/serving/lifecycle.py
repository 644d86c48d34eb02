"""The server from its start to its end: on SIGTERM running answers may end, a second signal ends all at once."""

from __future__ import annotations

import logging
import os
import socket
import time
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from mindformers.logger import logger
from mindformers.serving.service import Service

_MAX_CONNECTIONS = 768  # a process may have 1024 files open where nobody says otherwise
_KEEP_ALIVE_SECONDS = 30
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
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                proxy_headers=False,
                server_header=False,
                limit_concurrency=_MAX_CONNECTIONS,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_LAST_SECONDS,
            )
        )
        # Its own lines tell of requests that are none; ours has one for each that is.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self._service = service
        self._ends: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end, or, at the second signal, end at once."""
        if self._service.is_stopping:
            os._exit(128 + sig)
        self._service.is_stopping = True

    async def on_tick(self, counter: int) -> bool:
        """Tell whether to end, asked ten times a second."""
        is_over = await super().on_tick(counter)
        if not self._service.is_stopping:
            return is_over
        if self._ends is None:
            seconds = self._service.settings.drain_timeout
            self._ends = time.monotonic() + seconds
            logger.info("ending; %d requests run and get %g s", self._service.running, seconds)
        return not self._service.running or time.monotonic() >= self._ends

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Cut what still runs and close the connections."""
        if self._service.running:
            logger.warning("%d requests did not end in time and are cut", self._service.running)
        self._service.engine.close()
        await super().shutdown(sockets)
        logger.info("ended")
