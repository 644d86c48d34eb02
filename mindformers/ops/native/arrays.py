"""What is handed to a kernel: an address with the type, the shape and the owner of what lies there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

_NUMPY_NAMES = {"float32": "float32", "uint16": "bfloat16", "bfloat16": "bfloat16", "float16": "float16",
                "int8": "int8", "uint8": "uint8", "int32": "int32"}  # fmt: skip


@dataclass(frozen=True)
class Buffer:
    """Elements side by side in row-major order.

    Args:
        address: Where the first one is.
        dtype: ``float32``, ``bfloat16``, ``float16``, ``int8``, ``uint8`` or ``int32``.
        shape: Sizes of the axes.
        owner: Whatever keeps the memory alive.
    """

    address: int
    dtype: str
    shape: tuple[int, ...]
    owner: Any = field(repr=False, compare=False)


def of_array(array: np.ndarray) -> Buffer:
    """Return an array as it lies in memory, copied only if its rows are not side by side.

    uint16 is taken for the bits of bfloat16.
    """
    array = np.ascontiguousarray(array)
    return Buffer(array.ctypes.data, _NUMPY_NAMES[array.dtype.name], array.shape, array)


def as_float32(buffer: Buffer) -> np.ndarray:
    """Return a copy in float32."""
    count = int(np.prod(buffer.shape))
    size = {"float32": 4, "bfloat16": 2, "float16": 2}[buffer.dtype]
    raw = np.frombuffer(_bytes_at(buffer.address, count * size), np.uint8)
    if buffer.dtype == "bfloat16":
        wide = raw.view(np.uint16).astype(np.uint32) << 16
        return wide.view(np.float32).reshape(buffer.shape)
    return raw.view(buffer.dtype).astype(np.float32).reshape(buffer.shape)


def _bytes_at(address: int, size: int) -> bytes:
    import ctypes

    return ctypes.string_at(address, size)
