"""The arrays of a step as a kernel takes them, and what is said of those it must not get."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mindformers.errors import ConfigError
from mindformers.ops.native.library import StepStruct

_NAMES = (
    "ids",
    "positions",
    "slots",
    "starts",
    "lengths",
    "block tables",
    "picked tokens",
    "kept tokens",
)


def step_arrays(given: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return ids, positions, slots, starts, lengths, tables, picked and kept tokens as contiguous int32.

    Raises:
        ConfigError: If one holds no whole numbers, or one beyond int32, or has too many axes, or their
            sizes do not fit one another.
    """
    arrays = [_as_int32(name, array) for name, array in zip(_NAMES, given, strict=True)]
    ids, positions, slots, starts, lengths, tables, picked, kept = arrays
    fits = (
        tables.ndim == 2 and all(each.ndim == 1 for each in (*arrays[:5], picked, kept))
        and ids.size > 0 and positions.size == slots.size == ids.size and lengths.size > 0
        and starts.size == lengths.size + 1 and tables.shape[0] == lengths.size
    )  # fmt: skip
    if not fits:
        raise ConfigError(
            f"arrays of {', '.join(f'{n} {a.shape}' for n, a in zip(_NAMES, arrays, strict=True))}",
            where="step",
            allowed="(T,), (T,), (T,), (B + 1,), (B,), (B, W), (R,), (K,) with T and B from 1",
        )
    return arrays


def _as_int32(name: str, given: np.ndarray) -> np.ndarray:
    array = np.asarray(given)
    if array.dtype == np.int32:
        as_is = array.flags.c_contiguous and array.flags.aligned
        return array if as_is else np.require(array, requirements=["C_CONTIGUOUS", "ALIGNED"])
    if array.dtype.kind not in "iu" and array.size:
        raise ConfigError(f"{array.dtype}", where=name, allowed="whole numbers")
    narrow = np.ascontiguousarray(array, np.int32)
    if not np.array_equal(narrow, array):
        raise ConfigError(
            f"{array.min()} to {array.max()}", where=name, allowed="numbers of 32 bits"
        )
    return narrow


def step_struct(arrays: Sequence[np.ndarray]) -> StepStruct:
    """Return the C structure over the arrays; valid as long as they live."""
    ids, _, _, _, lengths, tables, picked, kept = arrays
    sizes = ids.size, lengths.size, tables.shape[1], picked.size, kept.size
    return StepStruct(*sizes, *(each.ctypes.data for each in arrays))


def refuse_step(fault: int, arrays: Sequence[np.ndarray], limits: Sequence[int]) -> None:
    """Say what is wrong with a step.

    Args:
        fault: As ``check_step`` of the kernels found, 1 or more.
        arrays: Those of the step.
        limits: Sizes of the vocabulary, the angle table and the cache (blocks, tokens of a block).

    Raises:
        ConfigError: Always.
    """
    ids, positions, slots, starts, lengths, tables, picked, kept = arrays
    vocab, angles, blocks, block_size = limits
    if not blocks:
        raise ConfigError("no cache", where="step", fix="call allocate_cache first")
    bounded = {
        1: ("ids", ids, vocab), 2: ("positions", positions, angles),
        3: ("slots", slots, blocks * block_size), 6: ("picked tokens", picked, ids.size),
        7: ("kept tokens", kept, ids.size),
    }  # fmt: skip
    if fault in bounded:
        name, array, limit = bounded[fault]
        rising = ", rising" if fault >= 6 else ""
        raise ConfigError(
            f"{array.min()} to {array.max()}", where=name, allowed=f"0 to {limit - 1}{rising}"
        )
    if fault == 4:
        raise ConfigError(
            f"{ids.size} tokens, sequences from {starts.tolist()}, cached {lengths.tolist()}",
            where="sequences", allowed="rising starts from 0 to the last token, no more tokens than cached",
        )  # fmt: skip
    raise ConfigError(
        f"blocks {tables.min() if tables.size else 'of no column'} to {tables.max() if tables.size else ''}"
        f" for {lengths.max()} cached tokens",
        where="block tables", allowed=f"blocks 0 to {blocks - 1}, as many as {block_size} tokens each need",
    )  # fmt: skip
