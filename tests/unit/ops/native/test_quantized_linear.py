"""Linear layers with int8 and int4 weights against NumPy in float64 on the restored weights."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from mindformers.checkpoint.quantized import QuantizedMatrix, Scheme, dequantize, pack_nibbles
from mindformers.ops.native.arrays import of_array
from mindformers.ops.native.weights import LinearWeight

FEW = 8  # tokens whose activations are rounded to int8 in every instruction set
SCHEMES = [
    Scheme(8, 32), Scheme(8, 64), Scheme(8, 96), Scheme(4, 32), Scheme(4, 64), Scheme(4, 128),
    Scheme(4, 32, symmetric=False), Scheme(4, 64, symmetric=False), Scheme(4, 96, symmetric=False),
]  # fmt: skip


def drawn(rows: int, cols: int, scheme: Scheme, seed: int = 0) -> QuantizedMatrix:
    """Return any whole numbers a matrix can have, both ends among them, and scales of both signs."""
    rng = np.random.default_rng(seed)
    scales = rng.uniform(0.001, 0.02, (rows, cols // scheme.group))
    scales *= rng.choice([-1, 1], scales.shape)
    if scheme.bits == 8:
        q = rng.integers(-128, 128, (rows, cols)).astype(np.int8)
        return QuantizedMatrix(q, scales.astype(np.float16))
    zeros = None if scheme.symmetric else rng.integers(0, 16, scales.shape).astype(np.uint8)
    q = rng.integers(0, 16, (rows, cols)).astype(np.uint8)
    return QuantizedMatrix(pack_nibbles(q), scales.astype(np.float16), zeros)


def weight_of(parts: list[QuantizedMatrix], bias: np.ndarray | None = None) -> LinearWeight:
    return LinearWeight(
        tuple(of_array(part.values) for part in parts),
        bias,
        tuple(of_array(part.scales) for part in parts),
        tuple(of_array(part.zeros) for part in parts if part.zeros is not None),
    )


def apply(kernels: ctypes.CDLL, weight: LinearWeight, x: np.ndarray) -> np.ndarray:
    struct = weight.struct()
    y = np.full((len(x), weight.rows), np.nan, np.float32)
    kernels.mf_linear(x.ctypes.data, len(x), ctypes.addressof(struct), y.ctypes.data, weight.rows)
    return y


def exact_inputs(rng: np.random.Generator, tokens: int, cols: int) -> np.ndarray:
    """Return activations that rounding to int8 with a scale for each 32 columns leaves as they are."""
    q = rng.integers(-127, 128, (tokens, cols // 32, 32))
    q[:, :, 5] = 127 * rng.choice([-1, 1], q.shape[:2])
    units = 2.0 ** rng.integers(-9, -4, (*q.shape[:2], 1))
    return (q * units).reshape(tokens, cols).astype(np.float32)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_products_with_rounded_weights_are_exact_for_inputs_that_int8_holds(
    kernels: ctypes.CDLL, scheme: Scheme, threads: int
) -> None:
    kernels.mf_set_threads(threads)
    rng = np.random.default_rng(1)
    for rows, blocks in ((1, 1), (7, 3), (5, 5), (131, 2)):
        cols = blocks * scheme.group
        parts = [drawn(rows, cols, scheme), drawn(3, cols, scheme, 1)][: 1 + rows % 2]
        exact = np.concatenate([dequantize(part) for part in parts]).astype(np.float64)
        bias = rng.normal(size=len(exact)).astype(np.float32) if rows != 5 else None
        weight = weight_of(parts, bias)
        for tokens in (*range(1, 10), 13, 24, 32, 33, 40):
            x = exact_inputs(rng, tokens, cols)
            wanted = x @ exact.T + (0 if bias is None else bias)
            found = apply(kernels, weight, x)
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("scheme", [SCHEMES[1], SCHEMES[3], SCHEMES[7]], ids=str)
def test_any_inputs_lose_no_more_than_their_rounding_to_int8(
    kernels: ctypes.CDLL, scheme: Scheme
) -> None:
    rng = np.random.default_rng(2)
    matrix = drawn(64, 6 * scheme.group, scheme)
    exact = dequantize(matrix).astype(np.float64)
    x = rng.normal(size=(FEW, exact.shape[1])).astype(np.float32)
    top = np.abs(x.reshape(FEW, -1, 32)).max(axis=2).repeat(32, axis=1)
    bound = (top / 254) @ np.abs(exact.T)  # half a step of every input
    assert (np.abs(apply(kernels, weight_of([matrix]), x) - x @ exact.T) <= bound).all()


@pytest.mark.parametrize("end", [-128, 127])
def test_int8_at_its_ends_overflows_nothing(kernels: ctypes.CDLL, end: int) -> None:
    q = np.full((6, 256), end, np.int8)
    weight = weight_of([QuantizedMatrix(q, np.ones((6, 4), np.float16))])
    for sign in (-1, 1):
        x = np.full((5, 256), 127 * sign, np.float32)
        assert (apply(kernels, weight, x) == 127 * sign * end * 256).all()


@pytest.mark.parametrize("zero", [None, 0, 15])
def test_int4_at_its_ends_overflows_nothing(kernels: ctypes.CDLL, zero: int | None) -> None:
    zeros = None if zero is None else np.full((6, 2), zero, np.uint8)
    for nibble in (0, 15):
        q = pack_nibbles(np.full((6, 128), nibble, np.uint8))
        weight = weight_of([QuantizedMatrix(q, np.ones((6, 2), np.float16), zeros)])
        for sign in (-1, 1):
            x = np.full((5, 128), 127 * sign, np.float32)
            wanted = 127 * sign * (nibble - (8 if zero is None else zero)) * 128
            np.testing.assert_allclose(apply(kernels, weight, x), wanted, rtol=1e-6)


@pytest.mark.parametrize("scheme", [SCHEMES[1], SCHEMES[3], SCHEMES[6]], ids=str)
def test_the_number_of_threads_and_of_tokens_beside_it_changes_no_bit(
    kernels: ctypes.CDLL, scheme: Scheme
) -> None:
    weight = weight_of([drawn(300, 5 * scheme.group, scheme)])
    x = np.random.default_rng(3).normal(size=(FEW, weight.cols)).astype(np.float32)
    kernels.mf_set_threads(1)
    alone = np.concatenate([apply(kernels, weight, row[None]) for row in x])
    for threads in (1, 2, 5):
        kernels.mf_set_threads(threads)
        np.testing.assert_array_equal(apply(kernels, weight, x), alone)


def test_zeros_stay_zero_and_nan_and_inf_are_not_hidden(kernels: ctypes.CDLL) -> None:
    weight = weight_of([drawn(9, 128, SCHEMES[3])])
    x = np.zeros((4, 128), np.float32)
    x[1, 40], x[2, 3], x[3, 127] = np.nan, np.inf, 1e-38
    found = apply(kernels, weight, x)
    assert (found[0] == 0).all()
    assert np.isnan(found[1]).all()
    assert np.isnan(found[2]).all()
    assert np.isfinite(found[3]).all()
