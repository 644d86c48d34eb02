"""The angles of the rotary embedding, as NumPy; needs no MindSpore."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_AT_ONCE = 4096  # rows formed together; bounds the float64 angles


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


class RotaryTable:
    """The angle table of half-width rotary embedding, formed as far as positions are asked for.

    A table of a million positions takes 256 MB, and seconds to form; most texts end long before.

    Args:
        num_positions: Rows P, one per token position.
        rotary_dim: Rotated channels per head R; even, half of the head in GLM.
        base: Wavelength base; 10000 times rope_ratio.
        yarn: How wavelengths are stretched; None: not.

    Attributes:
        rows: (P, R/2, 2) float32, the last axis is (cos, sin); zeros where not formed yet. Angles are formed
            in float64, so a row is right to half a unit of the last place at a million positions too.
    """

    def __init__(
        self, num_positions: int, rotary_dim: int, base: float, yarn: Yarn | None = None
    ) -> None:
        frequency = float(base) ** (-np.arange(0, rotary_dim, 2, dtype=np.float64) / rotary_dim)
        self._frequency = frequency if yarn is None else yarn.stretched(frequency, base)
        self._gain = 1.0 if yarn is None else yarn.gain
        self._formed = 0
        # Zeros take no memory before they are written.
        self.rows = np.zeros((num_positions, rotary_dim // 2, 2), np.float32)

    def form(self, count: int) -> None:
        """Have at least the first ``count`` rows formed, or all there are."""
        while self._formed < min(count, len(self.rows)):
            part = self.rows[self._formed : self._formed + _AT_ONCE]
            position = np.arange(self._formed, self._formed + len(part), dtype=np.float64)
            angle = position[:, None] * self._frequency
            part[..., 0], part[..., 1] = np.cos(angle) * self._gain, np.sin(angle) * self._gain
            self._formed += len(part)


def build_rotary_table(
    num_positions: int, rotary_dim: int, base: float, yarn: Yarn | None = None
) -> np.ndarray:
    """Return the whole table of a ``RotaryTable``, (num_positions, rotary_dim // 2, 2) float32."""
    table = RotaryTable(num_positions, rotary_dim, base, yarn)
    table.form(num_positions)
    return table.rows
