"""RMSNorm with its weight."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from mindformers.ops.norm import build_rms_norm


class RMSNorm(nn.Cell):
    """x * rsqrt(mean(x^2) + eps) * weight over the last axis."""

    def __init__(
        self, hidden_size: int, eps: float, *, input_dtype: ms.dtype.Type, norm_dtype: ms.dtype.Type
    ):
        super().__init__()
        self.weight = Parameter(
            Tensor(np.ones(hidden_size, np.float32)).astype(norm_dtype), name="weight"
        )
        self.norm = build_rms_norm(eps, input_dtype, norm_dtype)

    def construct(self, x: Tensor) -> Tensor:
        """Return ``x`` (..., H) normalized; same shape and type."""
        return self.norm(x, self.weight)
