"""From lists of ids to next-token logits by the native kernels; needs no MindSpore.

Every step is one native call over the tokens of all running rows, side by side and without padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from mindformers.generation.array import Array
from mindformers.generation.block_manager import BlockManager
from mindformers.generation.paged_network import PagedNetwork, run_pieces
from mindformers.generation.paged_step import Piece

PREFILL_CHUNK = 1024  # tokens of a call; bounds the memory of its activations


class NativeRunner:
    """Keys and values of all running sequences in the paged cache of a native network.

    Args:
        open_network: Gives the network as its weights are now; asked at every ``prefill``.
        vocab_size: V.
        max_length: Tokens of prompt and answer a row can hold.
        block_size: Tokens of a block.
        block_limit: Blocks the cache may have.
        chunk: Tokens of prompts that go through the network at once.
        prefix_length: Positions of a trained prefix, which every row begins with.
        prefix: Gives that prefix as it is now, (layers, 2, positions, groups, head_dim).
    """

    def __init__(
        self,
        open_network: Callable[[], PagedNetwork],
        *,
        vocab_size: int,
        max_length: int,
        block_size: int,
        block_limit: int,
        chunk: int = PREFILL_CHUNK,
        prefix_length: int = 0,
        prefix: Callable[[], Array] | None = None,
    ):
        self.prefix_length, self.prefix = prefix_length, prefix
        self.open_network, self.vocab_size, self.max_length = open_network, vocab_size, max_length
        self.block_size, self.block_limit, self.chunk = block_size, block_limit, chunk
        self.blocks = BlockManager(2, block_size)
        self.network: PagedNetwork | None = None
        self._allocated = 0
        self._held: object = None  # weights may be set anew while text is generated

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Array:
        """Take the prompts and return the logits after each, (B, V) float32.

        Raises:
            GenerationError: If they do not fit into the cache.
        """
        self._make_room(len(prompts))
        rows = list(range(len(prompts)))
        self.blocks.allocate(rows, [self.prefix_length + len(prompt) for prompt in prompts])
        if self.prefix is not None and self.prefix_length:
            assert self.network is not None
            past = self.prefix()
            for slots in self.blocks.slot_mapping(rows, np.arange(self.prefix_length)):
                self.network.write_cache(slots, past)
        logits = np.empty((len(prompts), self.vocab_size), np.float32)
        for pieces in _pieces([len(prompt) for prompt in prompts], self.chunk):
            ends = [row for row, _, stop in pieces if stop == len(prompts[row])]
            found = self._run(
                Piece(
                    prompts[row][start:stop],
                    start,
                    self.blocks.table(row),
                    (stop - start - 1,) if stop == len(prompts[row]) else (),
                )
                for row, start, stop in pieces
            )
            logits[ends] = found
        return logits

    def _run(self, pieces: Iterable[Piece]) -> Array:
        assert self.network is not None
        return run_pieces(self.network, list(pieces), self.block_size, self.prefix_length)[0]

    def decode(self, tokens: Array, rows: Array) -> Array:
        """Append ``tokens`` (A,) to the prompts ``rows`` (A,) and return the logits after each, (A, V).

        Raises:
            GenerationError: If the cache is full.
        """
        assert self.network is not None
        running = self._only(rows)
        self.blocks.append(running)
        lengths = self.blocks.lengths(running)
        steps = np.arange(len(running) + 1, dtype=np.int32)
        return self.network.run(
            np.asarray(tokens),
            lengths - 1 - self.prefix_length,
            self.blocks.last_slots(running),
            steps,
            lengths,
            self.blocks.block_tables(running),
            steps[:-1],
        )

    def extend(self, tokens: Sequence[Sequence[int]], rows: Array) -> Array:
        """Append several ``tokens`` to each of the prompts ``rows`` (A,); return the logits after all, (T, V).

        Raises:
            GenerationError: If the cache is full.
        """
        running = self._only(rows)
        firsts = self.blocks.lengths(running) - self.prefix_length
        self.blocks.append(running, [len(each) for each in tokens])
        return self._run(
            Piece(ids, first, self.blocks.table(row), range(len(ids)))
            for row, first, ids in zip(running, firsts.tolist(), tokens, strict=True)
        )

    def rollback(self, lengths: Sequence[int], rows: Sequence[int]) -> None:
        """Forget of some rows what lies behind their first ``lengths`` tokens."""
        self.blocks.truncate(rows, [self.prefix_length + length for length in lengths])

    def room(self, num_rows: int) -> int:
        """Return how many tokens each of so many rows can surely take at once."""
        return self.blocks.spare(num_rows)

    def _only(self, rows: Array) -> list[int]:
        """Take back the blocks of all other rows; return these as numbers."""
        running = [int(row) for row in rows]
        if len(running) < len(self.blocks.rows):
            self.blocks.free(sorted(set(self.blocks.rows) - set(running)))
        return running

    def release(self) -> None:
        """Take every block back; the cache itself is kept for the next call."""
        self.blocks.free_all()
        self._held = None

    def _make_room(self, batch: int) -> None:
        network = self.open_network()
        length = self.prefix_length + self.max_length
        wanted = min(self.block_limit, batch * self.blocks.blocks_for(length)) + 1
        if network is not self.network or wanted > self._allocated:
            network.allocate_cache(wanted)
            self.network, self._allocated = network, wanted
            self.blocks = BlockManager(wanted, self.block_size)
        self._held = network.hold()


def _pieces(lengths: Sequence[int], chunk: int) -> list[list[tuple[int, int, int]]]:
    """Cut prompts into calls of at most ``chunk`` tokens; each piece is (row, start, stop)."""
    calls: list[list[tuple[int, int, int]]] = [[]]
    room = chunk
    for row, length in enumerate(lengths):
        start = 0
        while start < length:
            stop = min(length, start + room)
            calls[-1].append((row, start, stop))
            room -= stop - start
            start = stop
            if room == 0:
                calls.append([])
                room = chunk
    return [call for call in calls if call]
