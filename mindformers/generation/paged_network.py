"""A native network with a paged cache, and one call of it over pieces of several sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mindformers.generation.array import Array
from mindformers.generation.paged_step import Piece, flatten


class PagedNetwork(Protocol):
    """A network with a paged cache; see ``NativeNetwork``."""

    def allocate_cache(self, num_blocks: int) -> None:
        """Give every layer an empty cache of ``num_blocks`` blocks."""

    def write_cache(self, slots: Array, past: Array) -> None:
        """Put keys and values that come from no token into slots of every layer."""

    def run(
        self,
        ids: Array,
        positions: Array,
        slots: Array,
        starts: Array,
        lengths: Array,
        tables: Array,
        picked: Array,
    ) -> Array:
        """Run the network on some tokens; return the picked ones' logits, (R, V) float32."""

    def run_keeping(
        self,
        ids: Array,
        positions: Array,
        slots: Array,
        starts: Array,
        lengths: Array,
        tables: Array,
        picked: Array,
        kept: Array,
    ) -> tuple[Array, Array]:
        """Return the logits of the picked ones and the hidden states of the kept ones, (K, H) float32."""

    def hold(self) -> object:
        """Return what keeps the weights where they are now."""


def run_pieces(
    network: PagedNetwork, pieces: Sequence[Piece], block_size: int, prefix_length: int
) -> tuple[Array, Array]:
    """Read the pieces' tokens in one call.

    Returns:
        In the order of the pieces, the picked tokens' logits, (R, V) float32, and of those pieces that
        give hidden states these, (K, H) float32.
    """
    flat = flatten(pieces, block_size, prefix_length)
    return network.run_keeping(
        flat.ids,
        flat.positions,
        flat.slots,
        flat.starts,
        flat.lengths,
        flat.tables,
        flat.picked,
        flat.kept,
    )
