"""The engine without a thread: requests in, one step after another, until nothing is left."""

from __future__ import annotations

import itertools
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from mindformers.errors import GenerationError
from mindformers.generation.answer import Answer
from mindformers.generation.array import Array
from mindformers.generation.beam_job import BeamJob
from mindformers.generation.block_manager import BlockManager
from mindformers.generation.block_tables import stacked
from mindformers.generation.drafts import NOT_ON_NPU
from mindformers.generation.embedding_job import EmbeddingJob
from mindformers.generation.engine_job import EngineJob, Model
from mindformers.generation.handle import Handle
from mindformers.generation.job import Job
from mindformers.generation.paged_step import PagedStep, Piece
from mindformers.generation.request import EmbeddingRequest, EngineStats, Request
from mindformers.generation.sampled_job import SampledJob
from mindformers.generation.scheduler import EngineSettings, Scheduler
from mindformers.generation.stopping import TIMEOUT
from mindformers.logger import warn_once

FAILED = "error"  # how a request ends in the counters that raised
_RECENT = 32  # requests whose ends tell how fast others end


class EngineCore:
    """Requests, their blocks, and the network that reads them. Not safe to use from several threads.

    Args:
        step: The network; its cache is made here and belongs to this engine.
        settings: The limits; ``num_blocks`` is given.
        tokenizer: Turns ids into text; None: answers have no text.
        allowed_vocab_size: Ids from here on stand for no token.
    """

    def __init__(
        self,
        step: PagedStep,
        settings: EngineSettings,
        tokenizer: Any = None,
        allowed_vocab_size: int | None = None,
    ) -> None:
        assert settings.num_blocks is not None
        self._step, self.settings = step, settings
        # One more than asked for: block 0 is nobody's.
        blocks = BlockManager(settings.num_blocks + 1, step.block_size)
        step.allocate(blocks.num_blocks)
        self.scheduler = Scheduler(blocks, settings, step.is_whole)
        room = settings.num_blocks * step.block_size - step.prefix_length
        self.model = Model(
            step.vocab_size, min(step.max_length, room), step.prefix_length, allowed_vocab_size, tokenizer
        )  # fmt: skip
        self.hidden_size = step.hidden_size
        self.jobs: dict[Handle, EngineJob] = {}
        self._arrivals = itertools.count()
        self._finished: Counter[str] = Counter()
        self._ends: deque[float] = deque(maxlen=_RECENT)

    def open_job(
        self, request: Request | EmbeddingRequest, handle: Handle, processors: Any = ()
    ) -> EngineJob:
        """Check a request and prepare its answers; may be called from any thread.

        Args:
            request: As it was asked.
            handle: Gets the chunks.
            processors: The user's rules; see ``LogitsProcessor``.

        Raises:
            GenerationError: If it can never be answered.
        """
        _check_timeout(request.timeout)
        if isinstance(request, EmbeddingRequest):
            # Half of the places at most: whoever asks for an answer meanwhile is let in.
            places = max(1, self.settings.max_running // 2)
            return EmbeddingJob(request, next(self._arrivals), self.model, handle, places)
        _check_request(request)
        if self._step.is_whole and request.config.prompt_lookup_num_tokens is not None:
            warn_once(NOT_ON_NPU)
        self._require_cache(request)
        kind = SampledJob if request.config.num_beams == 1 else BeamJob
        job = kind(request, next(self._arrivals), self.model, handle, processors)
        self._require_room(job)
        return job

    def _require_cache(self, request: Request) -> None:
        length, most = len(request.prompt), self.model.max_length
        if most <= length < self._step.max_length:
            raise GenerationError(
                f"has {length} tokens and leaves no room for an answer: the cache holds {most} of a request, "
                f"the model {self._step.max_length}",
                where="prompt 0",
                fix="raise num_blocks, or shorten the prompt",
            )

    def _require_room(self, job: Job) -> None:
        most, width = self.settings.max_running, job.width
        if width > most:
            name = "num_beams" if job.goes_together else "num_answers"
            raise GenerationError(f"found {width}", where=name, allowed=f"1 to max_running, {most}")
        blocks = self.scheduler.blocks
        wanted = width * blocks.blocks_for(self.model.prefix_length + job.limit)
        if job.goes_together and wanted > blocks.num_blocks - 1:
            raise GenerationError(
                f"{width} beams of up to {job.limit} tokens need {wanted} blocks of the cache, which has "
                f"{blocks.num_blocks - 1}",
                where="num_beams",
                fix="lower num_beams or max_new_tokens, or raise num_blocks",
            )

    def add(self, job: EngineJob) -> None:
        """Let a request wait for its turn."""
        self.jobs[job.handle] = job
        for answer in job.answers:
            self.scheduler.add(answer)

    def stop(self, handle: Handle, reason: str) -> None:
        """End a request that has not ended yet; its blocks are free."""
        job = self.jobs.get(handle)
        if job is not None:
            job.stop(reason)
            self._end(job, reason)

    def fail(self, error: BaseException) -> None:
        """End every request with an error."""
        for job in list(self.jobs.values()):
            self._end(job, FAILED, error)

    def run_once(self) -> bool:
        """Run one step; return whether requests are left."""
        self._stop_late()
        planned = self.scheduler.plan()
        if planned:
            try:
                found = self._read(planned)
            except Exception as error:
                # Nobody can tell what the cache holds now of those that were in the step.
                for handle in {answer.job.handle for answer, _ in planned}:
                    self._end(self.jobs[handle], FAILED, error)
                return bool(self.jobs)
            self._hand_out(planned, found)
        return bool(self.jobs)

    def _read(self, planned: Sequence[tuple[Answer, int]]) -> list[Array]:
        blocks, prefix_length = self.scheduler.blocks, self._step.prefix_length
        copies = blocks.take_copies()
        if copies:
            self._step.copy_blocks(copies)
        fresh = [blocks.table(a.place) for a, _ in planned if a.num_written < prefix_length]
        if fresh:
            self._step.write_prefix(stacked(fresh))
        pieces = []
        for answer, count in planned:
            start, job = answer.num_read, answer.job
            ids = answer.row.ids[start : start + count]
            if answer.draft:
                ids = np.append(ids, answer.draft)
            table, picked = blocks.table(answer.place), job.picked(answer, count)
            pieces.append(Piece(ids, start, table, picked, job.gives_hidden))
        return self._step.run(pieces)

    def _hand_out(self, planned: Sequence[tuple[Answer, int]], found: Sequence[Array]) -> None:
        ready: dict[Handle, list[tuple[Answer, Array]]] = {}
        for (answer, count), rows in zip(planned, found, strict=True):
            self.scheduler.note_written(answer, count)
            if len(rows):
                ready.setdefault(answer.job.handle, []).append((answer, rows))
        for handle, own in ready.items():
            job = self.jobs[handle]
            try:
                job.take(own, self.scheduler)
            except Exception as error:
                self._end(job, FAILED, error)
                continue
            if not job.answers:
                self._end(job, job.finish_reason)

    def _stop_late(self) -> None:
        now = time.monotonic()
        for job in list(self.jobs.values()):
            if job.deadline is not None and now >= job.deadline:
                self.stop(job.handle, TIMEOUT)

    def _end(self, job: EngineJob, reason: str, error: BaseException | None = None) -> None:
        for answer in list(job.answers):
            job.leave(answer, self.scheduler)
        del self.jobs[job.handle]
        self._finished[reason] += 1
        self._ends.append(time.monotonic())
        job.handle.end(error)

    def seconds_until_room(self) -> float:
        """Return when a waiting request may start, by how fast requests ended lately; 1 or more."""
        ends = list(self._ends)
        if len(ends) < 2:
            return 1.0
        pace = (ends[-1] - ends[0]) / (len(ends) - 1)
        return max(1.0, pace * self.num_waiting / 2)

    @property
    def num_waiting(self) -> int:
        """Requests of which nothing has been read yet."""
        return sum(not job.has_started for job in list(self.jobs.values()))

    def stats(self) -> EngineStats:
        """Return the counters."""
        blocks, totals = self.scheduler.blocks, self.model.totals
        return EngineStats(
            running=len(self.scheduler.running),
            waiting=self.num_waiting,
            blocks=blocks.num_blocks - 1,
            free_blocks=blocks.num_free,
            cached_blocks=blocks.num_cached,
            prompt_tokens=totals.prompt_tokens,
            cached_tokens=totals.cached_tokens,
            generated_tokens=totals.completion_tokens,
            drafted_tokens=totals.drafted_tokens,
            accepted_tokens=totals.accepted_tokens,
            preemptions=self.scheduler.num_preempted,
            finished=dict(self._finished),
        )


def _check_request(request: Request) -> None:
    if request.num_answers < 1:
        raise GenerationError(
            f"found {request.num_answers}", where="num_answers", allowed="1 or more"
        )
    if request.logprobs is not None and request.logprobs < 0:
        raise GenerationError(f"found {request.logprobs}", where="logprobs", allowed="0 or more")


def _check_timeout(timeout: float | None) -> None:
    if timeout is not None and not timeout > 0:
        raise GenerationError(f"found {timeout}", where="timeout", allowed="above 0 seconds")
