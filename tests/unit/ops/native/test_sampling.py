"""The native cut of a distribution against the plain one, which sorts."""

from __future__ import annotations

import numpy as np
import pytest

from mindformers.generation.logits import apply_temperature, keep_top_k, keep_top_p
from mindformers.ops.native.library import is_native
from mindformers.ops.native.sampling import sharpen

pytestmark = pytest.mark.skipif(not is_native(), reason="the kernels are not used here")


@pytest.mark.parametrize("size", [1, 7, 4096, 151552])
@pytest.mark.parametrize(
    ("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.8), (50, 0.9), (0, 0.0), (3, 0.5)]
)
@pytest.mark.parametrize("spread", [0.01, 3.0, 60.0])
def test_what_stays_is_what_sorting_keeps(
    size: int, top_k: int, top_p: float, spread: float
) -> None:
    logits = (np.random.default_rng(size).normal(size=size) * spread).astype(np.float32)
    logits[size // 2 :: 3] = -np.inf
    logits[0] = 0.5
    wanted = keep_top_p(keep_top_k(apply_temperature(logits, 0.7), top_k), top_p)
    found = sharpen(logits, 0.7, top_k, top_p)
    both = np.isfinite(found) & np.isfinite(wanted)
    np.testing.assert_array_equal(found[both], wanted[both])
    # Sums of 150,000 floats round otherwise: one token at the edge may stay or go.
    assert (np.isfinite(found) != np.isfinite(wanted)).sum() <= (0 if size < 5000 else 1)


def test_equal_scores_leave_the_lowest_ids() -> None:
    found = sharpen(np.zeros(100, np.float32), 1.0, 3, 1.0)
    assert np.flatnonzero(found > -np.inf).tolist() == [0, 1, 2]


def test_the_logits_themselves_stay_as_they_are() -> None:
    logits = np.arange(10, dtype=np.float32)
    sharpen(logits, 2.0, 1, 1.0)
    np.testing.assert_array_equal(logits, np.arange(10))
