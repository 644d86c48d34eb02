"""This process's part of a batch that several share: some rows, and of these a part of the tokens."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mindformers.errors import DataError
from mindformers.parallel.layout import Layout


def own_rows(order: np.ndarray, batch_size: int, layout: Layout) -> np.ndarray:
    """Return the rows that this process has of every batch; ``order`` (n,) holds whole batches."""
    if layout.data == 1:
        return order
    rows = batch_size // layout.data
    return order.reshape(-1, layout.data, rows)[:, layout.data_rank].reshape(-1)


def own_tokens(batch: Mapping[str, np.ndarray], layout: Layout) -> dict[str, np.ndarray]:
    """Return this process's part of the tokens of a batch's columns, each (rows, tokens).

    Raises:
        DataError: If the tokens of a row cannot be shared evenly.
    """
    if layout.context == 1:
        return dict(batch)
    found = {}
    for name, values in batch.items():
        tokens, left_over = divmod(values.shape[1], layout.context)
        if left_over:
            raise DataError(
                f"rows of {values.shape[1]} tokens cannot be shared by {layout.context} processes",
                where="parallel_config.context_parallel",
                fix="take a length of a row that it divides",
            )
        part = slice(layout.context_rank * tokens, (layout.context_rank + 1) * tokens)
        found[name] = np.ascontiguousarray(values[:, part])
    return found
