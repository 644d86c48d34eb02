"""The rotary table and rotation against formulas written out in NumPy float64."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindformers.ops.rotary import Rotary, RotaryAngles, build_rotary_table
from tests.support.compare import assert_close


@pytest.mark.parametrize("base", [1e4, 5e6, 1e8])
@pytest.mark.parametrize("position", [0, 1, 8191, 32767, 131071])
def test_the_table_holds_cos_and_sin_of_position_times_wavelength(
    base: float, position: int
) -> None:
    table = build_rotary_table(position + 1, 64, base)[position]
    angles = [position * base ** (-2 * j / 64) for j in range(32)]
    assert_close(table[:, 0], np.cos(angles), 1e-6)
    assert_close(table[:, 1], np.sin(angles), 1e-6)
    assert table.dtype == np.float32


def rotated_by_hand(
    x: np.ndarray, positions: np.ndarray, rotary_dim: int, base: float
) -> np.ndarray:
    """Rotate (B, S, N, D) pair by pair."""
    out = x.astype(np.float64).copy()
    for j in range(rotary_dim // 2):
        angle = (positions * base ** (-2 * j / rotary_dim))[..., None]
        even, odd = x[..., 2 * j].astype(np.float64), x[..., 2 * j + 1].astype(np.float64)
        out[..., 2 * j] = even * np.cos(angle) - odd * np.sin(angle)
        out[..., 2 * j + 1] = odd * np.cos(angle) + even * np.sin(angle)
    return out


def test_only_the_first_half_of_a_head_rotates_in_interleaved_pairs(mode: int) -> None:
    rng = np.random.default_rng(0)
    heads = rng.standard_normal((2, 5, 3, 128)).astype(np.float32)
    positions = np.array([[0, 1, 2, 3, 4], [700, 701, 30, 31, 999]])
    cos, sin = RotaryAngles(1000, 64, 128, 5e6, ms.float32)(Tensor(positions.astype(np.int32)))
    got = Rotary(64, 128, ms.float32)(Tensor(heads), cos, sin).asnumpy()
    assert_close(got, rotated_by_hand(heads, positions, 64, 5e6))
    assert np.array_equal(got[..., 64:], heads[..., 64:])
    assert not np.allclose(got[1, :, :, :64], heads[1, :, :, :64])
