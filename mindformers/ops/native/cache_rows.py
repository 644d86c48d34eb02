"""Rows of a layer's key/value cache written from Python, in the forms the kernels read."""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np

_INT8_STEPS = 127  # of a row's largest magnitude; cache_rows.h


def write_rows(cache: Sequence[np.ndarray], slots: np.ndarray, rows: np.ndarray) -> None:
    """Write keys and values into slots of one layer's cache.

    Args:
        cache: Keys and values (blocks, block_size, groups, head_dim) float32, bfloat16 as uint16, or
            int8; for int8 the scales of both, (blocks, block_size, groups) float32.
        slots: (P,), block * block_size + offset.
        rows: (2, P, groups, head_dim) float32.
    """
    for target, scales, values in zip(cache[:2], cache[2:], rows, strict=True):
        flat = target.reshape(-1, *target.shape[2:])
        if target.dtype == np.int8:
            steps = np.abs(values).max(-1) / np.float32(_INT8_STEPS)  # (P, groups)
            scales.reshape(-1, scales.shape[-1])[slots] = steps
            values = np.rint(values / np.where(steps, steps, 1)[..., None])
        elif target.dtype == np.uint16:
            values = values.astype(ml_dtypes.bfloat16).view(np.uint16)
        flat[slots] = values


def copy_blocks(
    cache: Sequence[Sequence[np.ndarray]], sources: np.ndarray, targets: np.ndarray
) -> None:
    """Copy whole blocks of every layer's cache, (N,) each, all read before one is written."""
    for arrays in cache:
        for array in arrays:
            if array.ndim > 1:  # without scales there is one element in their place
                array[targets] = array[sources]
