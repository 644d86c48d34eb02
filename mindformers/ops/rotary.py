"""Partial interleaved rotary embedding: half of a head's channels rotate, in pairs (2j, 2j+1).

The rotation is written as ``x * cos + (x @ P) * sin``: P is a fixed matrix of 0 and +-1 that puts
(-x1, x0) where (x0, x1) was, so the product is exact, and the channels that do not rotate have
cos 1 and sin 0. Four operators instead of a dozen slices, and the same backwards.

Source: GLM-4-9B modeling_chatglm.py, RotaryEmbedding and apply_rotary_pos_emb.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindformers.ops.cast import build_cast


def swap_pairs_matrix(rotary_dim: int, head_dim: int) -> np.ndarray:
    """Return P (D, D) with ``(x @ P)[2j] = -x[2j+1]`` and ``(x @ P)[2j+1] = x[2j]`` for 2j < R, else 0."""
    matrix = np.zeros((head_dim, head_dim), np.float32)
    even = np.arange(0, rotary_dim, 2)
    matrix[even + 1, even] = -1.0
    matrix[even, even + 1] = 1.0
    return matrix


class RotaryAngles(nn.Cell):
    """Look up cos and sin for token positions, spread over all channels of a head.

    Args:
        table: (P, R/2, 2) float32 of ``build_rotary_table``: cos and sin at each position.
        head_dim: Channels of a head D.
        dtype: Type of the result.
    """

    def __init__(self, table: np.ndarray, head_dim: int, dtype: ms.dtype.Type):
        super().__init__()
        rotary_dim = 2 * table.shape[1]
        self.cos_table = Tensor(np.ascontiguousarray(table[..., 0]))  # (P, R/2)
        self.sin_table = Tensor(np.ascontiguousarray(table[..., 1]))  # (P, R/2)
        spread = np.zeros((rotary_dim // 2, head_dim), np.float32)
        pair = np.arange(rotary_dim // 2)
        spread[pair, 2 * pair] = spread[pair, 2 * pair + 1] = 1.0
        self.spread = Tensor(spread)  # (R/2, D)
        self.pass_through = Tensor((np.arange(head_dim) >= rotary_dim).astype(np.float32))  # (D,)
        self.head_dim = head_dim
        self.matmul = ops.MatMul()
        self.cast = build_cast(ms.float32, dtype)

    def construct(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return (cos, sin), each (B, S, 1, D), for ``positions`` (B, S) int32."""
        batch, tokens = positions.shape
        flat = positions.reshape((-1,))
        cos = (
            self.matmul(ops.gather(self.cos_table, flat, 0), self.spread) + self.pass_through
        )  # (B*S, D)
        sin = self.matmul(ops.gather(self.sin_table, flat, 0), self.spread)  # (B*S, D)
        shape = (batch, tokens, 1, self.head_dim)
        return self.cast(cos.reshape(shape)), self.cast(sin.reshape(shape))


class Rotary(nn.Cell):
    """Rotate heads by given angles."""

    def __init__(self, rotary_dim: int, head_dim: int, dtype: ms.dtype.Type):
        super().__init__()
        self.head_dim = head_dim
        self.swap = Tensor(swap_pairs_matrix(rotary_dim, head_dim)).astype(dtype)  # (D, D)
        self.matmul = ops.MatMul()

    def construct(self, heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate ``heads`` (B, S, N, D) by ``cos``/``sin`` (B, S, 1, D); same shape."""
        swapped = self.matmul(heads.reshape((-1, self.head_dim)), self.swap).reshape(heads.shape)
        return heads * cos + swapped * sin


class RotateHeads(nn.Cell):
    """Split what the projection gives into query, key and value; query and key rotated.

    Args:
        num_heads: Query heads N.
        num_groups: Key/value heads G.
        rotary: Rotates heads.
    """

    def __init__(self, num_heads: int, num_groups: int, rotary: Rotary):
        super().__init__()
        self.num_heads, self.num_groups = num_heads, num_groups
        self.rotary = rotary

    def construct(self, qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return query (B, S, N, D), key and value (B, S, G, D) for ``qkv`` (B, S, N + 2G, D)."""
        rotating = self.num_heads + self.num_groups
        rotated = self.rotary(qkv[:, :, :rotating], cos, sin)  # (B, S, N+G, D)
        return (
            rotated[:, :, : self.num_heads],
            rotated[:, :, self.num_heads :],
            qkv[:, :, rotating:],
        )
