"""The engine that serves: one thread owns the network, any other hands in requests and takes the answers."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from mindformers.errors import EngineBusyError, GenerationError
from mindformers.generation.engine_core import EngineCore
from mindformers.generation.engine_job import EngineJob
from mindformers.generation.handle import Handle
from mindformers.generation.paged_step import PagedStep
from mindformers.generation.request import EmbeddingRequest, EngineStats, Request
from mindformers.generation.scheduler import EngineSettings
from mindformers.generation.stopping import CANCELLED
from mindformers.logger import logger
from mindformers.machine import free_memory

MEMORY_SHARE = 0.25  # of what is free when an engine opens, for a cache larger than was asked for


class ServingEngine:
    """Answers many requests at once, each as if it were alone; see ``Engine``.

    Args:
        core: Does the work; from now on this engine's alone.
        answering: The context the network answers in.
    """

    def __init__(
        self, core: EngineCore, answering: AbstractContextManager[Any] | None = None
    ) -> None:
        self._core, self._answering = core, answering or nullcontext()
        self.vocab_size, self.max_length = core.model.vocab_size, core.model.max_length
        self.hidden_size = core.hidden_size
        self._changed = threading.Condition()
        self._submitted: deque[EngineJob] = deque()
        self._cancelled: deque[Handle] = deque()
        self._is_draining = self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request | EmbeddingRequest) -> Handle:
        """Take a request; see ``Engine.submit``."""
        handle = Handle(self._cancel)
        with self._changed:
            self._refuse_or_pass()
        job = self._core.open_job(request, handle)  # may compile a grammar: not under the lock
        with self._changed:
            self._refuse_or_pass()
            self._submitted.append(job)
            self._changed.notify_all()
        return handle

    def _refuse_or_pass(self) -> None:
        if self._is_closed:
            raise GenerationError("the engine is closed")
        core = self._core
        if self._is_draining:
            raise EngineBusyError(
                "the engine takes no more requests", retry_after=core.seconds_until_room()
            )
        num_waiting = core.num_waiting + len(self._submitted)
        if num_waiting >= core.settings.max_waiting:
            raise EngineBusyError(
                f"{num_waiting} requests wait already",
                where="max_waiting",
                fix="come again later",
                retry_after=core.seconds_until_room(),
            )

    def stats(self) -> EngineStats:
        """Return the counters."""
        found = self._core.stats()
        return dataclasses.replace(found, waiting=found.waiting + len(self._submitted))

    def drain(self, timeout: float) -> bool:
        """Take nothing more and wait for what runs; return whether all of it ended in time."""
        end = time.monotonic() + timeout
        with self._changed:
            self._is_draining = True
            return self._changed.wait_for(self._is_idle, max(0.0, end - time.monotonic()))

    def close(self) -> None:
        """Cancel what runs and end the engine's thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> ServingEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _cancel(self, handle: Handle) -> None:
        with self._changed:
            self._cancelled.append(handle)
            self._changed.notify_all()

    def _is_idle(self) -> bool:
        return not self._core.jobs and not self._submitted

    def _work(self) -> None:
        """Run steps until the engine is closed; the engine's thread."""
        try:
            with self._answering:
                while self._take_in():
                    self._core.run_once()
        except BaseException as error:
            # Whoever waits for an answer must not wait for ever.
            logger.exception("the engine ends: a fault of its own")
            with self._changed:
                self._is_closed = True
                self._add_submitted()
            self._core.fail(error)

    def _take_in(self) -> bool:
        """Wait until there is something to do, and take what was submitted and cancelled; False at the end."""
        with self._changed:
            if self._is_idle():
                self._changed.notify_all()
            self._changed.wait_for(self._has_work)
            self._add_submitted()
            cancelled, self._cancelled = self._cancelled, deque()
            is_closed = self._is_closed
        for handle in [*self._core.jobs] if is_closed else cancelled:
            self._core.stop(handle, CANCELLED)
        return not is_closed

    def _add_submitted(self) -> None:
        while self._submitted:
            self._core.add(self._submitted.popleft())

    def _has_work(self) -> bool:
        return bool(self._core.jobs or self._submitted or self._cancelled or self._is_closed)


def open_engine(model: Any, tokenizer: Any = None, **settings: Any) -> ServingEngine:
    """Start an engine over a model.

    Args:
        model: What ``AutoModel.from_pretrained`` or ``open_in_files`` gives.
        tokenizer: The model's; None: answers have ids and no text.
        **settings: Fields of ``EngineSettings``.

    Returns:
        The engine; ``close`` ends it, also as a context.

    Raises:
        GenerationError: If a setting is out of range, or the model cannot answer in steps.
    """
    given, step = EngineSettings(**settings), model.build_step()
    if given.num_blocks is None:
        given = dataclasses.replace(
            given, num_blocks=_num_blocks(step, given.max_running, model.config.num_blocks)
        )
    allowed = getattr(model.config, "num_used_tokens", None)
    if allowed is None and hasattr(tokenizer, "__len__"):
        allowed = len(tokenizer)
    core = EngineCore(step, given, tokenizer, allowed)
    logger.info(
        "engine: %d blocks of %d tokens, answers of up to %d tokens with their prompt",
        given.num_blocks, step.block_size, core.model.max_length,
    )  # fmt: skip
    return ServingEngine(core, model.answering())


def _num_blocks(step: PagedStep, max_running: int, configured: int) -> int:
    """Return the blocks the model's settings ask for; or as many as all answers may need, if memory is free."""
    free = free_memory()
    if not step.block_bytes or free is None:
        return configured
    longest = -(-(step.prefix_length + step.max_length) // step.block_size)
    return max(configured, min(max_running * longest, int(free * MEMORY_SHARE) // step.block_bytes))
