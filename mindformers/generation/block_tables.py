"""Tables of cache blocks as kernels take them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mindformers.generation.array import Array

DUMP_BLOCK = 0  # belongs to nobody: padding is written there


def stacked(tables: Sequence[Array]) -> Array:
    """Return block tables of different lengths as one, (A, W) int32, filled up with ``DUMP_BLOCK``."""
    longest = max(map(len, tables), default=0)
    joined = np.full((len(tables), longest), DUMP_BLOCK, np.int32)
    for place, table in enumerate(tables):
        joined[place, : len(table)] = table
    return joined
