"""RMSNorm: x * rsqrt(mean(x^2) + eps) * weight over the last axis. Source: GLM-4-9B modeling_chatglm.py."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindformers.ops.backend import cell_backend
from mindformers.ops.cast import build_cast
from mindformers.ops.native.cells import NativeRmsNorm


class PortableRmsNorm(nn.Cell):
    """The composed form, for every device.

    Args:
        eps: Added to the mean square.
        input_dtype: Type of the tensor that comes in; what comes out has it too.
        norm_dtype: Type of the arithmetic.
    """

    def __init__(self, eps: float, input_dtype: ms.dtype.Type, norm_dtype: ms.dtype.Type):
        super().__init__()
        self.eps = eps
        self.up = build_cast(input_dtype, norm_dtype)
        self.down = build_cast(norm_dtype, input_dtype)
        self.mean = ops.ReduceMean(keep_dims=True)
        self.rsqrt = ops.Rsqrt()

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        """Normalize ``x`` (..., H) and scale by ``weight`` (H,); same shape and type as ``x``."""
        x = self.up(x)
        scale = self.rsqrt(self.mean(x * x, -1) + self.eps)  # (..., 1)
        return self.down(x * scale * weight)


class AscendRmsNorm(nn.Cell):
    """The fused operator of an NPU (``ops.rms_norm``). Not run on Ascend here."""

    def __init__(self, eps: float, input_dtype: ms.dtype.Type, norm_dtype: ms.dtype.Type):
        super().__init__()
        self.eps = eps
        self.up = build_cast(input_dtype, norm_dtype)
        self.down = build_cast(norm_dtype, input_dtype)

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        """Normalize ``x`` (..., H) and scale by ``weight`` (H,); same shape and type as ``x``."""
        return self.down(ops.rms_norm(self.up(x), weight, self.eps)[0])


def build_rms_norm(eps: float, input_dtype: ms.dtype.Type, norm_dtype: ms.dtype.Type) -> nn.Cell:
    """Return the RMSNorm of the active backend; call it with ``(x, weight)``."""
    backend = cell_backend()
    if backend == "native" and input_dtype == norm_dtype == ms.float32:
        return NativeRmsNorm(eps)
    form = AscendRmsNorm if backend == "ascend" else PortableRmsNorm
    return form(eps, input_dtype, norm_dtype)
