"""Vocabulary embedding: ids to rows of a table."""

from __future__ import annotations

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from mindformers.modules.start import start_weight
from mindformers.ops.embedding import build_embedding
from mindformers.ops.regions import build_leave, build_own_rows
from mindformers.parallel.mesh import mesh


class VocabEmbedding(nn.Cell):
    """A table (V, H) under the name ``embedding_weight``."""

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        *,
        param_dtype: ms.dtype.Type,
        out_dtype: ms.dtype.Type,
    ):
        super().__init__()
        self.embedding_weight = Parameter(
            start_weight((vocab_size, hidden_size), param_dtype), name="embedding_weight"
        )
        self.gather = build_embedding(param_dtype, out_dtype)

    def construct(self, input_ids: Tensor) -> Tensor:
        """Return (B, S, H) for ``input_ids`` (B, S) int32."""
        return self.gather(self.embedding_weight, input_ids)


class SharedVocabEmbedding(VocabEmbedding):
    """This rank's rows of a table that a tensor group shares: what other ranks hold is 0 here.

    Args:
        vocab_size: Rows of the whole table; a multiple of the group's size.
        hidden_size: Channels.
        **types: As of ``VocabEmbedding``.
    """

    def __init__(self, vocab_size: int, hidden_size: int, **types: ms.dtype.Type):
        self.first, stop = mesh().layout.share(vocab_size)
        self.rows = stop - self.first
        super().__init__(self.rows, hidden_size, **types)

    def construct(self, input_ids: Tensor) -> Tensor:
        """Return (B, S, H) for ``input_ids`` (B, S) int32; summed over the group it is the whole."""
        local = input_ids - self.first
        held = ops.logical_and(local >= 0, local < self.rows)
        rows = self.gather(self.embedding_weight, ops.clamp(local, 0, self.rows - 1))
        return rows * held.astype(rows.dtype).expand_dims(-1)


def build_embedding_table(
    vocab_size: int, hidden_size: int, **types: ms.dtype.Type
) -> tuple[VocabEmbedding, nn.Cell]:
    """Return the table of this process, and what takes its rows (T, H) to the residual stream's."""
    layout = mesh().layout
    if layout.tensor > 1 and layout.is_vocab_parallel:
        return SharedVocabEmbedding(vocab_size, hidden_size, **types), build_leave()
    return VocabEmbedding(vocab_size, hidden_size, **types), build_own_rows()
