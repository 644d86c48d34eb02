"""The product of a linear layer whose frozen weight is held in int8 or int4, and multiplied in another type."""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.common._grad_function import _Function

from mindformers.ops.backend import cell_backend
from mindformers.ops.native import training as kernels

_BLOCK = 32  # columns that are packed together: checkpoint/quantized.py


class _RoundedPass(_Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, values: Tensor, scales: Tensor, bias: Tensor | None, is_trained: bool
    ) -> Tensor:
        ctx.save_for_backward(values, scales)
        weight = kernels.dequantize(values, scales)
        return kernels.linear(x.contiguous(), weight, bias, is_trained)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple:
        values, scales = ctx.saved_tensors
        weight = kernels.dequantize(values, scales)  # made again: it is 4 to 8 times what is kept
        needs = (True, False, False)
        dx, *_ = kernels.linear_backward(None, weight, dout.contiguous(), needs)
        return dx, None, None, None, None


class NativeRoundedLinear(nn.Cell):
    """y = x W^T + b in float32; W exists in float32 only while it is multiplied by."""

    def construct(
        self, x: Tensor, values: Tensor, scales: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """Return (T, out) for ``x`` (T, in); ``values`` and ``scales`` as of ``QuantizedMatrix``."""
        own = None if bias is None else bias.astype(ms.float32)
        return _RoundedPass.apply(x, values, scales, own, self.training)


class PortableRoundedLinear(nn.Cell):
    """The composed form, for every device; the way back keeps W in the compute type.

    Args:
        compute_dtype: Type of the input, the product and the output.
        is_packed: ``values`` hold int4, two to a byte.
    """

    def __init__(self, compute_dtype: ms.dtype.Type, is_packed: bool):
        super().__init__()
        self.compute_dtype, self.is_packed = compute_dtype, is_packed
        self.matmul = ops.MatMul(transpose_b=True)

    def dense(self, values: Tensor, scales: Tensor) -> Tensor:
        """Return W, (out, in) float32."""
        rows, groups = scales.shape
        wide = values.astype(ms.float32)
        if self.is_packed:  # byte i of 32 columns: column i low, column i + 16 high
            high = ops.floor(wide / 16.0)
            halves = (wide - 16.0 * high, high)
            blocks = [each.reshape((rows, -1, 1, _BLOCK // 2)) for each in halves]
            wide = ops.cat(blocks, 2).reshape((rows, -1)) - 8.0
        factors = scales.astype(ms.float32).expand_dims(2)
        return (wide.reshape((rows, groups, -1)) * factors).reshape((rows, -1))

    def construct(
        self, x: Tensor, values: Tensor, scales: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """Return (T, out) for ``x`` (T, in)."""
        y = self.matmul(x, self.dense(values, scales).astype(self.compute_dtype))
        return y if bias is None else y + bias.astype(self.compute_dtype)


def build_rounded_product(compute_dtype: ms.dtype.Type, is_packed: bool) -> nn.Cell:
    """Return the product of the active backend; call it with ``(x, values, scales, bias or None)``."""
    if cell_backend() == "native" and compute_dtype == ms.float32:
        return NativeRoundedLinear()
    return PortableRoundedLinear(compute_dtype, is_packed)
