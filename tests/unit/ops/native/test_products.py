"""Matrix products and linear layers of the kernels against NumPy in float64, over odd shapes."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from mindformers.ops.native.library import DTYPES, MatrixStruct
from tests.support.native_kernels import linear, stored

SHAPES = [(1, 1, 1), (5, 3, 7), (12, 32, 256), (13, 33, 257), (37, 130, 300), (100, 17, 64)]


def gemm(
    kernels: ctypes.CDLL, a: np.ndarray, b: np.ndarray, *, flips: tuple[bool, bool], dtype: str,
    c: np.ndarray, accumulate: bool = False,
) -> np.ndarray:  # fmt: skip
    """Multiply a (m, k) and b (k, n), each stored the other way round where ``flips`` says so."""
    rows, inner, columns = a.shape[0], a.shape[1], b.shape[1]
    left = np.ascontiguousarray(a.T if flips[0] else a)
    right = np.ascontiguousarray(b.T if flips[1] else b)
    structs = [
        MatrixStruct(left.ctypes.data, left.shape[1], 0, flips[0]),
        MatrixStruct(right.ctypes.data, right.shape[1], DTYPES[dtype], flips[1]),
    ]
    kernels.mf_gemm(
        ctypes.addressof(structs[0]), ctypes.addressof(structs[1]), rows, columns, inner,
        c.ctypes.data, c.shape[1], int(accumulate),
    )  # fmt: skip
    return c


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("flips", [(x, y) for x in (False, True) for y in (False, True)])
def test_a_product_equals_numpys(
    kernels: ctypes.CDLL, flips: tuple[bool, bool], dtype: str
) -> None:
    rng = np.random.default_rng(1)
    for rows, columns, inner in SHAPES:
        a = rng.normal(size=(rows, inner)).astype(np.float32)
        b, exact = stored(rng.normal(size=(inner, columns)).astype(np.float32), dtype)
        found = gemm(
            kernels, a, b, flips=flips, dtype=dtype, c=np.full((rows, columns), np.nan, np.float32)
        )
        np.testing.assert_allclose(found, a @ exact, rtol=1e-5, atol=1e-5 * inner**0.5)


def test_a_product_is_added_and_leaves_what_lies_beside_it_alone(kernels: ctypes.CDLL) -> None:
    rng = np.random.default_rng(2)
    a, b = (rng.normal(size=size).astype(np.float32) for size in ((13, 40), (40, 30)))
    target = rng.normal(size=(13, 41)).astype(np.float32)  # rows are longer than the product's
    before = target.copy()
    gemm(kernels, a, b, flips=(False, False), dtype="float32", c=target, accumulate=True)
    np.testing.assert_allclose(target[:, :30], before[:, :30] + a @ b, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(target[:, 30:], before[:, 30:])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_linear_layer_equals_numpys_for_any_number_of_tokens(
    kernels: ctypes.CDLL, dtype: str, threads: int
) -> None:
    kernels.mf_set_threads(threads)
    rng = np.random.default_rng(3)
    for rows, cols, pieces in ((1, 1, ()), (97, 52, (50, 30, 17)), (7, 300, (3, 4)), (640, 64, ())):
        bias = rng.normal(size=rows).astype(np.float32) if rows != 7 else None
        weight, exact = linear(rng.normal(size=(rows, cols)), dtype, pieces, bias)
        struct = weight.struct()
        for tokens in (*range(1, 41), 100):
            x = rng.normal(size=(tokens, cols)).astype(np.float32)
            y = np.full((tokens, rows), np.nan, np.float32)
            kernels.mf_linear(x.ctypes.data, tokens, ctypes.addressof(struct), y.ctypes.data, rows)
            wanted = x @ exact.T + (0 if bias is None else bias)
            np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5 * cols**0.5)


def test_the_number_of_threads_changes_no_bit(kernels: ctypes.CDLL) -> None:
    rng = np.random.default_rng(4)
    weight, _ = linear(rng.normal(size=(300, 129)), "bfloat16")
    struct = weight.struct()
    for tokens in (1, 8, 70):
        x = rng.normal(size=(tokens, 129)).astype(np.float32)
        found = []
        for threads in (1, 2, 5):
            kernels.mf_set_threads(threads)
            y = np.empty((tokens, 300), np.float32)
            kernels.mf_linear(x.ctypes.data, tokens, ctypes.addressof(struct), y.ctypes.data, 300)
            found.append(y)
        np.testing.assert_array_equal(found[0], found[1])
        np.testing.assert_array_equal(found[0], found[2])
