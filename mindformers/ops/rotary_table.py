"""The angles of the rotary embedding, as NumPy; needs no MindSpore."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Yarn:
    """How wavelengths are stretched for positions beyond the trained ones.

    A pair that turns more than ``beta_fast`` times within the trained length keeps its wavelength, one that
    turns less than ``beta_slow`` times gets ``factor`` times its own, those between a mixture.

    Attributes:
        factor: How many times the trained length.
        original_max_position_embeddings: The trained length (tokens).
        beta_fast: See above.
        beta_slow: See above.
        attention_factor: Multiplies cos and sin; None: 0.1 ln(factor) + 1.

    Source: "YaRN: Efficient Context Window Extension of Large Language Models", section 3.
    """

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None

    @property
    def gain(self) -> float:
        """What multiplies cos and sin."""
        usual = 0.1 * math.log(self.factor) + 1.0
        return usual if self.attention_factor is None else self.attention_factor

    def stretched(self, frequency: np.ndarray, base: float) -> np.ndarray:
        """Return the frequencies (R / 2,) float64 to use instead of ``frequency``."""
        count = len(frequency)
        length = self.original_max_position_embeddings

        def pair_that_turns(times: float) -> float:
            return count * math.log(length / (times * 2 * math.pi)) / math.log(base)

        low = max(math.floor(pair_that_turns(self.beta_fast)), 0)
        high = min(math.ceil(pair_that_turns(self.beta_slow)), 2 * count - 1)
        width = high - low if high != low else 0.001  # as in the paper's code: no division by 0
        slowed = np.clip((np.arange(count) - low) / width, 0.0, 1.0)
        return frequency * (1 - slowed) + frequency / self.factor * slowed


def build_rotary_table(
    num_positions: int, rotary_dim: int, base: float, yarn: Yarn | None = None
) -> np.ndarray:
    """Build the angle table used by half-width rotary embedding.

    Args:
        num_positions: Rows to build, one per token position.
        rotary_dim: Rotated channels per head; even, half of the head in GLM.
        base: Wavelength base; 10000 times rope_ratio.
        yarn: How wavelengths are stretched; None: not.

    Returns:
        Array (num_positions, rotary_dim // 2, 2), float32; the last axis is (cos, sin). Angles are
        formed in float64, so the table is right to the last bit at a million positions too.
    """
    frequency = float(base) ** (-np.arange(0, rotary_dim, 2, dtype=np.float64) / rotary_dim)
    gain = 1.0 if yarn is None else yarn.gain
    if yarn is not None:
        frequency = yarn.stretched(frequency, base)
    angle = np.arange(num_positions, dtype=np.float64)[:, None] * frequency[None, :]
    return (np.stack([np.cos(angle), np.sin(angle)], axis=-1) * gain).astype(np.float32)
