"""From lists of ids to next-token logits: the device side of generation.

``CachedRunner`` keeps keys and values in a paged cache; ``RecomputeRunner`` runs the whole sequence at
every step and is what the cache is checked against. Both offer what the engine asks of a runner:
``prefill``, ``decode``, ``release``, ``vocab_size`` and ``max_length``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindformers.generation.block_manager import BlockManager

PREFILL_CHUNK = 512  # tokens; bounds the memory of one pass over a long prompt


def to_tensor(array: Any) -> Tensor:
    """Return an int32 tensor."""
    return Tensor(np.ascontiguousarray(array, dtype=np.int32))


def dynamic(num_axes: int) -> Tensor:
    """Return the placeholder of an int32 input whose every axis may change from call to call."""
    return Tensor(shape=[None] * num_axes, dtype=ms.int32)


class CachedForward(nn.Cell):
    """``network.cached_logits`` as a cell of its own, compiled once for all shapes in graph mode."""

    def __init__(self, network: nn.Cell):
        super().__init__(auto_prefix=False)
        self.network = network
        if ms.get_context("mode") == ms.GRAPH_MODE:
            self.set_inputs(dynamic(2), dynamic(2), dynamic(1), dynamic(2), dynamic(1), dynamic(1))

    def construct(self, input_ids: Tensor, position_ids: Tensor, slot_mapping: Tensor, block_tables: Tensor,
                  batch_valid_length: Tensor, last_rows: Tensor) -> Tensor:
        """Return (B, V) float32; see ``cached_logits`` of the network."""
        return self.network.cached_logits(input_ids, position_ids, slot_mapping, block_tables, batch_valid_length,
                                          last_rows)


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

    def prefill(self, prompts: Sequence[Sequence[int]]) -> np.ndarray:
        """Take the prompts and return the logits after each, (B, V) float32."""
        self.rows = [list(prompt) for prompt in prompts]
        return self._logits(range(len(self.rows)))

    def decode(self, tokens: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Append ``tokens`` (A,) to the prompts ``rows`` (A,) and return the logits after each, (A, V)."""
        for token, row in zip(tokens, rows, strict=True):
            self.rows[row].append(int(token))
        return self._logits(rows)

    def release(self) -> None:
        """Forget the sequences."""
        self.rows = []

    def _logits(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        picked = [self.rows[row] for row in rows]
        width = max(map(len, picked))
        ids = np.zeros((len(picked), width), np.int32)
        for index, row in enumerate(picked):
            ids[index, : len(row)] = row  # what stands right of a causal sequence cannot change it
        last = np.arange(len(picked)) * width + [len(row) - 1 for row in picked]
        return np.array(self.forward(to_tensor(ids), to_tensor(last)).asnumpy())


class CachedRunner:
    """Keys and values of all running sequences in a paged cache.

    Args:
        network: A network with ``allocate_cache``, ``cached_logits`` and ``add_flags_custom``.
        chunk: Tokens of a prompt that go through the network at once.
    """

    def __init__(self, network: nn.Cell, chunk: int = PREFILL_CHUNK):
        self.network, self.chunk = network, chunk
        self.vocab_size, self.max_length = network.config.vocab_size, network.config.seq_length
        self.block_size, self.max_blocks = network.config.block_size, network.config.num_blocks
        self.blocks: BlockManager | None = None
        self.forward: CachedForward | None = None
        self.lengths = np.zeros(0, np.int64)
