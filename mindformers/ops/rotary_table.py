"""The angles of the rotary embedding, as NumPy; needs no MindSpore."""

from __future__ import annotations

import numpy as np


def build_rotary_table(num_positions: int, rotary_dim: int, base: float) -> np.ndarray:
    """Build the angle table used by half-width rotary embedding.

    Args:
        num_positions: Rows to build, one per token position.
        rotary_dim: Rotated channels per head; even, half of the head in GLM.
        base: Wavelength base; 10000 times rope_ratio.

    Returns:
        Array (num_positions, rotary_dim // 2, 2), float32; the last axis is (cos, sin). Angles are
        formed in float64, so the table is right to the last bit at a million positions too.
    """
    frequency = float(base) ** (-np.arange(0, rotary_dim, 2, dtype=np.float64) / rotary_dim)
    angle = np.arange(num_positions, dtype=np.float64)[:, None] * frequency[None, :]
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1).astype(np.float32)
