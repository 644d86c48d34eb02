"""The rotary table and rotation against formulas written out in NumPy float64."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindformers.ops.rotary import Rotary, RotaryAngles
from mindformers.ops.rotary_table import Yarn, build_rotary_table
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
    table = build_rotary_table(1000, 64, 5e6)
    cos, sin = RotaryAngles(table, 128, ms.float32)(Tensor(positions.astype(np.int32)))
    got = Rotary(64, 128, ms.float32)(Tensor(heads), cos, sin).asnumpy()
    assert_close(got, rotated_by_hand(heads, positions, 64, 5e6))
    assert np.array_equal(got[..., 64:], heads[..., 64:])
    assert not np.allclose(got[1, :, :, :64], heads[1, :, :, :64])


def test_yarn_keeps_fast_pairs_slows_slow_ones_and_mixes_between() -> None:
    # GLM-4-0414: 32 pairs, base 10000, trained on 32768 tokens. Pair j turns 32768 / (2 pi 10000^(j/32)) times.
    # 32 turns: j = 32 ln(32768 / 64 pi) / ln 10000 = 17.7, so pairs to 17 stay; 1 turn: 29.7, so from 30 on they slow.
    yarn = Yarn(factor=4.0, original_max_position_embeddings=32768)
    position, gain = 40000, 0.1 * np.log(4.0) + 1.0
    table = build_rotary_table(position + 1, 64, 1e4, yarn)[position]
    frequency = 1e4 ** (-np.arange(32) / 32)
    share = {0: 0.0, 16: 0.0, 17: 0.0, 20: 3 / 13, 29: 12 / 13, 30: 1.0, 31: 1.0}
    for pair, slowed in share.items():
        angle = position * frequency[pair] * (1 - slowed + slowed / 4)
        assert_close(table[pair], gain * np.array([np.cos(angle), np.sin(angle)]), 1e-6)


def test_yarns_gain_can_be_given() -> None:
    yarn = Yarn(factor=4.0, original_max_position_embeddings=64, attention_factor=1.0)
    assert_close(build_rotary_table(1, 16, 1e4, yarn)[0], [[1.0, 0.0]] * 8, 1e-7)
