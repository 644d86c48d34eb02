"""MindSpore tensors as the kernels see them."""

from __future__ import annotations

from mindspore import Tensor

from mindformers.ops.native.arrays import Buffer

_NAMES = {
    "Float32": "float32",
    "BFloat16": "bfloat16",
    "Float16": "float16",
    "Int8": "int8",
    "UInt8": "uint8",
    "Int32": "int32",
}


def of_parameter(parameter: Tensor) -> Buffer:
    """Return where a parameter's elements lie; they may change, the memory stays until it is set anew."""
    return Buffer(
        parameter.data_ptr(), _NAMES[str(parameter.dtype)], tuple(parameter.shape), parameter
    )
