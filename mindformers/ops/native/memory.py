"""Memory for what the training kernels write, used again from step to step.

A fresh page costs more than a norm or an activation reads it: without this, a step would spend a
tenth of its time in the kernel of the operating system.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from threading import RLock
from typing import Any

import numpy as np
from mindspore import Tensor

_UNIT = 4096  # bytes a block is rounded up to
_WASTE = 1.35  # how much larger than asked for a block may be
_SLACK = 1.25  # what is kept and in use, against the most ever in use
_SMALL = 64 * 1024  # below it the C library's own pool does as well


class _Pool:
    """Blocks by size."""

    def __init__(self) -> None:
        self.free: dict[int, list[np.ndarray]] = {}
        self.in_use = self.kept = self.most = 0
        self.lock = RLock()  # a collector's run inside take() may give blocks back

    def take(self, size: int) -> np.ndarray:
        """Return ``size`` bytes or some more, whatever they hold."""
        with self.lock:
            fitting = [each for each in self.free if size <= each <= size * _WASTE]
            raw = self._reuse(min(fitting)) if fitting else None
            self.in_use += size if raw is None else raw.size
            self.most = max(self.most, self.in_use)
            if raw is None:
                self._shrink(int(self.most * _SLACK))
        return np.empty(size, np.uint8) if raw is None else raw

    def _reuse(self, size: int) -> np.ndarray:
        raw = self.free[size].pop()
        if not self.free[size]:
            del self.free[size]
        self.kept -= size
        return raw

    def give(self, raw: np.ndarray) -> None:
        """Take back a block."""
        with self.lock:
            self.in_use -= raw.size
            self.kept += raw.size
            self.free.setdefault(raw.size, []).append(raw)

    def _shrink(self, limit: int) -> None:
        for size in sorted(self.free, reverse=True):
            while size in self.free and self.in_use + self.kept > limit:
                self._reuse(size)


_pool = _Pool()


class _Block:
    """A piece of memory that goes back to the pool when the last array over it is gone."""

    __slots__ = ("__array_interface__", "raw")

    def __init__(self, raw: np.ndarray, shape: tuple[int, ...]):
        self.raw = raw
        self.__array_interface__: dict[str, Any] = {
            "data": (raw.ctypes.data, False), "shape": shape, "typestr": "<f4", "version": 3,
        }  # fmt: skip

    def __del__(self) -> None:
        _pool.give(self.raw)


def empty(shape: Sequence[int]) -> Tensor:
    """Return a float32 tensor of any content."""
    shape = tuple(shape)
    size = 4 * math.prod(shape)
    if size < _SMALL:
        return Tensor.from_numpy(np.empty(shape, np.float32))
    raw = _pool.take(-(-size // _UNIT) * _UNIT)
    return Tensor.from_numpy(np.asarray(_Block(raw, shape)))
