"""A request on its way through the engine: its answers, and which token each of them gets next."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mindformers.generation.answer import Answer, open_buffer
from mindformers.generation.array import Array
from mindformers.generation.decoding import TextDecoder, open_decoder
from mindformers.generation.handle import Handle
from mindformers.generation.logits_pipeline import LogitsPipeline
from mindformers.generation.prompts import answer_limits, check_prompts
from mindformers.generation.request import Constraint, Request, Usage
from mindformers.generation.rows import Row
from mindformers.generation.sampling import call_seed
from mindformers.generation.scheduler import Scheduler
from mindformers.generation.stopping import StopRules, tool_call_id

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
        processors: The user's rules; see ``LogitsProcessor``.

    Raises:
        GenerationError: If it can never be answered.
    """

    goes_together = False

    def __init__(
        self, request: Request, arrival: int, model: Model, handle: Handle, processors: Any = ()
    ) -> None:
        config = request.config
        config.check()
        self.request, self.model, self.handle = request, model, handle
        self.prompt = check_prompts([request.prompt], model.vocab_size, model.max_length)[0]
        limits, _ = answer_limits(
            [self.prompt], config.max_new_tokens, config.max_length, model.max_length
        )
        self.limit = limits[0]
        allowed = config.allowed_vocab_size or model.allowed_vocab_size
        self.pipeline = LogitsPipeline(config, model.vocab_size, processors, allowed)
        self.rules = StopRules(config, tool_call_id(model.tokenizer))
        self.seed = call_seed(request.seed)
        self.num_answers = (
            request.num_answers if request.num_answers > 1 else config.num_return_sequences
        )
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
    def width(self) -> int:
        """Answers that go on at once, at most."""

    @property
    @abstractmethod
    def num_coming(self) -> int:
        """Answers that may yet be forked from those there are."""

    @abstractmethod
    def take(self, ready: Sequence[tuple[Answer, Array]], scheduler: Scheduler) -> None:
        """Go on with the logits, (1 + k, V) float32, of what follows some answers and the k guesses of each.

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

    def guess(self, row: Row, most: int) -> list[int]:
        """Return guesses of how an answer goes on, no more than ``most``; here none."""
        del row, most
        return []

    def row(self, index: int, length: int | None = None) -> Row:
        """Return an answer of ``length`` tokens (None: those of the prompt) that has no room for them yet."""
        prompt_length = len(self.prompt)
        return Row(index, np.empty(0, np.int32), length or prompt_length, prompt_length, None, None)

    def open_constraint(self) -> Constraint | None:
        """Return what rules tokens out of one answer, at its beginning."""
        return None if self.request.constraint is None else self.request.constraint()

    def first_answer(self, row: Row) -> Answer:
        """Return the answer that reads the prompt."""
        prefix_length = self.model.prefix_length
        whole = open_buffer(np.array(self.prompt, np.int32), self.limit, prefix_length)
        row.buffer = whole[prefix_length:]
        return Answer(self, row, whole)

    def open_decoder(self) -> TextDecoder:
        """Return what turns the ids of one answer into its text."""
        return open_decoder(
            self.model.tokenizer, skip_special_tokens=True, shown=self.request.shown
        )

    def count_tokens(self, count: int) -> None:
        """Take note of tokens of answers that are handed out."""
        for usage in (self.handle.usage, self.model.totals):
            usage.completion_tokens += count

    def count_guesses(self, drafted: int, accepted: int) -> None:
        """Take note of guesses that were read, and of those of them that were right."""
        for usage in (self.handle.usage, self.model.totals):
            usage.drafted_tokens += drafted
            usage.accepted_tokens += accepted

    def leave(self, answer: Answer, scheduler: Scheduler) -> None:
        """Take an answer that goes on no longer out of the engine."""
        self.answers.remove(answer)
        scheduler.remove(answer)
