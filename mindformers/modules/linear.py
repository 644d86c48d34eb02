"""Linear layer: y = x W^T + b on rows of tokens."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from mindformers.modules.start import start_weight
from mindformers.ops.linear import build_linear_product


class Linear(nn.Cell):
    """A weight (out, in) and an optional bias (out,), stored in one type and multiplied in another.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        has_bias: Add a bias.
        param_dtype: Type the weights are stored in.
        compute_dtype: Type of the input, the product and the output.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        has_bias: bool,
        param_dtype: ms.dtype.Type,
        compute_dtype: ms.dtype.Type,
    ):
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.weight = Parameter(
            start_weight((out_channels, in_channels), param_dtype), name="weight"
        )
        self.bias = (
            Parameter(Tensor(np.zeros(out_channels, np.float32)).astype(param_dtype), name="bias")
            if has_bias
            else None
        )
        self.compute_dtype = compute_dtype
        self.product = build_linear_product(param_dtype, compute_dtype)

    def construct(self, x: Tensor) -> Tensor:
        """Return (T, out) for ``x`` (T, in)."""
        return self.product(x, self.weight, self.bias)

    def dense(self) -> np.ndarray:
        """Return the weight, (out, in) float32; of float32 weights it is their own memory."""
        return self.weight.asnumpy().astype(np.float32, copy=False)
