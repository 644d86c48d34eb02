"""Tolerances of value comparisons, in one place; a looser one needs a reason in words."""

from __future__ import annotations

from typing import Any

import numpy as np

OP_FP32 = 1e-5
MODEL_FP32 = 1e-4
BF16 = 2e-2


def assert_close(actual: Any, expected: Any, tolerance: float = OP_FP32, what: str = "") -> None:
    """Fail unless every value differs by at most ``tolerance`` (absolute, plus relative)."""
    actual = np.asarray(actual, dtype=np.float64)
    expected = np.asarray(expected, dtype=np.float64)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape} against {expected.shape}"
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance, err_msg=what)
