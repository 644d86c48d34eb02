"""One step of a network with a paged cache, whatever computes it: some tokens of some sequences in, logits out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mindformers.generation.array import Array
from mindformers.generation.block_tables import stacked


@dataclass(frozen=True)
class Piece:
    """The next tokens of one sequence.

    Args:
        ids: 1 or more.
        start: Position of the first; those before it are in the cache.
        blocks: (W,) int32, the sequence's blocks in order, with room for these tokens. A trained
            prefix stands in them before position 0.
        picked: Which of the tokens' logits are wanted, rising; ``(len(ids) - 1,)`` is the last.
    """

    ids: Sequence[int] | Array
    start: int
    blocks: Array
    picked: Sequence[int] = ()


class PagedStep(Protocol):
    """A network and its cache, seen from whoever decides which tokens come next."""

    vocab_size: int  # V
    max_length: int  # tokens of prompt and answer its positions allow
    block_size: int  # tokens
    block_bytes: int  # of memory, taken as it is written; 0 where the cache takes all of it at once
    prefix_length: int  # positions of a trained prefix, which every sequence begins with
    is_whole: bool  # whether a prompt must go through in one piece, from position 0

    def allocate(self, num_blocks: int) -> None:
        """Make the cache, empty; what it held before is gone."""

    def write_prefix(self, tables: Array) -> None:
        """Put the trained prefix at the beginning of some sequences; ``tables``: (A, W) int32."""

    def copy_blocks(self, copies: Mapping[int, int]) -> None:
        """Copy the keys and values of whole blocks; ``copies``: to which block, from which."""

    def run(self, pieces: Sequence[Piece]) -> Array:
        """Read the pieces' tokens; return the picked ones' logits in order, (R, V) float32."""


@dataclass(frozen=True)
class FlatStep:
    """Pieces side by side and without padding, as a kernel takes them. T tokens of B pieces.

    Args:
        ids: (T,) int32.
        positions: (T,) int32.
        slots: (T,) int32, block * block_size + offset.
        starts: (B + 1,) int32, first token of each piece, then T.
        lengths: (B,) int32, cached tokens of each once these are written.
        tables: (B, W) int32.
        picked: (R,) int32, of the T tokens.
    """

    ids: Array
    positions: Array
    slots: Array
    starts: Array
    lengths: Array
    tables: Array
    picked: Array


def flatten(pieces: Sequence[Piece], block_size: int, prefix_length: int) -> FlatStep:
    """Return the arrays of a step."""
    counts = np.array([len(piece.ids) for piece in pieces], np.int32)
    first = np.array([piece.start for piece in pieces], np.int32)
    starts = np.zeros(len(pieces) + 1, np.int32)
    np.cumsum(counts, out=starts[1:])
    row = np.repeat(np.arange(len(pieces)), counts)
    positions = np.arange(starts[-1], dtype=np.int32) + (first - starts[:-1])[row]
    tables = stacked([piece.blocks for piece in pieces])
    cached = positions + prefix_length
    slots = tables[row, cached // block_size] * block_size + cached % block_size
    picked = [starts[n] + offset for n, piece in enumerate(pieces) for offset in piece.picked]
    return FlatStep(
        ids=np.concatenate([np.asarray(piece.ids, np.int32) for piece in pieces]),
        positions=positions,
        slots=slots.astype(np.int32, copy=False),
        starts=starts,
        lengths=first + counts + prefix_length,
        tables=tables,
        picked=np.array(picked, np.int32),
    )


def prefix_slots(tables: Array, block_size: int, prefix_length: int) -> Array:
    """Return where a trained prefix goes in sequences with these blocks, (A, prefix_length) int32."""
    places = np.arange(prefix_length)
    found = tables[:, places // block_size] * block_size + places % block_size
    return found.astype(np.int32, copy=False)
