"""Rounding for typical inputs: what it gains where inputs are correlated."""

from __future__ import annotations

import numpy as np
import pytest

from mindformers.checkpoint.gptq import Correlations, quantize_for_inputs
from mindformers.checkpoint.quantized import Scheme, dequantize, quantize


def correlated(tokens: int, cols: int, rng: np.random.Generator) -> np.ndarray:
    """Return inputs that mostly lie in a quarter of their directions, as a network's do."""
    basis = rng.standard_normal((cols // 4, cols)) / 8
    inputs = rng.standard_normal((tokens, cols // 4)) @ basis
    return (inputs + 0.1 * rng.standard_normal((tokens, cols))).astype(np.float32)


@pytest.mark.parametrize(
    "scheme",
    [Scheme(4, 32), Scheme(4, 64, symmetric=False), Scheme(4, 192), Scheme(8, 64)],
    ids=str,
)
def test_outputs_on_correlated_inputs_are_several_times_closer_than_rounding_to_nearest(
    scheme: Scheme,
) -> None:
    rng = np.random.default_rng(0)
    inputs, unseen = np.split(correlated(3000, 384, rng), 2)
    matrix = (rng.standard_normal((50, 384)) * 0.02).astype(np.float32)
    seen = Correlations(384)
    for part in np.split(inputs, 3):
        seen.add(part)

    def error(rounded: np.ndarray) -> float:
        return float(np.square(unseen @ (rounded - matrix).T).mean())

    aware = error(dequantize(quantize_for_inputs(matrix, seen.steps(), scheme)))
    nearest = error(dequantize(quantize(matrix, scheme)))
    assert aware < nearest / 4


def test_inputs_without_correlation_give_rounding_to_nearest() -> None:
    seen = Correlations(64)
    seen.add(np.eye(64, dtype=np.float32))
    matrix = np.random.default_rng(1).standard_normal((5, 64)).astype(np.float32)
    found = quantize_for_inputs(matrix, seen.steps(), Scheme(4, 32))
    nearest = quantize(matrix, Scheme(4, 32))
    np.testing.assert_array_equal(found.values, nearest.values)
    np.testing.assert_array_equal(found.scales, nearest.scales)


def test_channels_that_never_carry_anything_do_no_harm() -> None:
    rng = np.random.default_rng(2)
    inputs = correlated(200, 64, rng)
    inputs[:, 10:20] = 0
    seen = Correlations(64)
    seen.add(inputs)
    matrix = rng.standard_normal((4, 64)).astype(np.float32)
    found = dequantize(quantize_for_inputs(matrix, seen.steps(), Scheme(8, 32)))
    assert np.abs(found - matrix).max() < 0.2


def test_the_matrix_given_is_left_as_it_is() -> None:
    matrix = np.random.default_rng(3).standard_normal((4, 64)).astype(np.float32)
    before = matrix.copy()
    seen = Correlations(64)
    seen.add(matrix)
    quantize_for_inputs(matrix, seen.steps(), Scheme(4, 32))
    np.testing.assert_array_equal(matrix, before)
