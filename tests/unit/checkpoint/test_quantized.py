"""Rounding matrices to int8 and int4, and the bytes they are stored as."""

from __future__ import annotations

import numpy as np
import pytest

from mindformers.checkpoint.quantized import (
    QuantizedMatrix,
    Scheme,
    dequantize,
    pack_nibbles,
    quantize,
    unpack_nibbles,
    usual_group,
)
from mindformers.errors import ConfigError

SCHEMES = [Scheme(8, 64), Scheme(8, 32), Scheme(4, 32), Scheme(4, 64), Scheme(4, 32, symmetric=False)]  # fmt: skip


def normal(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)


def test_byte_i_of_a_block_holds_column_i_low_and_column_i_plus_16_high() -> None:
    q = (np.arange(64, dtype=np.uint8) % 16)[None]
    q[0, 16] = 9
    packed = pack_nibbles(q)
    assert packed.shape == (1, 32)
    assert packed[0, 0] == q[0, 0] | 9 << 4
    assert packed[0, 16 + 3] == q[0, 32 + 3] | q[0, 48 + 3] << 4


def test_nibbles_come_back_as_they_were_packed() -> None:
    q = np.random.default_rng(0).integers(0, 16, (7, 96)).astype(np.uint8)
    np.testing.assert_array_equal(unpack_nibbles(pack_nibbles(q)), q)


def test_restored_values_are_number_minus_zero_times_scale() -> None:
    rng = np.random.default_rng(1)
    q, zeros = rng.integers(0, 16, (3, 64)), rng.integers(0, 16, (3, 2))
    scales = rng.uniform(-1, 1, (3, 2)).astype(np.float16)
    stored = QuantizedMatrix(pack_nibbles(q.astype(np.uint8)), scales, zeros.astype(np.uint8))
    wanted = (q - zeros.repeat(32, 1)) * scales.astype(np.float64).repeat(32, 1)
    np.testing.assert_allclose(dequantize(stored), wanted, rtol=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_no_value_is_further_off_than_its_scale(scheme: Scheme) -> None:
    matrix = normal(9, 192)
    rounded = quantize(matrix, scheme)
    scales = np.abs(rounded.scales.astype(np.float32)).repeat(scheme.group, axis=1)
    share = 0.501 if scheme.bits == 8 else 3.0  # int4 may cut off the largest values
    assert (np.abs(dequantize(rounded) - matrix) <= share * scales).all()


@pytest.mark.parametrize(
    ("scheme", "most"),
    [(Scheme(8, 64), 0.0062), (Scheme(4, 32), 0.085), (Scheme(4, 32, symmetric=False), 0.082)],
    ids=str,
)
def test_searched_scales_keep_the_error_on_normal_numbers_small(
    scheme: Scheme, most: float
) -> None:
    matrix = normal(64, 512)
    error = np.sqrt(np.square(dequantize(quantize(matrix, scheme)) - matrix).mean())
    assert error < most


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_what_can_be_held_exactly_is(scheme: Scheme) -> None:
    rng = np.random.default_rng(2)
    low, high = (-127, 128) if scheme.bits == 8 else (-8, 8)
    q = rng.integers(low, high, (4, 128))
    q[:, ::32] = -127 if scheme.bits == 8 else -8
    q[:, 1::32] = 127 if scheme.bits == 8 else 7
    matrix = (q * 2.0**-6).astype(np.float32)
    np.testing.assert_array_equal(dequantize(quantize(matrix, scheme)), matrix)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_zeros_and_numbers_too_small_for_a_scale_become_zero(scheme: Scheme) -> None:
    matrix = np.zeros((2, 128), np.float32)
    matrix[1] = 1e-30
    assert (dequantize(quantize(matrix, scheme)) == 0).all()


def test_numbers_too_large_for_a_scale_stay_finite() -> None:
    matrix = np.full((1, 64), 3e38, np.float32)
    assert np.isfinite(dequantize(quantize(matrix, Scheme(8, 64)))).all()


def test_the_usual_group_fits_all_matrices() -> None:
    assert usual_group(8, {128, 192}) == 64
    assert usual_group(8, {128, 96}) == 32
    assert usual_group(4, {128}) == 32


def test_columns_that_are_no_multiple_of_the_group_are_refused_with_what_is_allowed() -> None:
    with pytest.raises(
        ConfigError, match="down: 96 columns in groups of 64; allowed: groups of 32"
    ):
        quantize(normal(2, 96), Scheme(4, 64), "down")
    with pytest.raises(
        ConfigError, match="40 columns in groups of 32; allowed: columns in multiples of 32"
    ):
        quantize(normal(2, 40), Scheme(4, 32))


@pytest.mark.parametrize(
    ("bits", "group", "symmetric", "message"),
    [
        (3, 32, True, "3 bits; allowed: 8 or 4"),
        (4, 48, True, "a group of 48 columns; allowed: a multiple of 32"),
        (8, 64, False, "asymmetric int8; allowed: symmetric"),
    ],
)
def test_a_scheme_no_kernel_has_is_refused(
    bits: int, group: int, symmetric: bool, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Scheme(bits, group, symmetric)
