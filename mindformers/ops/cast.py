"""Changing a tensor's type: a cell that does, or one that leaves it alone; and arrays taken over bit for bit."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops


class Keep(nn.Cell):
    """Return the tensor as it is."""

    def construct(self, tensor: Tensor) -> Tensor:
        """Return ``tensor``."""
        return tensor


class CastTo(nn.Cell):
    """Cast a tensor of any shape to ``dtype``."""

    def __init__(self, dtype: ms.dtype.Type):
        super().__init__()
        self.dtype = dtype
        self.cast = ops.Cast()

    def construct(self, tensor: Tensor) -> Tensor:
        """Return ``tensor`` in the cell's type; same shape."""
        return self.cast(tensor, self.dtype)


def exact_tensor(array: np.ndarray, dtype: ms.dtype.Type) -> Tensor:
    """Return a tensor of ``dtype`` with the bits of an array of the same type."""
    if dtype != ms.bfloat16:
        return Tensor(array)
    # Exact: a bfloat16 is the upper half of a float32, and rounding back drops zeros.
    return Tensor(array.astype(np.float32)).astype(dtype)


def build_cast(source: ms.dtype.Type, target: ms.dtype.Type) -> nn.Cell:
    """Return the cell that takes a tensor of type ``source`` to ``target``."""
    return Keep() if source == target else CastTo(target)
