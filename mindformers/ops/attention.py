"""Grouped-query attention over keys and values that are at hand (training, and a pass without cache)."""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindformers.errors import ConfigError, DataError
from mindformers.ops.backend import cell_backend
from mindformers.ops.native.cells import NativeAttention
from mindformers.ops.regions import GatherSequence
from mindformers.ops.rotary import RotateHeads
from mindformers.parallel.mesh import mesh

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
    form = AscendFlashAttention if use_flash and cell_backend() == "ascend" else PortableAttention
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


def document_mask(steps: Tensor, keys: Tensor, document_starts: Tensor) -> Tensor:
    """Hide every key that comes after the query or belongs to another document of its row.

    Args:
        steps: (1, S) int32, places of the queries in the row.
        keys: (1, L) int32, places of the keys.
        document_starts: (B, S) int32, the place each query's document begins at.

    Returns:
        (B, 1, S, L) float32, 0 or ``HIDDEN_SCORE``.
    """
    before = keys.expand_dims(1) < document_starts.expand_dims(2)  # (B, S, L)
    others = (before.astype("float32") * HIDDEN_SCORE).expand_dims(1)
    return ops.minimum(others, causal_mask(steps, keys))


def in_order(document_starts: Tensor) -> Tensor:
    """Return ``document_starts`` (B, S) as int32 if no token's document begins after it or before the last one's.

    Raises:
        DataError: If one does.
    """
    starts = document_starts.asnumpy()
    places = np.arange(starts.shape[1])
    if (starts < 0).any() or (starts > places).any() or (np.diff(starts) < 0).any():
        raise DataError("a document begins after its own token, or before the document in front of it",
                        where="document_starts", allowed="places from 0 on that never fall")  # fmt: skip
    return document_starts.astype(ms.int32).contiguous()


class RotatedAttention(nn.Cell):
    """Rotary embedding, then attention.

    Args:
        rotate: Splits and rotates what the projection gives.
        attention: As ``build_attention`` gives.
    """

    def __init__(self, rotate: RotateHeads, attention: nn.Cell):
        super().__init__()
        self.rotate, self.attention = rotate, attention

    def construct(self, qkv: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """Attend.

        Args:
            qkv: (B, S, N + 2G, D), not rotated.
            cos: (1 or B, S, 1, D).
            sin: (1 or B, S, 1, D).
            mask: As the mask of the active backend gives, see ``build_mask``.

        Returns:
            (B, S, N * D), heads side by side.
        """
        query, key, value = self.rotate(qkv, cos, sin)
        return self.attention(query, key, value, mask)


class ContextAttention(RotatedAttention):
    """Attention of this rank's tokens over a sequence that several ranks share.

    Keys and values of all ranks are gathered; the scores are those of the own queries.
    """

    def __init__(self, rotate: RotateHeads, attention: nn.Cell):
        super().__init__(rotate, attention)
        self.gather = GatherSequence()

    def construct(self, qkv: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """Attend; arguments and result as in ``RotatedAttention``, the mask (1, 1, S, c * S)."""
        query, key, value = self.rotate(qkv, cos, sin)
        return self.attention(query, self.gather(key), self.gather(value), mask)


def build_rotated_attention(
    rotate: RotateHeads, rotary_dim: int, head_dim: int, use_flash: bool
) -> nn.Cell:
    """Return rotation and attention of the active backend, as ``RotatedAttention`` is called."""
    heads, groups = rotate.num_heads, rotate.num_groups
    attention = build_attention(heads, groups, head_dim, use_flash)
    if not mesh().context.is_alone:
        return ContextAttention(rotate, attention)
    general = RotatedAttention(rotate, attention)
    if cell_backend() == "native":
        return NativeAttention(heads, groups, rotary_dim, general)
    return general


class PortableMask(nn.Cell):
    """What attention adds to the scores of a pass without cache."""

    def construct(
        self, steps: Tensor, attention_mask: Tensor | None, document_starts: Tensor | None = None
    ) -> Tensor:
        """Return (1 or B, 1, S, S) float32, 0 or ``HIDDEN_SCORE``.

        Args:
            steps: (1, S) int32, 0..S-1.
            attention_mask: None (causal), or (B, S) with 1 for a real token and 0 for a pad, or
                (B, S, S) with 1 where a key is hidden (upstream's convention).
            document_starts: (B, S) int32, where in its row each token's document begins; instead of
                an ``attention_mask``.
        """
        if document_starts is not None:
            return document_mask(steps, steps, document_starts)
        if attention_mask is None:
            return causal_mask(steps, steps)
        if attention_mask.ndim == 3:
            return (attention_mask.astype(ms.float32) * HIDDEN_SCORE).expand_dims(1)
        padding = (1.0 - attention_mask.astype(ms.float32)) * HIDDEN_SCORE  # (B, S)
        return ops.minimum(causal_mask(steps, steps), padding.expand_dims(1).expand_dims(1))


class NativeMask(nn.Cell):
    """What ``NativeAttention`` takes: a causal mask needs no tensor, a mask of pads is their row."""

    def __init__(self) -> None:
        super().__init__()
        self.general = PortableMask()

    def construct(
        self, steps: Tensor, attention_mask: Tensor | None, document_starts: Tensor | None = None
    ) -> Tensor | None:
        """Return None, (B, S) uint8 or int32, or (B, 1, S, S) float32; arguments as in ``PortableMask``.

        Raises:
            DataError: If the documents do not follow one another: the kernels trust what they get.
        """
        if document_starts is not None:
            return in_order(document_starts)
        if attention_mask is None:
            return None
        if attention_mask.ndim == 3:
            return self.general(steps, attention_mask)
        return (attention_mask != 0).astype(ms.uint8)  # (B, S)


class ContextMask(nn.Cell):
    """The causal mask of this rank's tokens over the sequence that ``count`` ranks share."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def construct(
        self, steps: Tensor, attention_mask: Tensor | None, document_starts: Tensor | None = None
    ) -> Tensor:
        """Return (1 or B, 1, S, count * S) float32; ``steps`` (1, S) are positions in the whole sequence."""
        if attention_mask is not None:
            raise ConfigError("masks are not shared along the sequence", where="attention_mask",
                              allowed="none with context_parallel above 1")  # fmt: skip
        every = (
            ops.arange(self.count * steps.shape[1]).astype(ms.int32).expand_dims(0)
        )  # (1, c * S)
        if document_starts is not None:
            return document_mask(steps, every, document_starts)
        return causal_mask(steps, every)


def build_mask() -> nn.Cell:
    """Return the cell that makes the mask ``build_rotated_attention`` takes."""
    if not mesh().context.is_alone:
        return ContextMask(mesh().context.size)
    return NativeMask() if cell_backend() == "native" else PortableMask()
