"""Log probabilities of tokens, by the model's own logits."""

from __future__ import annotations

import numpy as np

from mindformers.generation.array import Array
from mindformers.generation.logits import kth_largest
from mindformers.generation.request import TokenLogprob


def token_logprob(logits: Array, token: int, num_top: int) -> TokenLogprob:
    """Return the log probability of a token and of the likeliest ones in its place.

    Args:
        logits: (V,) float32, the model's.
        token: The chosen one.
        num_top: How many of the likeliest, 0 or more; the lower id of equals comes first.
    """
    peak = float(logits.max())
    total = peak + float(np.log(np.exp(logits - np.float32(peak)).sum(dtype=np.float64)))
    count = min(num_top, len(logits))
    top: tuple[tuple[int, float], ...] = ()
    if count:
        likely = np.flatnonzero(logits >= kth_largest(logits, count))
        order = likely[np.argsort(-logits[likely], kind="stable")][:count]
        top = tuple((int(each), float(logits[each]) - total) for each in order)
    return TokenLogprob(token, float(logits[token]) - total, top)
