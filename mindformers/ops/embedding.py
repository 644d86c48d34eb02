"""Rows of a table for token ids."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindformers.ops.backend import cell_backend
from mindformers.ops.cast import build_cast
from mindformers.ops.native.cells import NativeEmbedding


class PortableEmbedding(nn.Cell):
    """The composed form, for every device."""

    def __init__(self, param_dtype: ms.dtype.Type, out_dtype: ms.dtype.Type):
        super().__init__()
        self.to_out = build_cast(param_dtype, out_dtype)

    def construct(self, table: Tensor, ids: Tensor) -> Tensor:
        """Return (..., H) for ``table`` (V, H) and ``ids`` (...) int32."""
        # The cast comes first because a CPU gathers no bfloat16.
        return ops.gather(self.to_out(table), ids, 0)


def build_embedding(param_dtype: ms.dtype.Type, out_dtype: ms.dtype.Type) -> nn.Cell:
    """Return the gather of the active backend; call it with ``(table, ids)``."""
    if cell_backend() == "native" and out_dtype == ms.float32:
        return NativeEmbedding()
    return PortableEmbedding(param_dtype, out_dtype)
