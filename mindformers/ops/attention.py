"""Grouped-query attention over keys and values that are at hand (training, and a pass without cache)."""

from __future__ import annotations

import math

from mindspore import Tensor, nn, ops

from mindformers.ops.backend import active_backend

HIDDEN_SCORE = -1e9  # exp() of it is exactly 0 in float32; a row with nothing visible stays finite


class PortableAttention(nn.Cell):
    """Softmax attention composed of two batched products; scores in float32.

    Args:
        num_heads: Query heads N.
        num_groups: Key/value heads G; each serves N/G consecutive query heads.
        head_dim: Channels of a head D.
    """

    def __init__(self, num_heads: int, num_groups: int, head_dim: int):
        super().__init__()
        self.num_heads, self.num_groups, self.head_dim = num_heads, num_groups, head_dim
        self.scale = 1.0 / math.sqrt(head_dim)
        self.scores = ops.BatchMatMul(transpose_b=True)
        self.mix = ops.BatchMatMul()
        self.softmax = ops.Softmax(-1)

    def construct(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Attend.

        Args:
            query: (B, S, N, D), rotated.
            key: (B, L, G, D), rotated.
            value: (B, L, G, D).
            mask: (1 or B, 1, S, L) float32: 0 where a token is seen, ``HIDDEN_SCORE`` where not.

        Returns:
            (B, S, N * D), heads side by side.
        """
        batch, tokens = query.shape[0], query.shape[1]
        rows = (batch, self.num_groups, -1, self.head_dim)
        query = (query * self.scale).transpose((0, 2, 1, 3)).reshape(rows)  # (B, G, N/G*S, D)
        key = key.transpose((0, 2, 1, 3))  # (B, G, L, D)
        value = value.transpose((0, 2, 1, 3))  # (B, G, L, D)
        scores = self.scores(query, key)  # (B, G, N/G*S, L)
        scores = scores.reshape((batch, self.num_heads, tokens, -1)) + mask  # (B, N, S, L)
        weights = self.softmax(scores).reshape(
            (batch, self.num_groups, self.num_heads // self.num_groups * tokens, -1)
        )
        mixed = self.mix(weights, value)  # (B, G, N/G*S, D)
        mixed = mixed.reshape((batch, self.num_heads, tokens, self.head_dim))
        return mixed.transpose((0, 2, 1, 3)).reshape(
            (batch, tokens, self.num_heads * self.head_dim)
        )


class AscendFlashAttention(nn.Cell):
    """The fused attention of an NPU (``ops.flash_attention_score``). Not run on Ascend here."""

    def __init__(self, num_heads: int, num_groups: int, head_dim: int):
        super().__init__()
        self.num_heads, self.num_groups, self.head_dim = num_heads, num_groups, head_dim
        self.scale = 1.0 / math.sqrt(head_dim)

    def construct(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Attend; arguments and result as in ``PortableAttention.construct``."""
        batch, tokens = query.shape[0], query.shape[1]
        query = query.reshape((batch, tokens, self.num_heads * self.head_dim))
        key = key.reshape((batch, -1, self.num_groups * self.head_dim))
        value = value.reshape((batch, -1, self.num_groups * self.head_dim))
        # The operator wants a row of the mask for every row of the batch; True where a token is not seen.
        hidden = (mask < 0).broadcast_to((batch, 1, tokens, -1))  # (B, 1, S, L)
        return ops.flash_attention_score(
            query,
            key,
            value,
            self.num_heads,
            attn_mask=hidden,
            scalar_value=self.scale,
            input_layout="BSH",
        )


def build_attention(num_heads: int, num_groups: int, head_dim: int, use_flash: bool) -> nn.Cell:
    """Return the attention of the active backend; ``use_flash`` matters on an NPU only."""
    form = AscendFlashAttention if use_flash and active_backend() == "ascend" else PortableAttention
    return form(num_heads, num_groups, head_dim)


def causal_mask(query_positions: Tensor, key_positions: Tensor) -> Tensor:
    """Hide every key that comes after the query.

    Args:
        query_positions: (B, S) int32.
        key_positions: (B or 1, L) int32.

    Returns:
        (B, 1, S, L) float32, 0 or ``HIDDEN_SCORE``.
    """
    later = key_positions.expand_dims(1) > query_positions.expand_dims(2)  # (B, S, L)
    return (later.astype("float32") * HIDDEN_SCORE).expand_dims(1)
