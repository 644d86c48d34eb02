"""The product of a linear layer: y = x W^T + b."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindformers.ops.backend import cell_backend
from mindformers.ops.cast import build_cast
from mindformers.ops.native.cells import NativeLinear


class PortableLinear(nn.Cell):
    """The composed form, for every device.

    Args:
        param_dtype: Type the weights are stored in.
        compute_dtype: Type of the input, the product and the output.
    """

    def __init__(self, param_dtype: ms.dtype.Type, compute_dtype: ms.dtype.Type):
        super().__init__()
        self.to_compute = build_cast(param_dtype, compute_dtype)
        # MatMul on two axes is the fastest product MindSpore has on a CPU; ops.dense is 10x slower there.
        self.matmul = ops.MatMul(transpose_b=True)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return (T, out) for ``x`` (T, in), ``weight`` (out, in) and ``bias`` (out,) or None."""
        y = self.matmul(x, self.to_compute(weight))
        return y if bias is None else y + self.to_compute(bias)


def build_linear_product(param_dtype: ms.dtype.Type, compute_dtype: ms.dtype.Type) -> nn.Cell:
    """Return the linear product of the active backend; call it with ``(x, weight, bias or None)``."""
    if cell_backend() == "native" and compute_dtype == ms.float32:
        return NativeLinear(build_cast(param_dtype, ms.float32))
    return PortableLinear(param_dtype, compute_dtype)
