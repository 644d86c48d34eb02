"""Rounding a matrix so that its product with typical inputs changes least.

Every column is rounded in turn, and the columns that are still to come take up its error as far as the inputs
let them stand in for it (Frantar et al. 2023, "GPTQ"; after Hassibi and Stork 1993). The correlations of the
inputs come from calibration rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindformers.checkpoint.quantized import (
    QuantizedMatrix,
    Scheme,
    assemble,
    check_columns,
    find_scales,
    restore,
    round_values,
)

DAMPING = (
    0.01  # of the mean square of the inputs, added to each: few rows do not tell all directions
)
_BLOCK = 128  # columns after which the rest of the matrix is brought up to date
_WIDE = 8192  # columns from which float32 has to do
Floats = NDArray[np.float32]


class Correlations:
    """Sums of products of a layer's inputs.

    Args:
        size: Channels of the inputs.
    """

    def __init__(self, size: int):
        self.total: NDArray[Any] = np.zeros(
            (size, size), np.float32 if size > _WIDE else np.float64
        )

    def add(self, inputs: Floats) -> None:
        """Count inputs in, (tokens, channels)."""
        self.total += inputs.T @ inputs

    def steps(self) -> Floats:
        """Return the upper triangle U with U^T U = inverse of the damped sums, and rows scaled by its diagonal."""
        sums = self.total.copy()
        diagonal = np.diagonal(sums).copy()
        mean = float(diagonal.mean()) or 1.0
        index = np.arange(len(sums))
        sums[index, index] += DAMPING * mean
        upper = np.linalg.cholesky(np.linalg.inv(sums)).T
        return np.ascontiguousarray(upper, np.float32)


def quantize_for_inputs(
    matrix: Floats, steps: Floats, scheme: Scheme, where: str = "matrix"
) -> QuantizedMatrix:
    """Round a matrix for inputs of known correlations.

    Args:
        matrix: (rows, cols) float32; not changed.
        steps: From ``Correlations.steps`` of its inputs, (cols, cols).
        scheme: How to round.
        where: Its name, for errors.

    Raises:
        ConfigError: If its columns are no multiple of the group.
    """
    rows, cols = matrix.shape
    check_columns(cols, scheme, where)
    left = matrix.astype(np.float32).T.copy()  # (cols, rows): a column is one run of memory
    q = np.empty((cols, rows), np.float32)
    scales = np.empty((cols // scheme.group, rows), np.float32)
    zeros = None if scheme.symmetric else np.empty_like(scales)
    for first in range(0, cols, _BLOCK):
        end = min(cols, first + _BLOCK)
        errors = np.empty((end - first, rows), np.float32)
        for column in range(first, end):
            group = column // scheme.group
            if column % scheme.group == 0:
                _set_scales(left, steps, errors[: column - first], column, scheme, scales, zeros)
            zero = None if zeros is None else zeros[group]
            q[column] = round_values(left[column], scales[group], zero, scheme)
            error = left[column] - restore(q[column], scales[group], zero, scheme)
            error /= steps[column, column]
            left[column + 1 : end] -= np.outer(steps[column, column + 1 : end], error)
            errors[column - first] = error
        left[end:] -= steps[first:end, end:].T @ errors
    return assemble(
        np.ascontiguousarray(q.T),
        np.ascontiguousarray(scales.T),
        None if zeros is None else np.ascontiguousarray(zeros.T),
        scheme,
    )


def _set_scales(
    left: Floats,
    steps: Floats,
    errors: Floats,
    column: int,
    scheme: Scheme,
    scales: Floats,
    zeros: Floats | None,
) -> None:
    """Choose the scales of the group that begins at ``column`` from what it has taken up by now."""
    group = left[column : column + scheme.group].copy()
    behind = (
        column // _BLOCK * _BLOCK + _BLOCK - column
    )  # of the group's columns those not up to date
    if behind < scheme.group and len(errors):
        first = column - len(errors)
        late = slice(column + behind, column + scheme.group)
        group[behind:] -= steps[first:column, late].T @ errors
    found, points = find_scales(np.ascontiguousarray(group.T)[:, None, :], scheme)
    index = column // scheme.group
    scales[index] = found[:, 0]
    if zeros is not None and points is not None:
        zeros[index] = points[:, 0]
