"""Attention over a paged key/value cache: write this call's keys and values, then attend to all so far.

One form serves the first pass over a prompt, a later chunk of it, and single-token decoding: a query
at position p sees the cached positions 0..p. Slots are numbered block * block_size + offset.
"""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindformers.ops.attention import AscendFlashAttention, PortableAttention
from mindformers.ops.backend import active_backend

# What every layer of one call shares, as a plain tuple (graph mode passes those through):
#   0 mask           (B, 1, S, L) float32, 0 where a cached position is seen, HIDDEN_SCORE where not
#   1 slot_mapping   (B * S,) int32, the slot each token's key and value go to
#   2 context_slots  (B, L) int32, the slots of positions 0..L-1 of each row
#   3 block_tables   (B, W) int32, the blocks of each row in order
#   4 valid_length   (B,) int32, tokens of each row once this call is written
CacheInputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


class PortablePagedAttention(nn.Cell):
    """Cache rows live in one table (slots, G * D): ``ScatterUpdate`` writes a row in O(1) on a CPU."""

    def __init__(
        self, num_heads: int, num_groups: int, head_dim: int, num_slots: int, dtype: ms.dtype.Type
    ):
        super().__init__()
        self.num_groups, self.head_dim = num_groups, head_dim
        shape = (num_slots, num_groups * head_dim)
        self.key_cache = _zeros("key_cache", shape, dtype)
        self.value_cache = _zeros("value_cache", shape, dtype)
        self.write = ops.ScatterUpdate()
        self.attention = PortableAttention(num_heads, num_groups, head_dim)

    def construct(self, query: Tensor, key: Tensor, value: Tensor, cache: CacheInputs) -> Tensor:
        """Write and attend.

        Args:
            query: (B, S, N, D), rotated.
            key: (B, S, G, D), rotated.
            value: (B, S, G, D).
            cache: The call's ``CacheInputs``, as a tuple.

        Returns:
            (B, S, N * D).
        """
        mask, slot_mapping, context_slots = cache[0], cache[1], cache[2]
        width = self.num_groups * self.head_dim
        keys = self.write(self.key_cache, slot_mapping, key.reshape((-1, width)))
        values = self.write(self.value_cache, slot_mapping, value.reshape((-1, width)))
        shape = (context_slots.shape[0], -1, self.num_groups, self.head_dim)
        keys = ops.gather(keys, context_slots, 0).reshape(shape)  # (B, L, G, D)
        values = ops.gather(values, context_slots, 0).reshape(shape)  # (B, L, G, D)
        return self.attention(query, keys, values, mask)

    def copy_slots(self, sources: Tensor, targets: Tensor) -> None:
        """Copy keys and values from slots to slots, (P,) int32 each."""
        for table in (self.key_cache, self.value_cache):
            self.write(table, targets, ops.gather(table, sources, 0))


class AscendPagedAttention(nn.Cell):
    """``ReshapeAndCache`` with flash attention for a prompt and ``PagedAttention`` for one token.

    The cache has the operators' layout (blocks, block_size, G, D). ``is_first_iteration`` (set by the
    network's ``add_flags_custom``) tells the two passes apart. Not run on Ascend here.
    """

    def __init__(
        self,
        num_heads: int,
        num_groups: int,
        head_dim: int,
        num_blocks: int,
        block_size: int,
        dtype: ms.dtype.Type,
    ):
        super().__init__()
        self.width, self.group_width = num_heads * head_dim, num_groups * head_dim
        shape = (num_blocks, block_size, num_groups, head_dim)
        self.key_cache = _zeros("key_cache", shape, dtype)
        self.value_cache = _zeros("value_cache", shape, dtype)
        self.is_first_iteration = True
        self.write = ops.auto_generate.ReshapeAndCache()
        self.prompt_attention = AscendFlashAttention(num_heads, num_groups, head_dim)
        self.token_attention = ops.auto_generate.PagedAttention(
            num_heads, 1.0 / math.sqrt(head_dim), num_groups
        )

    def construct(self, query: Tensor, key: Tensor, value: Tensor, cache: CacheInputs) -> Tensor:
        """Write and attend; arguments and result as in ``PortablePagedAttention.construct``."""
        batch = query.shape[0]
        flat = (batch, -1, self.group_width)
        written = self.write(
            key.reshape(flat), value.reshape(flat), self.key_cache, self.value_cache, cache[1]
        )
        query = ops.depend(query, written)
        if self.is_first_iteration:
            # Only this pass's keys are at hand; the mask also spans the rest of the cached blocks.
            return self.prompt_attention(query, key, value, cache[0][:, :, :, : query.shape[1]])
        query = query.reshape((batch, -1, self.width))
        return self.token_attention(
            query, self.key_cache, self.value_cache, cache[3], cache[4], None, None, None, None
        )

    def copy_slots(self, sources: Tensor, targets: Tensor) -> None:
        """Copy keys and values from slots to slots, (P,) int32 each."""
        rows = [
            ops.gather(table.reshape((-1, self.group_width)), sources, 0).expand_dims(0)
            for table in (self.key_cache, self.value_cache)
        ]
        self.write(*rows, self.key_cache, self.value_cache, targets)


def _zeros(name: str, shape: tuple[int, ...], dtype: ms.dtype.Type) -> Parameter:
    zeros = Tensor(np.zeros(shape, np.float32)).astype(dtype)
    return Parameter(zeros, name=name, requires_grad=False)


def build_paged_attention(
    num_heads: int,
    num_groups: int,
    head_dim: int,
    num_blocks: int,
    block_size: int,
    dtype: ms.dtype.Type,
) -> nn.Cell:
    """Return the paged attention of the active backend, with an empty cache of its own."""
    if active_backend() == "ascend":
        return AscendPagedAttention(num_heads, num_groups, head_dim, num_blocks, block_size, dtype)
    return PortablePagedAttention(num_heads, num_groups, head_dim, num_blocks * block_size, dtype)
