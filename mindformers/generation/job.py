"""A request on its way through the engine: its answers, and which token each of them gets next."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mindformers.errors import GenerationError
from mindformers.generation.answer import Answer, open_buffer
from mindformers.generation.array import Array
from mindformers.generation.decoding import open_decoder
from mindformers.generation.handle import Handle
from mindformers.generation.logits_pipeline import LogitsPipeline
from mindformers.generation.logprobs import token_logprob
from mindformers.generation.prompts import answer_limits, check_prompts
from mindformers.generation.request import Chunk, Request, Usage
from mindformers.generation.rows import Row
from mindformers.generation.sampling import call_seed, choose, row_generator
from mindformers.generation.scheduler import Scheduler
from mindformers.generation.stopping import (
    StopRules,
    StopStrings,
    StopTextScanner,
    tool_call_id,
)

PATIENCE = 64  # requests that came later and may go first, before a request goes before all others


@dataclass(frozen=True)
class Model:
    """What a request has to know of the model that answers it.

    Args:
        vocab_size: Ids it gives logits for.
        max_length: Tokens of prompt and answer.
        prefix_length: Positions of a trained prefix.
        allowed_vocab_size: Ids from here on stand for no token.
        tokenizer: Turns ids into text; None: answers have no text.
        totals: Tokens of all requests, counted as they come.
    """

    vocab_size: int
    max_length: int
    prefix_length: int = 0
    allowed_vocab_size: int | None = None
    tokenizer: Any = None
    totals: Usage = field(default_factory=Usage)


class Job(ABC):
    """One request; what its answers share.

    Args:
        request: As it was asked.
        arrival: Its number.
        model: What answers it.
        handle: Gets the chunks.

    Raises:
        GenerationError: If it can never be answered.
    """

    goes_together = False

    def __init__(self, request: Request, arrival: int, model: Model, handle: Handle) -> None:
        config = request.config
        config.check()
        self.request, self.model, self.handle = request, model, handle
        self.prompt = check_prompts([request.prompt], model.vocab_size, model.max_length)[0]
        limits, _ = answer_limits(
            [self.prompt], config.max_new_tokens, config.max_length, model.max_length
        )
        self.limit = limits[0]
        allowed = config.allowed_vocab_size or model.allowed_vocab_size
        self.pipeline = LogitsPipeline(config, model.vocab_size, (), allowed)
        self.rules = StopRules(config, tool_call_id(model.tokenizer))
        self.seed = call_seed(request.seed)
        self.arrival, self._num_overtaken, self.has_started = arrival, 0, False
        started = time.monotonic()
        self.deadline = None if request.timeout is None else started + request.timeout
        self.finish_reason = ""  # of the answer that ended last
        self.answers: list[Answer] = []  # those that go on
        handle.usage.prompt_tokens = len(self.prompt)

    @property
    def rank(self) -> tuple[bool, int, int]:
        """Who goes first: the smallest."""
        return (self._num_overtaken < PATIENCE, -self.request.priority, self.arrival)

    @property
    @abstractmethod
    def num_coming(self) -> int:
        """Answers that may yet be forked from those there are."""

    @abstractmethod
    def take(self, ready: Sequence[tuple[Answer, Array]], scheduler: Scheduler) -> None:
        """Go on with the logits, (V,) float32 each, of what follows some of the answers.

        Raises:
            GenerationError: If no token can be chosen.
        """

    @abstractmethod
    def stop(self, reason: str) -> None:
        """Tell the handle that every answer which has not ended ends now."""

    def note_start(self, num_cached: int) -> None:
        """Take note that reading begins, or begins again, with so many tokens of the cache."""
        if self.has_started:
            return
        self.has_started = True
        self.handle.usage.cached_tokens = num_cached
        self.model.totals.cached_tokens += num_cached
        self.model.totals.prompt_tokens += len(self.prompt)

    def note_overtaken(self) -> None:
        """Take note that a request which came later goes first."""
        self._num_overtaken += 1

    def leave(self, answer: Answer, scheduler: Scheduler) -> None:
        """Take an answer that goes on no longer out of the engine."""
        self.answers.remove(answer)
        scheduler.remove(answer)


class SampledJob(Job):
    """A request whose answers go on by themselves, each with the likeliest token or a draw of its own.

    Args and errors as in ``Job``.
    """

    def __init__(self, request: Request, arrival: int, model: Model, handle: Handle) -> None:
        super().__init__(request, arrival, model, handle)
        strings = StopStrings(request.config.stop_strings)
        if request.config.stop_strings and model.tokenizer is None:
            raise GenerationError(
                "found texts, but the engine has no tokenizer to find them with",
                where="stop_strings",
                fix="open the engine with a tokenizer",
            )
        whole = open_buffer(np.array(self.prompt, np.int32), self.limit, model.prefix_length)
        opened = request.constraint
        constraints = [opened() if opened else None for _ in range(request.num_answers)]
        rows = [self._row(index, strings) for index in range(request.num_answers)]
        rows[0].buffer = whole[model.prefix_length :]
        self.answers = [Answer(self, rows[0], whole, constraints[0])]
        self._others = list(zip(rows[1:], constraints[1:], strict=True))

    def _row(self, index: int, strings: StopStrings) -> Row:
        generator = None if self.request.config.is_greedy else row_generator(self.seed, index)
        scanner = None
        if self.model.tokenizer is not None:
            decoder = open_decoder(self.model.tokenizer, skip_special_tokens=True)
            scanner = StopTextScanner(strings, decoder)
        length = len(self.prompt)
        return Row(index, np.empty(0, np.int32), length, length, generator, scanner)

    @property
    def num_coming(self) -> int:
        """Answers that may yet be forked from those there are."""
        return len(self._others)

    def take(self, ready: Sequence[tuple[Answer, Array]], scheduler: Scheduler) -> None:
        """Choose a token for each of ``ready``; see ``Job.take``."""
        ready = list(ready)
        first, logits = ready[0]
        for row, constraint in self._others:
            other = first.copy(row, constraint)
            self.answers.append(other)
            scheduler.fork(first, other)
            ready.append((other, logits))
        self._others = []
        for answer, own in ready:
            self._go_on(answer, own)
            if answer.row.finish_reason:
                self.leave(answer, scheduler)

    def _go_on(self, answer: Answer, logits: Array) -> None:
        row = answer.row
        where = f"answer {row.index}, token {row.length - row.prompt_length + 1}"
        scores = self.pipeline(logits, row.ids, row.prompt_length, where, answer.constraint)
        token = choose(scores, row.generator)
        row.accept(token, self.rules)
        self.finish_reason = row.finish_reason or self.finish_reason
        if answer.constraint is not None and not row.finish_reason:
            answer.constraint.accept(token)
        wanted = self.request.logprobs
        told = () if wanted is None else (token_logprob(logits, token, wanted),)
        for usage in (self.handle.usage, self.model.totals):
            usage.completion_tokens += 1
        text = "" if row.scanner is None else row.scanner.take()
        self.handle.put(Chunk(row.index, (token,), text, row.finish_reason, told))

    def stop(self, reason: str) -> None:
        """Tell the handle that every answer which has not ended ends now."""
        self.finish_reason = reason
        for answer in self.answers:
            scanner, text = answer.row.scanner, ""
            if scanner is not None:
                scanner.flush()
                text = scanner.take()
            self.handle.put(Chunk(answer.row.index, (), text, reason))
        for row, _ in self._others:
            self.handle.put(Chunk(row.index, (), "", reason))
