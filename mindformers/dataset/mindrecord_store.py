"""The rows of MindRecord files without their filling, kept where they can be read in any order."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mindformers.config.columns import COLUMNS, IGNORED_LABEL
from mindformers.dataset.pipeline import TrainDataset
from mindformers.dataset.row_store import RowStore, RowWriter, TokenPacker, stored_rows
from mindformers.dataset.tally import Tally


def rows_of_mindrecord(dataset: TrainDataset, cache_dir: Path) -> RowStore:
    """Return the rows of ``dataset``, each up to its last label; what lies behind teaches nothing.

    Args:
        dataset: All rows, in the order of the files, the last batch too.
        cache_dir: Folder of all stores.

    Raises:
        DataError: If a row cannot be read.
        CheckpointError: If the folder cannot be written.
    """

    def write(writer: RowWriter) -> Tally:
        packer, tally = TokenPacker(), Tally()
        for batch in dataset.batches(0):
            ids, labels = (batch[name] for name in COLUMNS)
            is_trained = labels != IGNORED_LABEL
            places = np.arange(1, ids.shape[1] + 1)
            lengths = np.where(is_trained, places, 0).max(axis=1)
            is_kept = places <= lengths[:, None]
            writer.write(packer.pack((ids[is_kept], labels[is_kept]), lengths))
            tally.rows_read += len(ids)
            tally.tokens += int(lengths.sum())
            tally.trained_tokens += int(is_trained.sum())
        return tally

    return stored_rows(cache_dir, {"mindrecord": dataset.fingerprint}, write)
