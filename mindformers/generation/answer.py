"""One answer of a request on its way through the engine, or one beam of a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mindformers.generation.array import Array
from mindformers.generation.handle import Handle
from mindformers.generation.rows import Row

PREFIX_ID = -1  # stands for a position of a trained prefix where tokens are compared


class Owner(Protocol):
    """The request an answer belongs to, seen from the scheduler."""

    handle: Handle

    @property
    def rank(self) -> tuple[bool, int, int]:
        """Who goes first: the smallest."""

    @property
    def num_coming(self) -> int:
        """Answers that may yet be forked from those there are."""

    @property
    def goes_together(self) -> bool:
        """Whether its answers are given up all at once: beams wait for one another."""

    @property
    def reads_all(self) -> bool:
        """Whether every token is read, also where the cache holds what others wrote of it."""

    @property
    def gives_hidden(self) -> bool:
        """Whether it takes the hidden states of the tokens it picks, and not their logits."""

    def picked(self, answer: Answer, count: int) -> Sequence[int]:
        """Return which of an answer's next ``count`` tokens something is wanted of."""

    def note_start(self, answer: Answer) -> None:
        """Take note that an answer is read, or read again, from where the cache ends."""

    def note_overtaken(self) -> None:
        """Take note that a request which came later goes first."""

    def guess(self, row: Row, most: int) -> list[int]:
        """Return guesses of how an answer goes on, no more than ``most``."""


class Answer:
    """Ids so far, and how many of them the cache holds.

    Args:
        job: The request.
        row: Prompt and answer.
        whole: (prefix and limit,) int32, what ``row`` has its ids in, the prefix before them.
    """

    def __init__(self, job: Owner, row: Row, whole: Array) -> None:
        self.job, self.row = job, row
        self.place = -1  # its row of the block manager while it runs
        self.num_written = 0  # positions of the cache, the prefix included
        self.draft: list[int] = []  # guesses the step under way reads behind the newest token
        self._whole, self._prefix_length = whole, len(whole) - len(row.buffer)

    @property
    def rank(self) -> tuple[bool, int, int, int]:
        """Who goes first: the smallest."""
        return (*self.job.rank, self.row.index)

    @property
    def cached_ids(self) -> Array:
        """What the cache holds once all is read: prefix, prompt and answer so far, (L,) int32."""
        return self._whole[: self.num_positions]

    @property
    def num_positions(self) -> int:
        """Positions of the cache once all is read, L."""
        return self._prefix_length + self.row.length

    @property
    def num_read(self) -> int:
        """Tokens that need not be read, the prefix not counted."""
        return max(0, self.num_written - self._prefix_length)

    @property
    def num_unread(self) -> int:
        """Tokens that are still to be read before the next one can be chosen."""
        return self.row.length - self.num_read

    def copy(self, row: Row) -> Answer:
        """Return another answer that begins with the same ids; ``row`` is given a buffer of its own."""
        whole = self._whole.copy()
        row.buffer = whole[self._prefix_length :]
        return Answer(self.job, row, whole)


def open_buffer(prompt: Array, limit: int, prefix_length: int) -> Array:
    """Return room for a prefix and ``limit`` tokens that begins with the prefix and the prompt."""
    whole = np.empty(prefix_length + limit, np.int32)
    whole[:prefix_length] = PREFIX_ID
    whole[prefix_length : prefix_length + len(prompt)] = prompt
    return whole
