"""A step computed by a MindSpore network, on a CPU or an NPU."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindformers.errors import GenerationError
from mindformers.generation.array import Array
from mindformers.generation.block_tables import DUMP_BLOCK
from mindformers.generation.paged_step import Piece, flatten, prefix_slots
from mindformers.generation.runner import SCORES, SMALLEST_CHUNK, CachedForward, to_tensor
from mindformers.ops.backend import active_backend
from mindformers.parallel.mesh import mesh


class CachedHidden(CachedForward):
    """``network.cached_hidden`` in float32, as ``CachedForward`` is the logits."""

    def __init__(self, network: nn.Cell):
        super().__init__(network)
        self.cast = ops.Cast()

    def construct(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        slot_mapping: Tensor,
        block_tables: Tensor,
        batch_valid_length: Tensor,
        picked_rows: Tensor,
    ) -> Tensor:
        """Return (R, H) float32; see ``cached_hidden`` of the network."""
        hidden = self.network.cached_hidden(
            input_ids, position_ids, slot_mapping, block_tables, batch_valid_length, picked_rows
        )
        return self.cast(hidden, ms.float32)


class PortableStep:
    """A network and its cache. Single tokens and pieces of prompts go through it apart, each padded.

    Args:
        network: A network with ``allocate_cache``, ``cached_logits``, ``cached_hidden``, ``copy_cache``,
            ``add_flags_custom``, and ``prefix_length`` and ``write_prefix`` for a trained prefix.

    Raises:
        GenerationError: If several processes share the network, or an NPU's attention of a prompt would
            not see its prefix.
    """

    block_bytes = 0  # MindSpore's parameters take their memory when they are made

    def __init__(self, network: Any) -> None:
        config = network.config
        self.network: Any = network
        self.vocab_size, self.hidden_size = config.vocab_size, config.hidden_size
        self.max_length = config.seq_length
        self.block_size, self.prefix_length = config.block_size, network.prefix_length
        # An NPU's prompt attention sees the tokens of its pass alone.
        self.is_whole = active_backend() == "ascend"
        if not mesh().tensor.is_alone:
            raise GenerationError(
                "the network is shared by several processes, which would take requests in different order",
                where="engine",
                fix="open the engine in a process of its own, without tensor parallelism",
            )
        if self.is_whole and self.prefix_length:
            raise GenerationError(
                "a trained prefix cannot be read in steps on an NPU",
                where="engine",
                fix="answer with generate(use_past=False), or on a CPU",
            )
        self._forwards: dict[bool, nn.Cell] = {}  # for logits and for hidden states
        self._serial = -1

    def allocate(self, num_blocks: int) -> None:
        """Make the cache, empty; what it held before is gone."""
        self.network.allocate_cache(num_blocks)
        self._forwards = {False: CachedForward(self.network), True: CachedHidden(self.network)}
        self._serial = self.network.cache_serial

    def write_prefix(self, tables: Array) -> None:
        """Put the trained prefix at the beginning of some sequences; ``tables``: (A, W) int32."""
        self.network.write_prefix(prefix_slots(tables, self.block_size, self.prefix_length))

    def copy_blocks(self, copies: Mapping[int, int]) -> None:
        """Copy the keys and values of whole blocks; ``copies``: to which block, from which."""
        offsets = np.arange(self.block_size)
        sources, targets = (
            (np.array(list(blocks))[:, None] * self.block_size + offsets).reshape(-1)
            for blocks in (copies.values(), copies)
        )
        self.network.copy_cache(sources, targets)

    def run(self, pieces: Sequence[Piece]) -> list[Array]:
        """Read the pieces' tokens; see ``PagedStep.run``.

        Raises:
            GenerationError: If another call has made a cache of its own since.
        """
        if self.network.cache_serial != self._serial:
            raise GenerationError(
                "another call answers with this network, and its cache took the place of the engine's",
                where="engine",
                fix="while an engine is open, ask it instead of the network",
            )
        cut = [list(self._cut(piece)) for piece in pieces]
        parts = [part for each in cut for part in each]
        found: list[Array] = [np.empty(0)] * len(parts)
        for places in self._batches(parts):
            rows = self._run([parts[place] for place in places])
            ends = np.cumsum([len(parts[place].picked) for place in places])
            for place, own in zip(places, np.split(rows, ends[:-1]), strict=True):
                found[place] = own
        given = iter(found)
        return [np.concatenate([next(given) for _ in each]) for each in cut]

    def _cut(self, piece: Piece) -> Iterator[Piece]:
        """Yield a piece in parts whose attention scores are not too many; on an NPU as it is."""
        length = len(piece.ids)
        most = SCORES // max(1, self._num_scores([piece]) // length)
        size = length if self.is_whole else max(SMALLEST_CHUNK, most)
        for start in range(0, length, size):
            stop = min(start + size, length)
            picked = tuple(place - start for place in piece.picked if start <= place < stop)
            ids = piece.ids[start:stop]
            yield Piece(ids, piece.start + start, piece.blocks, picked, piece.gives_hidden)

    def _batches(self, pieces: Sequence[Piece]) -> Iterator[list[int]]:
        """Yield the places of pieces that go through the network together, in order."""
        for is_prompt, gives_hidden in itertools.product((True, False), (False, True)):
            batch: list[int] = []
            for place, piece in enumerate(pieces):
                kind = piece.start == 0 if self.is_whole else len(piece.ids) > 1
                if (kind, piece.gives_hidden) != (is_prompt, gives_hidden):
                    continue
                together = [*(pieces[each] for each in batch), piece]
                if batch and not self.is_whole and self._num_scores(together) > SCORES:
                    yield batch
                    batch = []
                batch.append(place)
            if batch and self.is_whole:
                self.network.add_flags_custom(is_first_iteration=is_prompt)
            if batch:
                yield batch

    def _num_scores(self, pieces: Sequence[Piece]) -> int:
        """Return how many attention scores a layer computes for padded pieces."""
        width = max(len(piece.ids) for piece in pieces)
        cached = self.prefix_length + max(piece.start + len(piece.ids) for piece in pieces)
        return int(len(pieces) * self.network.config.num_heads * width * cached)

    def _run(self, pieces: Sequence[Piece]) -> Array:
        """Return what the picked tokens of pieces of one kind give, in order."""
        flat = flatten(pieces, self.block_size, self.prefix_length)
        counts = np.diff(flat.starts)
        width = int(counts.max())
        # What fills a row up repeats its last token, written where nobody reads.
        columns = np.arange(width)
        source = flat.starts[:-1, None] + np.minimum(columns, counts[:, None] - 1)  # (B, width)
        slots = np.where(columns < counts[:, None], flat.slots[source], DUMP_BLOCK)
        gives_hidden = pieces[0].gives_hidden
        wanted = flat.kept if gives_hidden else flat.picked
        piece = np.searchsorted(flat.starts, wanted, side="right") - 1
        picked = piece * width + wanted - flat.starts[piece]
        if not len(picked):
            picked = np.zeros(1, np.int32)  # a network gives the rows of one token or more
        found = self._forwards[gives_hidden](
            to_tensor(flat.ids[source]),
            to_tensor(flat.positions[source]),
            to_tensor(slots.reshape(-1)),
            to_tensor(flat.tables[:, : -(-int(flat.lengths.max()) // self.block_size)]),
            to_tensor(flat.lengths),
            to_tensor(picked),
        )
        return np.array(found.asnumpy())[: len(wanted)]
