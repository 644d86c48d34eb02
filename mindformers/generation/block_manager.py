"""Which blocks of the paged key/value cache belong to which row.

A slot is one token's place: block * block_size + offset. Block 0 belongs to nobody: padding is
written there and tables are filled up with it, so that every number a kernel gets is a valid one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mindformers.errors import GenerationError
from mindformers.generation.array import Array

DUMP_BLOCK = 0


class BlockManager:
    """Hands out cache blocks to rows and takes them back.

    Args:
        num_blocks: Blocks of the cache, the reserved one included; 2 or more.
        block_size: Tokens of a block; 1 or more.

    Raises:
        GenerationError: If either is too small.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        for name, value, low in (("num_blocks", num_blocks, 2), ("block_size", block_size, 1)):
            if value < low:
                raise GenerationError(f"found {value}", where=name, allowed=f"{low} or more")
        self.num_blocks, self.block_size = num_blocks, block_size
        # Taken from the end: a block just given back goes out next, still in the CPU's caches.
        self._free = list(range(num_blocks - 1, DUMP_BLOCK, -1))
        self._blocks: dict[int, list[int]] = {}
        self._lengths: dict[int, int] = {}
        self._tables: tuple[tuple[int, ...], Array] | None = (
            None  # as last asked for, until a block moves
        )

    @property
    def num_free(self) -> int:
        """Blocks nobody owns."""
        return len(self._free)

    @property
    def rows(self) -> list[int]:
        """Rows that own blocks."""
        return list(self._blocks)

    def blocks_for(self, num_tokens: int) -> int:
        """Return how many blocks ``num_tokens`` tokens fill."""
        return -(-num_tokens // self.block_size)

    def allocate(self, rows: Sequence[int], lengths: Sequence[int]) -> None:
        """Give new rows the blocks of their first tokens; all rows get theirs, or none.

        Args:
            rows: Row numbers that own nothing yet.
            lengths: Tokens of each, 1 or more.

        Raises:
            GenerationError: If too few blocks are free.
        """
        taken = [row for row in rows if row in self._blocks]
        assert not taken, f"rows {taken} own blocks already"
        self._require(sum(self.blocks_for(length) for length in lengths))
        self._tables = None
        for row, length in zip(rows, lengths, strict=True):
            self._blocks[row] = [self._free.pop() for _ in range(self.blocks_for(length))]
            self._lengths[row] = int(length)

    def append(self, rows: Sequence[int], counts: Sequence[int] | None = None) -> None:
        """Make room for more tokens in each row; in all of them, or in none.

        Args:
            rows: Rows that own blocks.
            counts: Tokens to add to each; None: one.

        Raises:
            GenerationError: If too few blocks are free.
        """
        lengths = [
            self._lengths[row] + count
            for row, count in zip(rows, counts or [1] * len(rows), strict=True)
        ]
        wanted = [
            self.blocks_for(length) - len(self._blocks[row])
            for row, length in zip(rows, lengths, strict=True)
        ]
        self._require(sum(wanted))
        self._tables = None if any(wanted) else self._tables
        for row, length, more in zip(rows, lengths, wanted, strict=True):
            self._blocks[row] += [self._free.pop() for _ in range(more)]
            self._lengths[row] = length

    def spare(self, num_rows: int) -> int:
        """Return how many tokens each of so many rows can surely take at once, whatever it holds."""
        return self.num_free // num_rows * self.block_size

    def truncate(self, rows: Sequence[int], lengths: Sequence[int]) -> None:
        """Take back what lies behind the first ``lengths`` tokens, 1 or more, of rows."""
        for row, length in zip(rows, lengths, strict=True):
            assert 1 <= length <= self._lengths[row], (
                f"row {row} has {self._lengths[row]}, not {length}"
            )
            kept = self.blocks_for(length)
            if kept < len(self._blocks[row]):
                self._free.extend(reversed(self._blocks[row][kept:]))
                del self._blocks[row][kept:]
                self._tables = None
            self._lengths[row] = int(length)

    def free(self, rows: Iterable[int]) -> None:
        """Take back the blocks of rows."""
        self._tables = None
        for row in rows:
            self._free.extend(reversed(self._blocks.pop(row)))
            del self._lengths[row]

    def free_all(self) -> None:
        """Take back every block."""
        self.free(self.rows)

    def lengths(self, rows: Sequence[int]) -> Array:
        """Return the tokens of each row, (A,) int32."""
        return np.array([self._lengths[row] for row in rows], np.int32)

    def block_tables(self, rows: Sequence[int]) -> Array:
        """Return the blocks of each row in order, (A, W) int32, filled up with ``DUMP_BLOCK``.

        W is the longest row's number of blocks. The array is read-only: it serves until a block moves.
        """
        key = tuple(rows)
        if self._tables is not None and self._tables[0] == key:
            return self._tables[1]
        longest = max((len(self._blocks[row]) for row in rows), default=0)
        tables = np.full((len(rows), longest), DUMP_BLOCK, np.int32)
        for place, row in enumerate(rows):
            blocks = self._blocks[row]
            tables[place, : len(blocks)] = blocks
        tables.flags.writeable = False
        self._tables = (key, tables)
        return tables

    def slot_mapping(self, rows: Sequence[int], positions: Array) -> Array:
        """Return the slots of tokens by their positions, (A, S) int32.

        Args:
            rows: A row numbers.
            positions: (A, S) or (S,) whole numbers; one outside a row's tokens is padding, and its
                slot is 0, in the block that belongs to nobody.
        """
        positions = np.broadcast_to(positions, (len(rows), np.shape(positions)[-1]))
        is_real = (positions >= 0) & (positions < self.lengths(rows)[:, np.newaxis])
        inside = np.where(is_real, positions, 0)
        tables = self.block_tables(rows)
        blocks = np.take_along_axis(tables, inside // self.block_size, axis=1)
        slots = blocks * self.block_size + inside % self.block_size
        return np.where(is_real, slots, DUMP_BLOCK).astype(np.int32)

    def last_slots(self, rows: Sequence[int]) -> Array:
        """Return the slot of each row's newest token, (A,) int32."""
        size = self.block_size
        slots = [self._blocks[row][-1] * size + (self._lengths[row] - 1) % size for row in rows]
        return np.array(slots, np.int32)

    def _require(self, wanted: int) -> None:
        if wanted <= self.num_free:
            return
        raise GenerationError(
            f"the key/value cache is full: {wanted} more blocks of {self.block_size} tokens are "
            f"needed, {self.num_free} of {self.num_blocks - 1} are free",
            where="num_blocks",
            fix="raise num_blocks, or give fewer or shorter prompts at a time",
        )
