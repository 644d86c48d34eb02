"""Vocabulary embedding: ids to rows of a table."""

from __future__ import annotations

import mindspore as ms
from mindspore import Parameter, Tensor, nn

from mindformers.modules.start import start_weight
from mindformers.ops.embedding import build_embedding


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
