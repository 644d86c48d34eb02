"""Numbers of few bits: how a matrix is rounded to int8 or int4, and what the bytes mean.

int8: value = q * scale. int4: value = (q - zero) * scale with q and zero 0 to 15, zero 8 where none is
stored; in every 32 columns, byte i holds column i in its low and column i + 16 in its high half. A scale
(float16) covers ``group`` columns of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindformers.errors import ConfigError

BLOCK = 32  # columns that are packed together, and that every group is a multiple of
BITS = {"int8": 8, "int4": 4}
GROUPS = {8: 64, 4: 32}  # columns of a scale, unless another size is asked for
_MIDDLE = 8  # the zero point of symmetric int4
# Shares of the largest value that the outermost step may stand for: less cuts it off, and rounds the rest
# better. int8 gains nothing by it.
_SHARES = {8: (1.0,), 4: (1.0, 0.94, 0.88, 0.82, 0.76)}
_TINY = 1e-7  # a scale of float16 below this would round to none
_LARGEST = 65504.0

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Scheme:
    """How matrices are rounded.

    Attributes:
        bits: 8 or 4.
        group: Columns that share a scale.
        symmetric: False (int4 only): every group has its own zero point.
    """

    bits: int
    group: int
    symmetric: bool = True

    def __post_init__(self) -> None:
        """Refuse what no kernel computes with.

        Raises:
            ConfigError: If it is such.
        """
        if self.bits not in GROUPS:
            raise ConfigError(f"{self.bits} bits", where="quantization", allowed="8 or 4")
        if self.group < BLOCK or self.group % BLOCK:
            raise ConfigError(
                f"a group of {self.group} columns", where="quantization",
                allowed=f"a multiple of {BLOCK}",
            )  # fmt: skip
        if self.bits == 8 and not self.symmetric:
            raise ConfigError("asymmetric int8", where="quantization", allowed="symmetric")

    @property
    def name(self) -> str:
        """``int8`` or ``int4``."""
        return f"int{self.bits}"


@dataclass(frozen=True)
class QuantizedMatrix:
    """A rounded matrix of (rows, cols).

    Attributes:
        values: (rows, cols) int8, or (rows, cols / 2) uint8 holding int4.
        scales: (rows, cols / group) float16.
        zeros: (rows, cols / group) uint8, or None.
    """

    values: NDArray[Any]
    scales: NDArray[np.float16]
    zeros: NDArray[np.uint8] | None = None

    def rows(self, start: int, stop: int) -> QuantizedMatrix:
        """Return some rows, in the same memory."""
        zeros = None if self.zeros is None else self.zeros[start:stop]
        return QuantizedMatrix(self.values[start:stop], self.scales[start:stop], zeros)


def held_scales(weight: str) -> str:
    """Return the parameter's name of the scales of a weight that a network holds rounded."""
    return f"{weight.removesuffix('weight')}scales"


def check_columns(cols: int, scheme: Scheme, where: str) -> None:
    """Refuse a matrix whose rows cannot be cut into groups.

    Raises:
        ConfigError: With ``where`` and the groups that can be.
    """
    if cols % scheme.group:
        fitting = [str(g) for g in (32, 64, 128, 256) if cols % g == 0]
        raise ConfigError(
            f"{cols} columns in groups of {scheme.group}",
            where=where,
            allowed=f"groups of {', '.join(fitting)}"
            if fitting
            else f"columns in multiples of {BLOCK}",
        )


def usual_group(bits: int, widths: set[int]) -> int:
    """Return the group size for matrices of these numbers of columns where none is asked for."""
    return BLOCK if any(width % GROUPS[bits] for width in widths) else GROUPS[bits]


def pack_nibbles(q: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (rows, cols) numbers of 0 to 15 as (rows, cols / 2) bytes."""
    rows, cols = q.shape
    halves = q.reshape(rows, cols // BLOCK, 2, BLOCK // 2)
    return np.ascontiguousarray(halves[:, :, 0] | halves[:, :, 1] << 4).reshape(rows, cols // 2)


def unpack_nibbles(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return what ``pack_nibbles`` was given."""
    rows, size = packed.shape
    blocks = packed.reshape(rows, size // (BLOCK // 2), 1, BLOCK // 2)
    return np.concatenate([blocks & 15, blocks >> 4], axis=2).reshape(rows, 2 * size)


def dequantize(matrix: QuantizedMatrix) -> Floats:
    """Return the matrix in float32, (rows, cols)."""
    is_packed = matrix.values.dtype == np.uint8
    q = unpack_nibbles(matrix.values) if is_packed else matrix.values
    rows, cols = q.shape
    groups = matrix.scales.shape[1]
    numbers = q.astype(np.float32).reshape(rows, groups, cols // groups)
    if is_packed:
        zeros = _MIDDLE if matrix.zeros is None else matrix.zeros.astype(np.float32)[:, :, None]
        numbers -= zeros
    numbers *= matrix.scales.astype(np.float32)[:, :, None]
    return numbers.reshape(rows, cols)


def quantize(matrix: Floats, scheme: Scheme, where: str = "matrix") -> QuantizedMatrix:
    """Round a matrix to nearest, with the scales of the smallest squared error.

    Args:
        matrix: (rows, cols) float32.
        scheme: How.
        where: Its name, for errors.

    Raises:
        ConfigError: If its columns are no multiple of the group.
    """
    check_columns(matrix.shape[1], scheme, where)
    groups = matrix.reshape(matrix.shape[0], -1, scheme.group)
    scales, zeros = find_scales(groups, scheme)
    q = round_values(groups, scales, zeros, scheme)
    return assemble(q.reshape(matrix.shape), scales, zeros, scheme)


def assemble(q: Floats, scales: Floats, zeros: Floats | None, scheme: Scheme) -> QuantizedMatrix:
    """Return whole numbers (rows, cols) and their scales (rows, groups) as they are stored."""
    stored = np.ascontiguousarray(scales, np.float16)
    if scheme.bits == 8:
        return QuantizedMatrix(q.astype(np.int8), stored)
    kept = None if zeros is None else zeros.astype(np.uint8)
    return QuantizedMatrix(pack_nibbles(q.astype(np.uint8)), stored, kept)


def find_scales(groups: Floats, scheme: Scheme) -> tuple[Floats, Floats | None]:
    """Return the scales (rows, groups), exact in float16, and the zero points of asymmetric schemes.

    Args:
        groups: (rows, groups, group) float32.
        scheme: How.
    """
    first, *shares = _SHARES[scheme.bits]
    best_scales, best_zeros = _candidate(groups, scheme, first)
    if not shares:
        return best_scales, best_zeros
    least = _squared_errors(groups, best_scales, best_zeros, scheme)
    for share in shares:
        scales, zeros = _candidate(groups, scheme, share)
        error = _squared_errors(groups, scales, zeros, scheme)
        better = error < least
        least = np.where(better, error, least)
        best_scales = np.where(better, scales, best_scales)
        if zeros is not None and best_zeros is not None:
            best_zeros = np.where(better, zeros, best_zeros)
    return best_scales, best_zeros


def _squared_errors(
    groups: Floats, scales: Floats, zeros: Floats | None, scheme: Scheme
) -> NDArray[Any]:
    errors = restore(round_values(groups, scales, zeros, scheme), scales, zeros, scheme)
    errors -= groups
    return np.asarray(np.einsum("rgc,rgc->rg", errors, errors))


def round_values(groups: Floats, scales: Floats, zeros: Floats | None, scheme: Scheme) -> Floats:
    """Return the whole numbers (float32) nearest to ``groups``: -127 to 127, or 0 to 15 with the zero added.

    Args:
        groups: (rows, groups, group), or (rows, groups) for one column of each.
        scales: (rows, groups).
        zeros: (rows, groups) or None.
        scheme: How.
    """
    wide = (...,) if groups.ndim == scales.ndim else (..., None)
    inverse = np.divide(1.0, scales, out=np.zeros_like(scales), where=scales != 0)
    q = groups * inverse[wide]
    if scheme.bits == 8:
        return np.clip(np.rint(q, out=q), -127, 127, out=q)
    q += _MIDDLE if zeros is None else zeros[wide]
    return np.clip(np.rint(q, out=q), 0, 15, out=q)


def restore(q: Floats, scales: Floats, zeros: Floats | None, scheme: Scheme) -> Floats:
    """Return what the whole numbers of ``round_values`` stand for; axes as there."""
    wide = (...,) if q.ndim == scales.ndim else (..., None)
    if scheme.bits == 4:
        q = q - (np.float32(_MIDDLE) if zeros is None else zeros[wide])
    return q * scales[wide]


def _candidate(groups: Floats, scheme: Scheme, share: float) -> tuple[Floats, Floats | None]:
    """Return scales with which ``share`` of the largest value is the outermost step."""
    if scheme.symmetric:
        high, low = groups.max(axis=2), groups.min(axis=2)
        if scheme.bits == 8:
            return _storable(np.maximum(high, -low) / np.float32(127)), None
        # The side with one step more is turned to the largest value: a scale may be negative.
        outer = np.where(high > -low, high, low)
        return _storable(outer * np.float32(-share / _MIDDLE)), None
    high = np.maximum(groups.max(axis=2), 0) * np.float32(share)
    low = np.minimum(groups.min(axis=2), 0) * np.float32(share)
    scales = _storable((high - low) / np.float32(15))
    inverse = np.divide(1.0, scales, out=np.zeros_like(scales), where=scales != 0)
    return scales, np.clip(np.rint(-low * inverse), 0, 15)


def _storable(scales: Floats) -> Floats:
    """Return the scales as float16 holds them, in float32; those too small to be are 0."""
    scales = np.where(np.abs(scales) < _TINY, np.float32(0), scales)
    return np.clip(scales, -_LARGEST, _LARGEST).astype(np.float16).astype(np.float32)
