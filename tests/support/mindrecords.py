"""Small MindRecord data sets whose rows tell their number: row i begins with the id i."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mindformers.dataset.mindrecord import FACTS_TABLE, mindrecord_writer


def numbered_rows(num_rows: int, seq_length: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and labels, (num_rows, seq_length) int32; ids[i] = i, then 1; labels are half -100."""
    ids = np.ones((num_rows, seq_length), dtype=np.int32)
    ids[:, 0] = np.arange(num_rows)
    labels = np.full_like(ids, -100)
    labels[:, seq_length // 2 :] = 2
    return ids, labels


def write_numbered(
    path: Path, num_rows: int, *, seq_length: int = 8, partitions: int = 1, batch: int = 100
) -> Path:
    """Write a numbered data set with our writer."""
    ids, labels = numbered_rows(num_rows, seq_length)
    with mindrecord_writer(path, num_partitions=partitions) as writer:
        for start in range(0, num_rows, batch):
            writer.write(ids[start : start + batch], labels[start : start + batch])
    return path


def write_foreign(
    path: Path, rows: list[dict], schema: dict | None = None, partitions: int = 1
) -> Path:
    """Write rows the way upstream's script does: MindSpore's FileWriter, nothing else."""
    from mindspore.mindrecord import FileWriter

    default = {
        "input_ids": {"type": "int32", "shape": [-1]},
        "labels": {"type": "int32", "shape": [-1]},
    }
    writer = FileWriter(file_name=str(path), shard_num=partitions)
    writer.add_schema(schema or default, "lm-schema")
    writer.write_raw_data(rows)
    writer.commit()
    return path


def drop_facts(path: Path) -> None:
    """Remove our notes from an index, as if another program had written the file."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(f"{path}.db")) as index, index:
        index.execute(f"DROP TABLE {FACTS_TABLE}")
