"""What a row of logits leaves to draw from, without sorting the vocabulary."""

from __future__ import annotations

from typing import Any

import numpy as np

from mindformers.ops.native.library import required


def sharpen(
    logits: np.ndarray[Any, Any], temperature: float, top_k: int, top_p: float
) -> np.ndarray[Any, Any]:
    """Divide by the temperature and rule out what cannot be drawn.

    Args:
        logits: (V,) float32, no NaN, at least one finite; left unchanged.
        temperature: Above 0.
        top_k: Keep exactly so many of the largest, the lower id of equals; 0 or V and above: all.
        top_p: Of those, keep the likeliest up to and with the one that brings their probability to it;
            1 and above: all.

    Returns:
        (V,) float32, -inf where ruled out.
    """
    scores = np.array(logits, np.float32, order="C", ndmin=1)
    required().mf_sharpen(scores.ctypes.data, scores.size, temperature, top_k, top_p)
    return scores
