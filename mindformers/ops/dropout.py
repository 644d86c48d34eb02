"""Dropout whose choice is a pure function of a number: equal again when a run resumes or a layer is recomputed.

MindSpore's own draws on a CPU from generators whose state can be neither read nor set.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindformers.ops.backend import cell_backend

# Odd multipliers and shifts of the 32-bit finalizer of MurmurHash3, after one of Knuth's golden ratio.
_SPREAD = 0x9E3779B1
_ROUNDS = ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1))


def as_int32(value: int) -> int:
    """Return the lower 32 bits of a number, read as a signed one."""
    return (value + 2**31) % 2**32 - 2**31


def kept_elements(size: int, rate: float, draw: int, salt: int) -> np.ndarray:
    """Return which of ``size`` elements are kept, (size,) bool; see ``HashedDropout``."""
    mixed = np.arange(size, dtype=np.uint32)
    mixed *= np.uint32(_SPREAD)  # whole numbers without a sign wrap around
    mixed ^= np.uint32((draw ^ salt) % 2**32)
    for shift, factor in _ROUNDS:
        mixed ^= mixed >> np.uint32(shift)
        mixed *= np.uint32(factor)
    return np.asarray(mixed.view(np.int32) >= as_int32(round(rate * 2**32) - 2**31))


class HostDropout(nn.Cell):
    """``HashedDropout`` with its choice made by NumPy: the same elements, in a tenth of the time on a CPU."""

    def __init__(self, rate: float, draw: Parameter, salt: int):
        super().__init__()
        self.rate, self.draw, self.salt = rate, draw, salt

    def construct(self, x: Tensor) -> Tensor:
        """Return ``x`` (...), some elements 0."""
        if not self.training:
            return x
        kept = kept_elements(x.size, self.rate, int(self.draw.asnumpy()[0]), self.salt)
        factors = kept.astype(np.float32) * np.float32(1.0 / (1.0 - self.rate))
        return x * Tensor(factors.reshape(x.shape)).astype(x.dtype)


def build_dropout(rate: float, draw: Parameter, salt: int) -> nn.Cell:
    """Return the dropout of the active backend; arguments as of ``HashedDropout``."""
    kind = HostDropout if cell_backend() == "native" else HashedDropout
    return kind(rate, draw, salt)


class HashedDropout(nn.Cell):
    """Set a share of the elements to 0 and scale the others up, in training only.

    Args:
        rate: The share, 0 < rate < 1.
        draw: (1,) int32; another value chooses other elements. May be shared between layers.
        salt: Tells apart layers that share ``draw``.
    """

    def __init__(self, rate: float, draw: Parameter, salt: int):
        super().__init__()
        self.draw = draw
        self.salt = Tensor([as_int32(salt)], ms.int32)
        self.multipliers = [Tensor([as_int32(factor)], ms.int32) for _, factor in _ROUNDS]
        self.shifts = [Tensor([shift], ms.int32) for shift, _ in _ROUNDS]
        # A shift of a signed number fills up with its sign; these bits are taken away again.
        self.lower = [Tensor([2 ** (32 - shift) - 1], ms.int32) for shift, _ in _ROUNDS]
        self.spread = Tensor([as_int32(_SPREAD)], ms.int32)
        self.threshold = Tensor([as_int32(round(rate * 2**32) - 2**31)], ms.int32)
        self.factor = 1.0 / (1.0 - rate)
        self.shift, self.mix, self.mask = ops.RightShift(), ops.BitwiseXor(), ops.BitwiseAnd()
        self.cast = ops.Cast()

    def construct(self, x: Tensor) -> Tensor:
        """Return ``x`` (...), some elements 0."""
        if not self.training:
            return x
        mixed = ops.arange(x.size).astype(ms.int32) * self.spread
        mixed = self.mix(mixed, self.mix(self.draw, self.salt))
        for index in range(len(self.shifts)):
            upper = self.mask(self.shift(mixed, self.shifts[index]), self.lower[index])
            mixed = self.mix(mixed, upper) * self.multipliers[index]
        kept = self.cast(mixed >= self.threshold, x.dtype) * self.factor
        return x * kept.reshape(x.shape)
