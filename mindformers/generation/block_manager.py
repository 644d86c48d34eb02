"""Which blocks of the paged key/value cache belong to which row.

A slot is one token's place: block * block_size + offset. Block 0 belongs to nobody: padding is
written there and tables are filled up with it, so that every number a kernel gets is a valid one.
Rows that begin alike can share blocks; one is copied before a row writes into what others read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mindformers.errors import GenerationError
from mindformers.generation.array import Array
from mindformers.generation.block_tables import DUMP_BLOCK, stacked
from mindformers.generation.prefix_cache import START, PrefixCache


@dataclass
class _Row:
    """The blocks of one row."""

    blocks: list[int]
    length: int
    num_known: int = 0  # leading blocks the prefix cache knows
    number: int = START  # of the last of them
    table: Array | None = field(default=None, repr=False)  # ``blocks`` as an array, until one moves


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
        self._owners = [0] * num_blocks
        self._rows: dict[int, _Row] = {}
        self._known = PrefixCache()
        self._copies: dict[int, int] = {}  # to -> from
        self._tables: tuple[tuple[int, ...], Array] | None = (
            None  # as last asked for, until a block moves
        )

    @property
    def num_free(self) -> int:
        """Blocks nobody owns."""
        return len(self._free) + self._known.num_idle

    @property
    def num_cached(self) -> int:
        """Those of them whose content ``open`` can still give."""
        return self._known.num_idle

    @property
    def rows(self) -> list[int]:
        """Rows that own blocks."""
        return list(self._rows)

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
        taken = [row for row in rows if row in self._rows]
        assert not taken, f"rows {taken} own blocks already"
        self._require(sum(self.blocks_for(length) for length in lengths))
        self._tables = None
        for row, length in zip(rows, lengths, strict=True):
            blocks = [self._take() for _ in range(self.blocks_for(length))]
            self._rows[row] = _Row(blocks, int(length))

    def open(self, row: int, ids: Array, reserve: int = 0, is_shared: bool = True) -> int | None:
        """Give a new row the blocks of its first tokens, shared where others hold the same tokens.

        Args:
            row: A row number that owns nothing yet.
            ids: (L,) int32.
            reserve: Blocks that must stay free.
            is_shared: False: all are its own, whatever others hold.

        Returns:
            Tokens that need not be read, fewer than L; None if too few blocks are free.
        """
        assert row not in self._rows, f"row {row} owns blocks already"
        shared, number = self._known.find(ids, self.block_size) if is_shared else ([], START)
        idle = sum(self._owners[block] == 0 for block in shared)
        wanted = self.blocks_for(len(ids)) - len(shared)
        if wanted + idle + reserve > self.num_free:
            return None
        self._tables = None
        for block in shared:
            self._known.claim(block)
            self._owners[block] += 1
        blocks = shared + [self._take() for _ in range(wanted)]
        self._rows[row] = _Row(blocks, len(ids), len(shared), number)
        return len(shared) * self.block_size

    def fork(self, row: int, new_row: int) -> None:
        """Let a new row begin as a copy of another; their blocks are shared."""
        assert new_row not in self._rows, f"row {new_row} owns blocks already"
        own = self._rows[row]
        for block in own.blocks:
            self._owners[block] += 1
        self._tables = None
        self._rows[new_row] = _Row(list(own.blocks), own.length, own.num_known, own.number)

    def note(self, row: int, ids: Array, count: int) -> None:
        """Take note that a row's first ``count`` tokens are written: full blocks can serve others.

        Args:
            row: The row.
            ids: (L,) int32, its tokens; L is ``count`` or more.
            count: Tokens whose keys and values are in the cache.
        """
        own, size = self._rows[row], self.block_size
        for place in range(own.num_known, count // size):
            tokens = ids[place * size : (place + 1) * size]
            own.number = self._known.add(own.blocks[place], own.number, tokens)
            own.num_known += 1

    def needs_block(self, row: int) -> bool:
        """Whether ``append`` has to take a block for one more token of this row."""
        return self._wanted(row, 1) > 0

    def append(self, rows: Sequence[int], counts: Sequence[int] | None = None) -> None:
        """Make room for more tokens in each row; in all of them, or in none.

        A row that would write into a shared block gets one of its own: see ``take_copies``.

        Args:
            rows: Rows that own blocks.
            counts: Tokens to add to each; None: one.

        Raises:
            GenerationError: If too few blocks are free.
        """
        counts = [1] * len(rows) if counts is None else counts
        wanted = [self._wanted(row, count) for row, count in zip(rows, counts, strict=True)]
        self._require(sum(wanted))
        self._tables = None if any(wanted) else self._tables
        for row, count, more in zip(rows, counts, wanted, strict=True):
            if more:
                self._extend(self._rows[row], count)
            self._rows[row].length += count

    def _wanted(self, row: int, count: int) -> int:
        """Return how many blocks ``append`` has to take."""
        own = self._rows[row]
        more = self.blocks_for(own.length + count) - len(own.blocks)
        return more + self._is_copied(own)

    def _is_copied(self, own: _Row) -> bool:
        """Whether the next token goes into a block that others read."""
        return own.length % self.block_size != 0 and self._owners[own.blocks[-1]] > 1

    def _extend(self, own: _Row, count: int) -> None:
        own.table = None
        if self._is_copied(own):
            shared, own.blocks[-1] = own.blocks[-1], self._take()
            self._copies[own.blocks[-1]] = shared
            self._drop(shared)
        while len(own.blocks) < self.blocks_for(own.length + count):
            own.blocks.append(self._take())

    def take_copies(self) -> dict[int, int]:
        """Return what to copy before anything is written: to which block, from which."""
        copies, self._copies = self._copies, {}
        return copies

    def spare(self, num_rows: int) -> int:
        """Return how many tokens each of so many rows can surely take at once, whatever it holds."""
        return self.num_free // num_rows * self.block_size

    def truncate(self, rows: Sequence[int], lengths: Sequence[int]) -> None:
        """Take back what lies behind the first ``lengths`` tokens of rows, 1 or more, and all that were noted."""
        for row, length in zip(rows, lengths, strict=True):
            own = self._rows[row]
            assert max(1, own.num_known * self.block_size) <= length <= own.length, (
                f"row {row} has {own.length}, not {length}"
            )
            kept = self.blocks_for(length)
            if kept < len(own.blocks):
                for block in reversed(own.blocks[kept:]):
                    self._drop(block)
                del own.blocks[kept:]
                own.table = self._tables = None
            own.length = int(length)

    def free(self, rows: Iterable[int]) -> None:
        """Take back the blocks of rows."""
        self._tables = None
        for row in rows:
            # The last ones first: of what is kept for others, an end is given up before its beginning.
            for block in reversed(self._rows.pop(row).blocks):
                self._drop(block)

    def free_all(self) -> None:
        """Take back every block."""
        self.free(self.rows)

    def lengths(self, rows: Sequence[int]) -> Array:
        """Return the tokens of each row, (A,) int32."""
        return np.array([self._rows[row].length for row in rows], np.int32)

    def length(self, row: int) -> int:
        """Return the tokens of a row."""
        return self._rows[row].length

    def table(self, row: int) -> Array:
        """Return the blocks of a row in order, (W,) int32; not to be changed."""
        own = self._rows[row]
        if own.table is None:
            own.table = np.array(own.blocks, np.int32)
        return own.table

    def block_tables(self, rows: Sequence[int]) -> Array:
        """Return the blocks of each row in order, (A, W) int32, filled up with ``DUMP_BLOCK``.

        W is the longest row's number of blocks. The array is read-only: it serves until a block moves.
        """
        key = tuple(rows)
        if self._tables is not None and self._tables[0] == key:
            return self._tables[1]
        tables = stacked([self.table(row) for row in rows])
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
        owned = [self._rows[row] for row in rows]
        return np.array([o.blocks[-1] * size + (o.length - 1) % size for o in owned], np.int32)

    def _take(self) -> int:
        block = self._free.pop() if self._free else self._known.evict()
        self._owners[block] = 1
        return block

    def _drop(self, block: int) -> None:
        self._owners[block] -= 1
        if self._owners[block] == 0 and not self._known.keep(block):
            self._free.append(block)

    def _require(self, wanted: int) -> None:
        if wanted <= self.num_free:
            return
        raise GenerationError(
            f"the key/value cache is full: {wanted} more blocks of {self.block_size} tokens are "
            f"needed, {self.num_free} of {self.num_blocks - 1} are free",
            where="num_blocks",
            fix="raise num_blocks, or give fewer or shorter prompts at a time",
        )
