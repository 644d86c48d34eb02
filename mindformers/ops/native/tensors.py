"""MindSpore tensors as the kernels see them."""

from __future__ import annotations

from mindspore import Tensor

from mindformers.errors import ConfigError
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
    """Return where a parameter's elements lie; they may change, the memory stays until it is set anew.

    Raises:
        ConfigError: If no kernel reads its type, or its elements do not lie side by side.
    """
    name, where = _NAMES.get(str(parameter.dtype)), getattr(parameter, "name", "")
    if name is None:
        raise ConfigError(f"found {parameter.dtype}", where=where, allowed=", ".join(_NAMES))
    if not parameter.is_contiguous():
        raise ConfigError(
            "a view of a tensor", where=where, fix="give it a copy: tensor.contiguous()"
        )
    return Buffer(parameter.data_ptr(), name, tuple(parameter.shape), parameter)
