"""What is handed to a kernel: an address with the type, the shape and the owner of what lies there."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mindformers.errors import ConfigError

_NUMPY_NAMES = {"float32": "float32", "uint16": "bfloat16", "bfloat16": "bfloat16", "float16": "float16",
                "int8": "int8", "uint8": "uint8", "int32": "int32"}  # fmt: skip
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1, "uint8": 1, "int32": 4}


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

    def hold(self) -> Any:
        """Return what keeps the memory at ``address`` alive; of a parameter, only what it holds now."""
        as_numpy = getattr(self.owner, "asnumpy", None)
        return as_numpy() if as_numpy else self.owner


def of_array(array: np.ndarray) -> Buffer:
    """Return an array as it lies in memory, copied only if its rows are not side by side.

    uint16 is taken for the bits of bfloat16.

    Raises:
        ConfigError: If no kernel reads its type.
    """
    name = _NUMPY_NAMES.get(array.dtype.name)
    if name is None:
        raise ConfigError(f"an array of {array.dtype}", allowed=", ".join(ITEM_BYTES))
    native = array.dtype.newbyteorder("=")  # a file's array may have the bytes the other way round
    array = np.require(array, native, ["C_CONTIGUOUS", "ALIGNED"])
    return Buffer(array.ctypes.data, name, array.shape, array)


def as_float32(buffer: Buffer) -> np.ndarray:
    """Return a copy in float32.

    Raises:
        ConfigError: If it does not hold floating-point numbers.
    """
    if buffer.dtype not in ("float32", "bfloat16", "float16"):
        raise ConfigError(f"{buffer.dtype} {buffer.shape}", allowed="float32, bfloat16 or float16")
    size = math.prod(buffer.shape) * ITEM_BYTES[buffer.dtype]
    raw = np.frombuffer(ctypes.string_at(buffer.address, size), np.uint8)
    if buffer.dtype == "bfloat16":
        wide = raw.view(np.uint16).astype(np.uint32) << 16
        return wide.view(np.float32).reshape(buffer.shape)
    return raw.view(buffer.dtype).astype(np.float32).reshape(buffer.shape)


def view(buffer: Buffer) -> np.ndarray:
    """Return the elements where they lie, bfloat16 as uint16; valid as long as the buffer's memory is."""
    size = math.prod(buffer.shape) * ITEM_BYTES[buffer.dtype]
    memory: Any = (ctypes.c_uint8 * size).from_address(buffer.address)
    raw = np.frombuffer(memory, np.uint8)
    held = np.uint16 if buffer.dtype == "bfloat16" else np.dtype(buffer.dtype)
    return raw.view(held).reshape(buffer.shape)
