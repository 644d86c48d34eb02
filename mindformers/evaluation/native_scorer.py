"""Scores of rows by the native kernels; needs no MindSpore. Rows lie side by side, nothing is padded.

Letters: T tokens of a call, R of them with a label, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from mindformers.evaluation.rows import TokenRow
from mindformers.evaluation.score import TokenScore, score_logits, total

CALL_TOKENS = 1024  # bounds the memory of a call's activations
LOGITS_BYTES = 64 * 2**20  # of the logits of a call
Piece = tuple[int, int, int]  # row, its first token, the one behind its last


def most_labels(vocab_size: int) -> int:
    """Return how many tokens' logits are held at once."""
    return max(16, LOGITS_BYTES // (4 * vocab_size))


class NativeScorer:
    """Scores rows with a native network.

    Args:
        open_network: Gives the network as its weights are now.
        block_size: Tokens of a block of its cache.
        vocab_size: V.
    """

    def __init__(self, open_network: Callable[[], Any], *, block_size: int, vocab_size: int):
        self.open_network, self.block_size = open_network, block_size
        self.most_labels = most_labels(vocab_size)

    def __call__(self, rows: Sequence[TokenRow]) -> list[TokenScore]:
        """Return the score of each row; what the network had cached is gone afterwards."""
        network = self.open_network()
        held = network.hold()  # a parameter may be given other memory meanwhile
        scores: list[TokenScore] = []
        for lot in _lots(rows):
            scores += self._score(network, lot)
        del held
        return scores

    def _score(self, network: Any, rows: Sequence[TokenRow]) -> list[TokenScore]:
        width = -(-max((len(row.ids) for row in rows), default=0) // self.block_size)
        if network.num_blocks < len(rows) * width:
            network.allocate_cache(len(rows) * width)
        parts: list[list[TokenScore]] = [[] for _ in rows]
        for call in _calls(rows, CALL_TOKENS, self.most_labels):
            for row, score in self._run(network, rows, call, width):
                parts[row].append(score)
        return [total(each) for each in parts]

    def _run(
        self, network: Any, rows: Sequence[TokenRow], call: Sequence[Piece], width: int
    ) -> Iterator[tuple[int, TokenScore]]:
        """Run some pieces in one call; yield (row, score) of each."""
        ids = np.concatenate([rows[row].ids[start:stop] for row, start, stop in call])
        labels = np.concatenate([rows[row].labels[start:stop] for row, start, stop in call])
        places = [np.arange(start, stop) for _, start, stop in call]
        slots = [
            row * width * self.block_size + each
            for (row, _, _), each in zip(call, places, strict=True)
        ]
        tables = np.array([[row * width + i for i in range(width)] for row, _, _ in call], np.int32)
        starts = np.cumsum([0, *map(len, places)])
        picked = np.flatnonzero(labels >= 0)
        logits = network.run(
            ids, np.concatenate(places), np.concatenate(slots), starts,
            np.array([stop for _, _, stop in call]), tables, picked,
        )  # fmt: skip
        bounds = np.searchsorted(picked, starts)  # which of the logits belong to each piece
        for (row, _, _), first, end in zip(call, bounds[:-1], bounds[1:], strict=True):
            yield row, score_logits(logits[first:end], labels[picked[first:end]])


def _lots(rows: Sequence[TokenRow]) -> Iterator[list[TokenRow]]:
    """Yield rows that are in the cache together: so many that a call is filled."""
    lot: list[TokenRow] = []
    tokens = 0
    for row in rows:
        lot.append(row)
        tokens += len(row.ids)
        if tokens >= CALL_TOKENS:
            yield lot
            lot, tokens = [], 0
    if lot:
        yield lot


def _calls(rows: Sequence[TokenRow], tokens: int, labels: int) -> Iterator[list[Piece]]:
    """Cut rows into calls of at most so many tokens and so many labels."""
    call: list[Piece] = []
    room, room_labels = tokens, labels
    for index, row in enumerate(rows):
        seen = np.concatenate([[0], np.cumsum(row.labels >= 0)])
        start = 0
        while start < len(row.ids):
            within = int(np.searchsorted(seen, seen[start] + room_labels, side="right")) - 1
            stop = min(len(row.ids), start + room, within)
            call.append((index, start, stop))
            room -= stop - start
            room_labels -= int(seen[stop] - seen[start])
            start = stop
            if not room or not room_labels:
                yield call
                call, room, room_labels = [], tokens, labels
    if call:
        yield call
