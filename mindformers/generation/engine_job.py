"""Any request on its way through the engine, whatever it asks for: its turn, its time, its share of the cache."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mindformers.generation.answer import Answer
from mindformers.generation.array import Array
from mindformers.generation.handle import Handle
from mindformers.generation.request import Usage
from mindformers.generation.rows import Row
from mindformers.generation.scheduler import Scheduler

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


class EngineJob(ABC):
    """One request, seen from the engine and the scheduler.

    Args:
        arrival: Its number.
        model: What answers it.
        handle: Gets the chunks.
        priority: Larger ones are admitted first.
        timeout: Seconds until it ends; None: no limit.
    """

    goes_together = False
    reads_all = False
    gives_hidden = False  # what it takes of the tokens it picks: hidden states, not logits

    def __init__(
        self, arrival: int, model: Model, handle: Handle, *, priority: int, timeout: float | None
    ) -> None:
        self.model, self.handle = model, handle
        self.arrival, self._priority, self._num_overtaken = arrival, priority, 0
        self.has_started = False
        self.deadline = None if timeout is None else time.monotonic() + timeout
        self.finish_reason = ""  # of the answer that ended last
        self.answers: list[Answer] = []  # those that go on

    @property
    def rank(self) -> tuple[bool, int, int]:
        """Who goes first: the smallest."""
        return (self._num_overtaken < PATIENCE, -self._priority, self.arrival)

    @property
    @abstractmethod
    def width(self) -> int:
        """Answers that have to go on at once, at most."""

    @property
    def num_coming(self) -> int:
        """Answers that may yet be forked from those there are."""
        return 0

    def picked(self, answer: Answer, count: int) -> Sequence[int]:
        """Return which of an answer's next ``count`` tokens and its guesses something is wanted of.

        Here the last that is known, and all guesses.
        """
        return range(count - 1, count + len(answer.draft)) if count == answer.num_unread else ()

    def guess(self, row: Row, most: int) -> list[int]:
        """Return guesses of how an answer goes on, no more than ``most``; here none."""
        del row, most
        return []

    @abstractmethod
    def take(self, ready: Sequence[tuple[Answer, Array]], scheduler: Scheduler) -> None:
        """Go on with what a step gives of the picked tokens, (R, V) or (R, H) float32 for each answer.

        Raises:
            GenerationError: If the request cannot go on with that.
        """

    @abstractmethod
    def stop(self, reason: str) -> None:
        """Tell the handle that every answer which has not ended ends now."""

    @abstractmethod
    def note_start(self, answer: Answer) -> None:
        """Take note that an answer is read, or read again, from where the cache ends."""

    def count_prompt(self, num_tokens: int, num_cached: int) -> None:
        """Take note that reading a prompt begins, with so many tokens of the cache."""
        self.has_started = True
        self.handle.usage.cached_tokens += num_cached
        self.model.totals.cached_tokens += num_cached
        self.model.totals.prompt_tokens += num_tokens

    def note_overtaken(self) -> None:
        """Take note that a request which came later goes first."""
        self._num_overtaken += 1

    def leave(self, answer: Answer, scheduler: Scheduler) -> None:
        """Take an answer that goes on no longer out of the engine."""
        self.answers.remove(answer)
        scheduler.remove(answer)
