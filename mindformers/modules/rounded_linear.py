"""``RoundedLinear``: a linear layer whose weight is frozen and held in int8 or int4."""

from __future__ import annotations

from typing import Any, Literal

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from mindformers.checkpoint.quantized import (
    BITS,
    QuantizedMatrix,
    Scheme,
    check_columns,
    dequantize,
    held_scales,
    quantize,
    usual_group,
)
from mindformers.modules.linear import Linear
from mindformers.ops.rounded_linear import build_rounded_product


class RoundedLinear(nn.Cell):
    """y = x W^T + b with W rounded in groups of columns, as ``checkpoint.quantized`` does.

    The parameter ``weight`` holds the rounded values, (out, in) int8 or (out, in / 2) uint8, and
    ``scales`` a float16 for each group; neither has a gradient.

    Args:
        in_channels: Channels that come in, a multiple of 32.
        out_channels: Channels that go out.
        has_bias: Add a bias.
        kind: ``int8`` or ``int4``.
        group: Columns that share a scale; None: as many as are usual for this number of columns.
        param_dtype: Type of the bias, and of the weight once it is a plain layer again.
        compute_dtype: Type of the input, the product and the output.

    Raises:
        ConfigError: If the columns cannot be cut into groups.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        has_bias: bool,
        kind: Literal["int8", "int4"],
        group: int | None = None,
        param_dtype: ms.dtype.Type,
        compute_dtype: ms.dtype.Type,
    ):
        super().__init__()
        bits = BITS[kind]
        self.scheme = Scheme(bits, group or usual_group(bits, {in_channels}))
        check_columns(in_channels, self.scheme, "pet_config.base_quantization")
        self.in_channels, self.out_channels = in_channels, out_channels
        is_packed = bits == BITS["int4"]
        shape = (out_channels, in_channels // 2 if is_packed else in_channels)
        values = np.zeros(shape, np.uint8 if is_packed else np.int8)
        scales = np.zeros((out_channels, in_channels // self.scheme.group), np.float16)
        self.weight = Parameter(Tensor(values), name="weight", requires_grad=False)
        self.scales = Parameter(Tensor(scales), name="scales", requires_grad=False)
        self.bias: Parameter | None = None
        if has_bias:
            zeros = Tensor(np.zeros(out_channels, np.float32)).astype(param_dtype)
            self.bias = Parameter(zeros, name="bias", requires_grad=False)
        self.param_dtype, self.compute_dtype = param_dtype, compute_dtype
        self.product = build_rounded_product(compute_dtype, is_packed)

    @classmethod
    def of(
        cls, layer: Linear, kind: Literal["int8", "int4"], where: str, group: int | None = None
    ) -> RoundedLinear:
        """Return a layer that holds another one's weight rounded."""
        found = cls(
            layer.in_channels, layer.out_channels, has_bias=layer.bias is not None, kind=kind,
            group=group, param_dtype=layer.weight.dtype, compute_dtype=layer.compute_dtype,
        )  # fmt: skip
        found.round(layer.dense(), where)
        found.weight.name, found.scales.name = layer.weight.name, held_scales(layer.weight.name)
        _take_bias(found, layer)
        return found

    def construct(self, x: Tensor) -> Tensor:
        """Return (T, out) for ``x`` (T, in)."""
        return self.product(x, self.weight, self.scales, self.bias)

    def round(self, weight: np.ndarray, where: str) -> None:
        """Take a weight, (out, in) float32, rounded."""
        matrix = quantize(weight, self.scheme, where)
        self.weight.set_data(Tensor(matrix.values))
        self.scales.set_data(Tensor(matrix.scales))

    def dense(self) -> np.ndarray:
        """Return the weight as it is computed with, (out, in) float32."""
        return dequantize(QuantizedMatrix(self.weight.asnumpy(), self.scales.asnumpy()))

    def plain(self) -> Linear:
        """Return a plain layer of the same weight and bias, in ``param_dtype``."""
        layer = Linear(
            self.in_channels, self.out_channels, has_bias=self.bias is not None,
            param_dtype=self.param_dtype, compute_dtype=self.compute_dtype,
        )  # fmt: skip
        layer.weight.set_data(Tensor(self.dense()).astype(self.param_dtype))
        layer.weight.name = self.weight.name
        _take_bias(layer, self)
        return layer


def _take_bias(layer: Any, source: Any) -> None:
    """Give a layer another one's bias under its name, if it has one."""
    if source.bias is not None:
        layer.bias.set_data(source.bias.value())
        layer.bias.name = source.bias.name
