"""A step computed by the native kernels; needs no MindSpore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from mindformers.generation.array import Array
from mindformers.generation.paged_network import PagedNetwork, run_pieces
from mindformers.generation.paged_step import Piece, by_piece, prefix_slots


class SharedBlocksNetwork(PagedNetwork, Protocol):
    """One whose sequences can share blocks."""

    def copy_blocks(self, sources: Array, targets: Array) -> None:
        """Copy whole blocks of every layer."""


class NativeStep:
    """A native network and its cache.

    Args:
        network: The network; its cache is this object's alone.
        vocab_size: V.
        hidden_size: H.
        max_length: Tokens of prompt and answer.
        block_size: Tokens of a block.
        block_bytes: Memory of a block in all layers.
        prefix_length: Positions of a trained prefix.
        prefix: That prefix, (layers, 2, positions, groups, head_dim) float32; None without one.
    """

    is_whole = False

    def __init__(
        self,
        network: SharedBlocksNetwork,
        *,
        vocab_size: int,
        hidden_size: int,
        max_length: int,
        block_size: int,
        block_bytes: int,
        prefix_length: int = 0,
        prefix: Array | None = None,
    ):
        self.network, self.prefix = network, prefix
        self.vocab_size, self.hidden_size, self.max_length = vocab_size, hidden_size, max_length
        self.block_size, self.block_bytes = block_size, block_bytes
        self.prefix_length = prefix_length
        self._held: object = None  # weights may be set anew while text is generated

    def allocate(self, num_blocks: int) -> None:
        """Make the cache, empty; what it held before is gone."""
        self.network.allocate_cache(num_blocks)
        self._held = self.network.hold()

    def write_prefix(self, tables: Array) -> None:
        """Put the trained prefix at the beginning of some sequences; ``tables``: (A, W) int32."""
        assert self.prefix is not None
        for slots in prefix_slots(tables, self.block_size, self.prefix_length):
            self.network.write_cache(slots, self.prefix)

    def copy_blocks(self, copies: Mapping[int, int]) -> None:
        """Copy the keys and values of whole blocks; ``copies``: to which block, from which."""
        self.network.copy_blocks(np.array(list(copies.values())), np.array(list(copies)))

    def run(self, pieces: Sequence[Piece]) -> list[Array]:
        """Read the pieces' tokens in one call; see ``PagedStep.run``."""
        found = run_pieces(self.network, pieces, self.block_size, self.prefix_length)
        return by_piece(pieces, *found)
