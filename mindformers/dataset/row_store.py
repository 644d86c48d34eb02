"""Rows of token ids, each as long as it is, in a folder of their own: written once, then read in place.

The folder's name is a hash of all that its content follows from, so another input, vocabulary or
setting is another folder. It appears whole or not at all. Loads no MindSpore.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from mindformers.checkpoint.atomic import (
    is_leftover,
    remove,
    sync_file,
    sync_folder,
    temp_name,
    write_error,
)
from mindformers.checkpoint.step_format import file_sha256
from mindformers.config.columns import IGNORED_LABEL
from mindformers.dataset.mindrecord_rows import PackedRows
from mindformers.dataset.tally import Tally
from mindformers.errors import DataError
from mindformers.logger import logger

FORMAT_VERSION = 1
# None of the names is one that is looked for where data files are: a cache may lie beside them.
_IDS, _LABELS, _ROWS, _FACTS = "ids.bin", "labels.bin", "rows.npy", "facts"
_DATA_FILES = (_IDS, _LABELS, _ROWS)


class TokenPacker:
    """Packs rows for a store as ``RowPacker`` does for MindRecord: all ids, then all labels."""

    def pack(self, columns: Sequence[np.ndarray], lengths: np.ndarray) -> PackedRows:
        """Return the bytes of rows.

        Args:
            columns: Ids and labels of all rows, one row after another, int32.
            lengths: (rows,) tokens of each row.
        """
        ids, labels = (np.ascontiguousarray(values, "<i4") for values in columns)
        sizes = 8 * lengths.astype(np.int64)
        largest = max(-1, *(int(values.max()) for values in (ids, labels))) if ids.size else -1
        return PackedRows(ids.tobytes() + labels.tobytes(), sizes, 0, largest)


class RowWriter:
    """Writes the rows of a store; made by ``stored_rows``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ids, self._labels = ((folder / name).open("wb") for name in (_IDS, _LABELS))
        self._rows: list[np.ndarray] = []
        self._max_id = -1
        self.num_rows = 0

    def write(self, rows: PackedRows) -> None:
        """Append what ``TokenPacker`` made."""
        half = len(rows.data) // 2
        self._ids.write(rows.data[:half])
        self._labels.write(rows.data[half:])
        labels = np.frombuffer(rows.data, "<i4", offset=half)
        self._rows.append(_measure(labels, rows.sizes // 8))
        self._max_id = max(self._max_id, rows.max_id)
        self.num_rows += rows.num_rows

    def close(self) -> None:
        """Close the files."""
        self._ids.close()
        self._labels.close()

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Write the index, and last what is known of the files."""
        self.close()
        np.save(self._folder / _ROWS, np.concatenate(self._rows))
        files = {name: _state(self._folder / name) for name in _DATA_FILES}
        content = {**facts, "max_id": self._max_id, "files": files}
        (self._folder / _FACTS).write_text(json.dumps(content, indent=1), encoding="utf-8")
        for path in self._folder.iterdir():
            sync_file(path)


@dataclass(frozen=True)
class RowStore:
    """Rows that can be read in any order.

    Attributes:
        ids: (tokens,) int32 of all rows, on disk.
        labels: (tokens,) int32, shifted; -100 where nothing is learnt.
        starts: (rows,) int64, where each row begins.
        lengths: (rows,) tokens of each row.
        useful: (rows,) tokens up to the last one with a label: what lies behind teaches nothing.
        trained: (rows,) labels of each row that are not -100.
        max_id: The largest id.
        fingerprint: The same for the same rows, in hex.
        tally: What became of the input.
    """

    ids: np.ndarray
    labels: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    useful: np.ndarray
    trained: np.ndarray
    max_id: int
    fingerprint: str
    tally: Tally

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self.lengths)

    def row(self, index: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the first ``length`` ids and labels of a row, on disk."""
        begin = self.starts[index]
        return self.ids[begin : begin + length], self.labels[begin : begin + length]


@dataclass(frozen=True)
class JoinedRows:
    """The rows of several stores under one numbering; attributes as of ``RowStore``."""

    stores: tuple[RowStore, ...]

    def __len__(self) -> int:
        """Return how many rows there are."""
        return sum(map(len, self.stores))

    @cached_property
    def edges(self) -> np.ndarray:
        """Where each store's numbers begin, and behind the last."""
        return np.cumsum([0, *map(len, self.stores)])

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each row."""
        return np.concatenate([store.lengths for store in self.stores])

    @cached_property
    def useful(self) -> np.ndarray:
        """Tokens of each row up to the last one with a label."""
        return np.concatenate([store.useful for store in self.stores])

    @cached_property
    def fingerprint(self) -> str:
        """The same for the same rows in the same order."""
        text = " ".join(store.fingerprint for store in self.stores)
        if len(self.stores) == 1:
            return text
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    def row(self, index: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the first ``length`` ids and labels of a row, on disk."""
        store = int(np.searchsorted(self.edges, index, side="right")) - 1
        return self.stores[store].row(index - int(self.edges[store]), length)


def stored_rows(
    cache_dir: Path, identity: Mapping[str, Any], write: Callable[[RowWriter], Tally]
) -> RowStore:
    """Return the rows of an input, which are made unless that was done before.

    Of several processes one makes them, the others wait.

    Args:
        cache_dir: Folder of all stores; made when missing.
        identity: All that the rows follow from; what JSON can hold.
        write: Writes the rows and returns what became of the input.

    Raises:
        DataError: What ``write`` raises, or if no row is left.
        CheckpointError: If the folder cannot be written.
    """
    text = json.dumps({"version": FORMAT_VERSION, **identity}, sort_keys=True)
    fingerprint = hashlib.sha256(text.encode("utf-8")).hexdigest()
    folder = cache_dir / f"rows-{fingerprint[:32]}"
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            found = _open(folder, fingerprint)
            if found is None:
                _make(folder, {"identity": dict(identity)}, write)
                found = _open(folder, fingerprint)
    except OSError as error:
        raise write_error(error, folder) from error
    if found is None:
        raise DataError("changed while it was written", where=str(folder), fix="start again")
    return found


def _make(folder: Path, facts: Mapping[str, Any], write: Callable[[RowWriter], Tally]) -> None:
    for entry in folder.parent.iterdir():
        if is_leftover(entry):
            remove(entry)
    with temp_name(folder) as temp:
        temp.mkdir()
        writer = RowWriter(temp)
        try:
            tally = write(writer)
        finally:
            writer.close()
        if not writer.num_rows:
            raise DataError(
                f"none of {tally.rows_read} rows is left to train on",
                where="the training data",
                fix=tally.advice(),
            )
        tally.rows_written = writer.num_rows
        writer.finish({**facts, "tally": tally.as_dict()})
        remove(folder)  # one that is damaged
        temp.rename(folder)
        sync_folder(folder.parent)


def _open(folder: Path, fingerprint: str) -> RowStore | None:
    """Return a store, or None if it is not there; one that is damaged is reported."""
    if not folder.is_dir():
        return None
    try:
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        wrong = [name for name in _DATA_FILES if facts["files"][name] != _state(folder / name)]
        if wrong:
            raise ValueError(f"{wrong[0]} is not as it was written")
        columns = np.load(folder / _ROWS).T
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s is damaged (%s); the rows are made again", folder, error)
        return None
    lengths, useful, trained = (np.ascontiguousarray(column) for column in columns)
    ids, labels = (np.memmap(folder / name, "<i4", "r") for name in (_IDS, _LABELS))
    return RowStore(
        ids, labels, np.cumsum(lengths) - lengths, lengths, useful, trained,
        facts["max_id"], fingerprint, Tally.from_dict(facts["tally"]),
    )  # fmt: skip


def _state(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": file_sha256(path)}


def _measure(labels: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return length, useful length and labels that count of rows one after another; (rows, 3)."""
    ends = np.cumsum(lengths)
    trained = np.flatnonzero(labels != IGNORED_LABEL)
    first, behind = (np.searchsorted(trained, edge) for edge in (ends - lengths, ends))
    last = np.append(trained, 0)[behind - 1]
    useful = np.where(behind > first, last - (ends - lengths) + 1, 0)
    return np.stack([lengths, useful, behind - first], axis=1).astype(np.int64)
