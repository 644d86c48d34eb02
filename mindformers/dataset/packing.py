"""Several documents a row: which ones share a row, and what that fills. Loads no MindSpore."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

# Documents that are sorted and packed together. More fill rows hardly better, and put long ones beside long ones.
WINDOW = 4096


@dataclass(frozen=True)
class Packs:
    """Which documents stand in which row.

    Attributes:
        documents: (documents,) their numbers, row after row.
        edges: (rows + 1,) where each row's documents begin in ``documents``.
        num_tokens: Tokens of all of them.
        seq_length: Tokens a row has room for.
    """

    documents: np.ndarray
    edges: np.ndarray
    num_tokens: int
    seq_length: int

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return len(self.edges) - 1

    @property
    def fill(self) -> float:
        """Share of the rows' tokens that documents fill."""
        return self.num_tokens / (self.num_rows * self.seq_length) if self.num_rows else 0.0

    def row(self, index: int) -> np.ndarray:
        """Return the numbers of a row's documents."""
        return self.documents[self.edges[index] : self.edges[index + 1]]


class PackedPasses:
    """Rows of one pass through the documents after another, cut into epochs of equally many.

    Every pass is packed anew, so documents stand beside others and passes differ by a few rows; an epoch
    has as many rows as the first pass. Which those are follows from its number alone.

    Args:
        lengths: (all documents,) tokens of each, at most ``seq_length``.
        seq_length: Tokens of a row.
        order: Number of a pass -> its documents, in the order windows are made of.
        repeats: Every pass has the same order.

    Attributes:
        first: The first pass.
        num_rows: Rows of an epoch.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        seq_length: int,
        order: Callable[[int], np.ndarray],
        *,
        repeats: bool = False,
    ) -> None:
        # An epoch takes rows of two passes, seldom of three.
        self._packed = lru_cache(3)(
            lambda number: pack_documents(lengths, seq_length, order(number))
        )
        self._repeats = repeats
        self.first = self._pass(0)
        self.num_rows = self.first.num_rows
        self._ends = [self.num_rows]  # rows of the passes up to each

    def rows(self, epoch: int) -> list[np.ndarray]:
        """Return the documents of each row of an epoch."""
        begin, end = epoch * self.num_rows, (epoch + 1) * self.num_rows
        while self._ends[-1] < end:
            self._ends.append(self._ends[-1] + self._pass(len(self._ends)).num_rows)
        found: list[np.ndarray] = []
        number = int(np.searchsorted(self._ends, begin, side="right"))
        while len(found) < self.num_rows:
            packs, first = self._pass(number), self._ends[number - 1] if number else 0
            found += [packs.row(row - first) for row in range(begin, min(end, self._ends[number]))]
            begin, number = self._ends[number], number + 1
        return found

    def _pass(self, number: int) -> Packs:
        return self._packed(0 if self._repeats else number)


def pack_documents(lengths: np.ndarray, seq_length: int, order: np.ndarray) -> Packs:
    """Put documents into rows: first-fit decreasing, a window of documents at a time.

    Args:
        lengths: (all documents,) tokens of each, at most ``seq_length``.
        seq_length: Tokens of a row.
        order: The documents to pack, in the order windows are made of; those of length 0 are left out.

    Returns:
        The rows, each document in exactly one of them; they depend on the arguments alone.
    """
    order = order[lengths[order] > 0]
    rows: list[list[int]] = []
    for begin in range(0, len(order), WINDOW):
        rows += _pack_window(lengths, seq_length, order[begin : begin + WINDOW])
    sizes = [len(row) for row in rows]
    documents = np.array([each for row in rows for each in row], dtype=np.int64)
    edges = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    return Packs(documents, edges, int(lengths[documents].sum()), seq_length)


def _pack_window(lengths: np.ndarray, seq_length: int, window: np.ndarray) -> list[list[int]]:
    decreasing = window[np.argsort(-lengths[window], kind="stable")]
    room = np.full(len(window) + 1, seq_length)  # what is left of each row; the last is always free
    rows: list[list[int]] = []
    for document, length in zip(decreasing.tolist(), lengths[decreasing].tolist(), strict=True):
        row = int(np.argmax(room[: len(rows) + 1] >= length))
        if row == len(rows):
            rows.append([])
        rows[row].append(document)
        room[row] -= length
    return rows
