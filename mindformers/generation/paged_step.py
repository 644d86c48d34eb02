"""One step of a network with a paged cache, whatever computes it: some tokens in, logits or hidden states out.

Letters: B pieces, T tokens, R picked tokens, K kept ones, V vocabulary, H hidden.
"""

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
        picked: Which of the tokens something is wanted of, rising; ``(len(ids) - 1,)`` is the last.
        gives_hidden: Whether that is their hidden states after the final norm, and not their logits.
    """

    ids: Sequence[int] | Array
    start: int
    blocks: Array
    picked: Sequence[int] = ()
    gives_hidden: bool = False


class PagedStep(Protocol):
    """A network and its cache, seen from whoever decides which tokens come next."""

    vocab_size: int  # V
    hidden_size: int  # H
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

    def run(self, pieces: Sequence[Piece]) -> list[Array]:
        """Read the pieces' tokens; return of each piece what its picked ones give.

        Returns:
            For each piece (R, V) float32, or (R, H) where it gives hidden states.
        """


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
        picked: (R,) int32, those of the T tokens whose logits are wanted.
        kept: (K,) int32, those whose hidden states are.
    """

    ids: Array
    positions: Array
    slots: Array
    starts: Array
    lengths: Array
    tables: Array
    picked: Array
    kept: Array


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
    picked, kept = (
        [
            starts[n] + offset
            for n, piece in enumerate(pieces)
            if piece.gives_hidden == gives_hidden
            for offset in piece.picked
        ]
        for gives_hidden in (False, True)
    )
    return FlatStep(
        ids=np.concatenate([np.asarray(piece.ids, np.int32) for piece in pieces]),
        positions=positions,
        slots=slots.astype(np.int32, copy=False),
        starts=starts,
        lengths=first + counts + prefix_length,
        tables=tables,
        picked=np.array(picked, np.int32),
        kept=np.array(kept, np.int32),
    )


def by_piece(pieces: Sequence[Piece], logits: Array, states: Array) -> list[Array]:
    """Return what each piece's picked tokens give, of the logits (R, V) and hidden states (K, H) of all."""
    ends = {False: 0, True: 0}
    found = []
    for piece in pieces:
        rows, start = states if piece.gives_hidden else logits, ends[piece.gives_hidden]
        ends[piece.gives_hidden] += len(piece.picked)
        found.append(rows[start : ends[piece.gives_hidden]])
    return found


def prefix_slots(tables: Array, block_size: int, prefix_length: int) -> Array:
    """Return where a trained prefix goes in sequences with these blocks, (A, prefix_length) int32."""
    places = np.arange(prefix_length)
    found = tables[:, places // block_size] * block_size + places % block_size
    return found.astype(np.int32, copy=False)
