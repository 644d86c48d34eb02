"""Which cache blocks hold which tokens, so that a prompt that begins like an earlier one is not read again.

A block is known by what stands before it and by its own tokens, both compared themselves: no two contents
share an entry, and nothing rests on a hash. An entry lives as long as its block is not given to others, so
there are never more than blocks.
"""

from __future__ import annotations

from collections import OrderedDict

from mindformers.generation.array import Array

START = 0  # what stands before the first block of every sequence


class PrefixCache:
    """Finds full blocks by content, and keeps those that nobody owns until their room is needed."""

    def __init__(self) -> None:
        self._entries: dict[tuple[int, bytes], tuple[int, int]] = {}  # -> block, number of its own
        self._keys: dict[int, tuple[int, bytes]] = {}  # block -> its key among the entries
        self._idle: OrderedDict[int, None] = OrderedDict()  # nobody's, the longest unused first
        self._last = START  # numbers are never used twice, so a key cannot outlive what it names

    @property
    def num_idle(self) -> int:
        """Blocks nobody owns whose content can still be had."""
        return len(self._idle)

    def find(self, ids: Array, block_size: int) -> tuple[list[int], int]:
        """Return the blocks that hold the beginning of ``ids``, and the number of the last one.

        The last token is always left out: reading it gives the logits of what follows.
        """
        blocks: list[int] = []
        number = START
        for start in range(0, len(ids) - block_size, block_size):
            found = self._entries.get((number, ids[start : start + block_size].tobytes()))
            if found is None:
                break
            blocks.append(found[0])
            number = found[1]
        return blocks, number

    def add(self, block: int, before: int, tokens: Array) -> int:
        """Note what a block holds.

        Args:
            block: A block that somebody owns.
            before: Number of the block before it, ``START`` for the first.
            tokens: Its ids, as many as a block has room for.

        Returns:
            The number of this content; that of another block where one holds the same.
        """
        key = (before, tokens.tobytes())
        if key not in self._entries:
            self._last += 1
            self._entries[key] = (block, self._last)
            self._keys[block] = key
        return self._entries[key][1]

    def keep(self, block: int) -> bool:
        """Keep a block that its last owner gave back; False: its content is not known."""
        if block not in self._keys:
            return False
        self._idle[block] = None
        return True

    def claim(self, block: int) -> None:
        """Take note that a block which ``find`` gave has an owner again."""
        self._idle.pop(block, None)

    def evict(self) -> int:
        """Forget the block that nobody owns for the longest time, and return it."""
        block, _ = self._idle.popitem(last=False)
        del self._entries[self._keys.pop(block)]
        return block
