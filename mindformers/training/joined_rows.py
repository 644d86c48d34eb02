"""Rows of a batch as one row without filling: the same loss and gradients, and no work on tokens that decide nothing.

What lies behind the last label of a document is seen by no label, for attention looks back only.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mindformers.config.columns import IGNORED_LABEL, STARTS_COLUMN


def joined_rows(batch: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Return a batch's rows up to their last labels, one after another.

    Args:
        batch: ``input_ids`` and ``labels``, (B, S) int32, and ``document_starts`` where rows hold several
            documents; at least one label counts.

    Returns:
        The batch itself where every row is in use to its end; else the same columns and
        ``document_starts``, each (1, T) int32.
    """
    labels = batch["labels"]
    rows, tokens = labels.shape
    counts = labels != IGNORED_LABEL
    used = np.where(counts.any(1), tokens - counts[:, ::-1].argmax(1), 0)
    if used.sum() == labels.size:
        return batch
    starts = batch.get(STARTS_COLUMN, np.zeros((rows, tokens), np.int32))
    shifts = (np.cumsum(used) - used).astype(np.int32)
    columns = {**batch, STARTS_COLUMN: starts + shifts[:, np.newaxis]}
    is_used = np.arange(tokens) < used[:, np.newaxis]
    return {name: values[is_used][np.newaxis] for name, values in columns.items()}
