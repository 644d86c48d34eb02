"""From lists of ids to next-token logits: the device side of generation.

``CachedRunner`` keeps keys and values in a paged cache; ``RecomputeRunner`` runs the whole sequence at
every step and is what the cache is checked against. Both offer what the engine asks of a runner:
the methods of ``ModelRunner``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindformers.generation.array import Array
from mindformers.generation.block_manager import BlockManager
from mindformers.generation.drafts import NOT_ON_NPU
from mindformers.logger import warn_once
from mindformers.ops.backend import active_backend

PREFILL_CHUNK = 512  # tokens of a prompt in a pass, at most
SMALLEST_CHUNK = 16
SCORES = 2**26  # of a layer in a pass, about; bounds its memory where much is cached


def to_tensor(array: Any) -> Tensor:
    """Return an int32 tensor."""
    return Tensor(np.ascontiguousarray(array, dtype=np.int32))


def dynamic(num_axes: int) -> Tensor:
    """Return the placeholder of an int32 input whose every axis may change from call to call."""
    return Tensor(shape=[None] * num_axes, dtype=ms.int32)


def right_padded(rows: Sequence[Sequence[int]]) -> Array:
    """Return rows of ids as (B, S) int32, short ones filled up with 0.

    What stands to the right of a causal sequence cannot change it.
    """
    ids = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
    return ids


class CachedForward(nn.Cell):
    """``network.cached_logits`` as a cell of its own, compiled once for all shapes in graph mode."""

    def __init__(self, network: nn.Cell):
        super().__init__(auto_prefix=False)
        self.network = network
        if ms.get_context("mode") == ms.GRAPH_MODE:
            self.set_inputs(dynamic(2), dynamic(2), dynamic(1), dynamic(2), dynamic(1), dynamic(1))

    def construct(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        slot_mapping: Tensor,
        block_tables: Tensor,
        batch_valid_length: Tensor,
        last_rows: Tensor,
    ) -> Tensor:
        """Return (B, V) float32; see ``cached_logits`` of the network."""
        return self.network.cached_logits(
            input_ids, position_ids, slot_mapping, block_tables, batch_valid_length, last_rows
        )


class FullForward(nn.Cell):
    """``network.full_logits`` as a cell of its own, compiled once for all shapes in graph mode."""

    def __init__(self, network: nn.Cell):
        super().__init__(auto_prefix=False)
        self.network = network
        if ms.get_context("mode") == ms.GRAPH_MODE:
            self.set_inputs(dynamic(2), dynamic(1))

    def construct(self, input_ids: Tensor, last_rows: Tensor) -> Tensor:
        """Return (B, V) float32; see ``full_logits`` of the network."""
        return self.network.full_logits(input_ids, last_rows)


class RecomputeRunner:
    """No cache: every step is a pass over all tokens so far."""

    def __init__(self, network: nn.Cell):
        self.vocab_size, self.max_length = network.config.vocab_size, network.config.seq_length
        self.forward = FullForward(network)
        self.rows: list[list[int]] = []

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Array:
        """Take the prompts and return the logits after each, (B, V) float32."""
        self.rows = [list(prompt) for prompt in prompts]
        return self._logits(range(len(self.rows)), [1] * len(self.rows))

    def decode(self, tokens: Array, rows: Array) -> Array:
        """Append ``tokens`` (A,) to the prompts ``rows`` (A,) and return the logits after each, (A, V)."""
        return self.extend([[int(token)] for token in tokens], rows)

    def extend(self, tokens: Sequence[Sequence[int]], rows: Array) -> Array:
        """Append several ``tokens`` to each of the prompts ``rows`` (A,); return the logits after all, (T, V)."""
        for more, row in zip(tokens, rows, strict=True):
            self.rows[row] += more
        return self._logits(rows, [len(more) for more in tokens])

    def rollback(self, lengths: Sequence[int], rows: Sequence[int]) -> None:
        """Forget of some rows what lies behind their first ``lengths`` tokens."""
        for length, row in zip(lengths, rows, strict=True):
            del self.rows[row][length:]

    def room(self, num_rows: int) -> int:
        """Return how many tokens each row can take at once: nothing is kept that could be full."""
        del num_rows
        return self.max_length

    def release(self) -> None:
        """Forget the sequences."""
        self.rows = []

    def _logits(self, rows: Sequence[int] | Array, counts: Sequence[int]) -> Array:
        """Return the logits after the last ``counts`` tokens of some rows."""
        picked = [self.rows[row] for row in rows]
        ids = right_padded(picked)
        last = [
            index * ids.shape[1] + np.arange(len(row) - count, len(row))
            for index, (row, count) in enumerate(zip(picked, counts, strict=True))
        ]
        return np.array(self.forward(to_tensor(ids), to_tensor(np.concatenate(last))).asnumpy())


class CachedRunner:
    """Keys and values of all running sequences in a paged cache.

    The cache is made at the first prompt, as large as that batch could ever need and no larger than
    ``config.num_blocks`` blocks, and made anew when a larger batch comes.

    Args:
        network: A network with ``allocate_cache``, ``cached_logits``, ``add_flags_custom``, and
            ``prefix_length`` and ``write_prefix`` for a trained prefix that every row begins with.
        chunk: Tokens of a prompt that go through the network at once, at most.
    """

    def __init__(self, network: nn.Cell, chunk: int = PREFILL_CHUNK):
        config = network.config
        self.network = network
        self.vocab_size, self.max_length = config.vocab_size, config.seq_length
        self.num_heads, self.prefix_length = config.num_heads, network.prefix_length
        # An NPU's prompt attention sees this pass only, so a prompt goes through in one piece there.
        self.tells_passes_apart = active_backend() == "ascend"
        self.chunk = self.max_length if self.tells_passes_apart else chunk
        self.block_size, self.block_limit = config.block_size, config.num_blocks
        self.blocks = BlockManager(2, self.block_size)
        self.forward: CachedForward | None = None
        self._serial = -1  # of the network's cache that is this runner's

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Array:
        """Take the prompts and return the logits after each, (B, V) float32.

        Raises:
            GenerationError: If they do not fit into the cache.
        """
        self._make_room(len(prompts))
        rows = list(range(len(prompts)))
        lengths = np.array([len(prompt) for prompt in prompts])
        self.blocks.allocate(rows, (self.prefix_length + lengths).tolist())
        if self.prefix_length:
            places = np.arange(self.prefix_length)
            self.network.write_prefix(self.blocks.slot_mapping(rows, places))
        ids = right_padded(prompts)
        tables = self.blocks.block_tables(rows)
        logits = np.empty((len(prompts), self.vocab_size), np.float32)
        if self.tells_passes_apart:
            self.network.add_flags_custom(is_first_iteration=True)
        for start, stop in self._pieces(*ids.shape):
            last = np.clip(lengths - 1 - start, 0, stop - start - 1)
            positions = np.arange(start, stop)
            found = self._run(
                ids[:, start:stop],
                positions,
                self.blocks.slot_mapping(rows, positions + self.prefix_length),
                tables[:, : self.blocks.blocks_for(self.prefix_length + stop)],
                self.prefix_length + np.minimum(lengths, stop),
                np.arange(len(rows)) * (stop - start) + last,
            )
            ends_here = (lengths > start) & (lengths <= stop)
            logits[ends_here] = found[ends_here]
        if self.tells_passes_apart:
            self.network.add_flags_custom(is_first_iteration=False)
        return logits

    def _pieces(self, batch: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) of what goes through at once: less where more is cached, on an NPU all."""
        start = 0
        while start < length:
            most = SCORES // (batch * self.num_heads * (start + self.chunk))
            size = self.chunk if self.tells_passes_apart else max(SMALLEST_CHUNK, most)
            stop = min(start + min(size, self.chunk), length)
            yield start, stop
            start = stop

    def decode(self, tokens: Array, rows: Array) -> Array:
        """Append ``tokens`` (A,) to the prompts ``rows`` (A,) and return the logits after each, (A, V).

        Raises:
            GenerationError: If the cache is full.
        """
        return self.extend([[int(token)] for token in tokens], rows)

    def extend(self, tokens: Sequence[Sequence[int]], rows: Array) -> Array:
        """Append several ``tokens`` to each of the prompts ``rows`` (A,); return the logits after all, (T, V).

        Raises:
            GenerationError: If the cache is full.
        """
        running = [int(row) for row in rows]
        self.blocks.free(sorted(set(self.blocks.rows) - set(running)))
        counts = np.array([len(each) for each in tokens])
        self.blocks.append(running, counts.tolist())
        lengths = self.blocks.lengths(running)
        steps = np.arange(counts.max())
        places = (lengths - counts)[:, None] + steps  # (A, S); those past a row's end are filling
        return self._run(
            right_padded(tokens),
            np.minimum(places - self.prefix_length, self.max_length - 1),
            self.blocks.slot_mapping(running, places),
            self.blocks.block_tables(running),
            lengths,
            np.flatnonzero(steps < counts[:, None]),
        )

    def rollback(self, lengths: Sequence[int], rows: Sequence[int]) -> None:
        """Forget of some rows what lies behind their first ``lengths`` tokens."""
        self.blocks.truncate(rows, [self.prefix_length + length for length in lengths])

    def room(self, num_rows: int) -> int:
        """Return how many tokens each of so many rows can surely take at once."""
        if self.tells_passes_apart:  # an NPU's attention takes one token of a row at a time
            warn_once(NOT_ON_NPU)
            return 1
        return self.blocks.spare(num_rows)

    def release(self) -> None:
        """Take every block back; the cache itself is kept for the next call."""
        self.blocks.free_all()

    def _make_room(self, batch: int) -> None:
        length = self.prefix_length + self.max_length
        wanted = min(self.block_limit, batch * self.blocks.blocks_for(length)) + 1
        # One more than needed: block 0 is the dump.
        is_ours = self.network.cache_serial == self._serial
        if self.forward is None or not is_ours or wanted > self.blocks.num_blocks:
            self.blocks = BlockManager(wanted, self.block_size)
            self.network.allocate_cache(wanted)
            self._serial = self.network.cache_serial
            self.forward = CachedForward(self.network)

    def _run(
        self,
        ids: Array,
        positions: Array,
        slots: Array,
        tables: Array,
        lengths: Array,
        picked: Array,
    ) -> Array:
        """Run the network on (B, S) ids; ``picked`` (R,) are the tokens of all B * S whose logits are wanted."""
        assert self.forward is not None
        found = self.forward(
            to_tensor(ids),
            to_tensor(np.broadcast_to(positions, ids.shape)),
            to_tensor(slots.reshape(-1)),
            to_tensor(tables),
            to_tensor(lengths),
            to_tensor(picked),
        )
        return np.array(found.asnumpy())
