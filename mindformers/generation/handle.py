"""What a request's owner holds: chunks as they come, from the engine's thread to any other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from mindformers.generation.array import Array
from mindformers.generation.request import Chunk, TokenLogprob, Usage
from mindformers.logger import logger

Callback = Callable[[Chunk | BaseException | None], None]


class PendingChunks:
    """Chunks of one answer that nobody has taken yet, as one: a slow reader holds up nobody."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.texts: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self.finish_reason = ""
        self.embedding: Array | None = None

    def add(self, chunk: Chunk) -> None:
        """Append a chunk."""
        self.tokens += chunk.tokens
        self.texts.append(chunk.text)
        self.logprobs += chunk.logprobs
        self.finish_reason, self.embedding = chunk.finish_reason, chunk.embedding

    def chunk(self, index: int) -> Chunk:
        """Return all of them as one."""
        text = "".join(self.texts)
        told = tuple(self.logprobs)
        return Chunk(index, tuple(self.tokens), text, self.finish_reason, told, self.embedding)


class Handle:
    """A request on its way; see ``RequestHandle``.

    Args:
        on_cancel: Tells the engine that nobody wants the answers any more.
    """

    def __init__(self, on_cancel: Callable[[Handle], None]) -> None:
        self.usage = Usage()
        self._on_cancel = on_cancel
        self._changed = threading.Condition(threading.RLock())
        self._pending: dict[int, PendingChunks] = {}
        self._error: BaseException | None = None
        self._has_ended = False
        self._callback: Callback | None = None

    def __iter__(self) -> Iterator[Chunk]:
        """Give chunks as they come, until all answers have ended; raises the request's own error."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._has_ended)
                if not self._pending:
                    break
                chunk = self._take()
            yield chunk
        if self._error is not None:
            raise self._error

    def listen(self, callback: Callback) -> None:
        """Instead of iterating: call back from the engine's thread.

        Args:
            callback: Gets every chunk; an error, if that ends the request; None at the end. What is there
                already it gets at once. It must return soon: the engine waits for it. One that raises
                cancels its request.
        """
        with self._changed:
            self._callback = callback
            self._tell()

    def cancel(self) -> None:
        """Stop: blocks are free within a step, and the answers end as ``cancelled``."""
        self._on_cancel(self)

    def put(self, chunk: Chunk) -> None:
        """Take a chunk of the engine's."""
        with self._changed:
            self._pending.setdefault(chunk.index, PendingChunks()).add(chunk)
            self._tell()

    def end(self, error: BaseException | None = None) -> None:
        """Take note that nothing more comes."""
        with self._changed:
            self._error, self._has_ended = error, True
            self._tell()

    def _take(self) -> Chunk:
        index = next(iter(self._pending))
        return self._pending.pop(index).chunk(index)

    def _tell(self) -> None:
        """Hand over what there is to who listens, or wake who iterates."""
        self._changed.notify_all()
        if self._callback is None:
            return
        try:
            while self._pending:
                self._callback(self._take())
            if self._has_ended:
                for last in (self._error, None) if self._error is not None else (None,):
                    self._callback(last)
                self._callback = None
        except Exception:
            # Its owner's fault must not end what others wait for.
            logger.exception("a request's listener failed; the request is cancelled")
            self._callback = None
            self._on_cancel(self)
