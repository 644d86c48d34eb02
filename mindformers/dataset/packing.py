"""Several documents a row: which ones share a row, and what that fills. Loads no MindSpore."""

from __future__ import annotations

from dataclasses import dataclass

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
