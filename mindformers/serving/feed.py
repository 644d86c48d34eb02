"""Chunks on their way from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from mindformers.generation.handle import PendingChunks
from mindformers.generation.request import Chunk, RequestHandle


class Bell:
    """Wakes readers on an event loop from other threads; those that are due together by one call.

    A step of the engine tells many requests at once. Each call into the loop costs its thread a turn.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._due: list[asyncio.Event] = []

    def ring(self, event: asyncio.Event) -> None:
        """Set an event, soon; from any thread."""
        with self._lock:
            self._due.append(event)
            is_first = len(self._due) == 1
        if is_first:
            with suppress(RuntimeError):  # the loop has ended: nobody reads any more
                self.loop.call_soon_threadsafe(self._set_all)

    def _set_all(self) -> None:
        with self._lock:
            due, self._due = self._due, []
        for event in due:
            event.set()


class Feed:
    """The answers of some requests, for one reader.

    What has not been read is joined, so that a slow reader neither holds the engine up nor has more
    in memory than its answers.

    Args:
        handles: Requests that run.
        answers: Answers of each.
        bell: Wakes the reader.
    """

    def __init__(self, handles: Sequence[RequestHandle], answers: int, bell: Bell) -> None:
        self._loop, self._bell = bell.loop, bell
        self._ready = asyncio.Event()
        self._lock = threading.Lock()
        self._pending: dict[int, PendingChunks] = {}
        self._open = set(range(len(handles)))
        self._error: BaseException | None = None
        self._handles = handles
        for place, handle in enumerate(handles):
            handle.listen(partial(self._take, place, place * answers))

    async def read(self, patience: float) -> list[Chunk] | None:
        """Wait for something new; return it, or nothing after so many seconds, or None at the end.

        Answer i of request p has the index p * answers + i.

        Raises:
            BaseException: A request's own error.
        """
        ends = self._loop.time() + patience
        while True:
            self._ready.clear()
            with self._lock:
                pending, self._pending = self._pending, {}
                is_over = not self._open
            if pending:
                return [new.chunk(index) for index, new in pending.items()]
            if self._error is not None:
                raise self._error
            if is_over or self._loop.time() >= ends:
                return None if is_over else []
            alarm = self._loop.call_at(ends, self._ready.set)
            await self._ready.wait()
            alarm.cancel()

    def cancel(self) -> None:
        """Stop what still runs."""
        for handle in self._handles:
            handle.cancel()

    def _take(self, place: int, first: int, item: Chunk | BaseException | None) -> None:
        """Take what the engine's thread gives; the reader is woken once for all it has not read."""
        with self._lock:
            is_awake = bool(self._pending)
            if isinstance(item, Chunk):
                self._pending.setdefault(first + item.index, PendingChunks()).add(item)
            else:
                self._open.discard(place)
                self._error = self._error or item
                is_awake = False
        if not is_awake:
            self._bell.ring(self._ready)
