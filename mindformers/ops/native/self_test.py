"""A moment's arithmetic that a compiler's or a CPU's fault would spoil, checked before the kernels are used."""

from __future__ import annotations

import ctypes

import numpy as np

from mindformers.errors import DeviceError
from mindformers.ops.native.arrays import of_array
from mindformers.ops.native.library import MatrixStruct
from mindformers.ops.native.weights import LinearWeight

_TOLERANCE = 1e-3  # of sums of 75 products of normal numbers: a wrong one is off by far more


def refuse_wrong_numbers(library: ctypes.CDLL) -> None:
    """Compare a large product, a linear layer and both kinds of weights with NumPy; takes a millisecond.

    Raises:
        DeviceError: If they differ.
    """
    rng = np.random.default_rng(0)
    left, right = (rng.normal(size=size).astype(np.float32) for size in ((37, 75), (75, 53)))
    product = np.full((37, 53), np.nan, np.float32)
    operands = [
        MatrixStruct(array.ctypes.data, array.shape[1], 0, False) for array in (left, right)
    ]
    library.mf_gemm(
        ctypes.addressof(operands[0]), ctypes.addressof(operands[1]), 37, 53, 75, product.ctypes.data, 53, 0
    )  # fmt: skip
    _compare(library, "matrix product", product, left, right)
    stored = np.ascontiguousarray(right.T)
    bits = (stored.view(np.uint32) >> 16).astype(np.uint16)  # bfloat16, rounded toward zero
    shorter = (bits.astype(np.uint32) << 16).view(np.float32)
    for tokens in (1, 3, 37):
        for weight, values in ((stored, stored), (bits, shorter)):
            layer = LinearWeight((of_array(weight),))
            found = np.full((tokens, 53), np.nan, np.float32)
            struct = layer.struct()
            library.mf_linear(
                left.ctypes.data, tokens, ctypes.addressof(struct), found.ctypes.data, 53
            )
            _compare(library, f"linear layer, {tokens} tokens", found, left[:tokens], values.T)


def _compare(
    library: ctypes.CDLL, what: str, found: np.ndarray, left: np.ndarray, right: np.ndarray
) -> None:
    wanted = left.astype(np.float64) @ right.astype(np.float64)
    if not np.allclose(found, wanted, rtol=_TOLERANCE, atol=_TOLERANCE):
        name = library.mf_instruction_set().decode()
        raise DeviceError(
            f"the compiled kernels ({name}) give a wrong {what}",
            fix="another compiler may help: set CXX",
        )
