"""Write and name MindRecord files: the published schema, whole or not at all.

A data set is one file, or ``num_partitions`` files whose names end in a number; beside each lies an
index ``<file>.db``. A MindRecord file holds its own name and cannot be renamed, so the files are
written under their final names in a hidden folder beside the target and moved when all is done.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from mindformers.checkpoint.atomic import (
    free_bytes,
    is_leftover,
    remove,
    sync_file,
    sync_folder,
    temp_name,
)
from mindformers.checkpoint.step_format import file_sha256
from mindformers.config.columns import COLUMNS
from mindformers.dataset.mindrecord_pages import MindRecordPages, index_path
from mindformers.dataset.mindrecord_rows import PackedRows, pack_matrix
from mindformers.errors import DataError

SCHEMA = {name: {"shape": [-1], "type": "int32"} for name in COLUMNS}
_HEADER_SCHEMA = {
    "blob_fields": list(COLUMNS),
    "desc": "token ids and shifted labels of a causal language model",
    "schema": SCHEMA,
}
MAX_PARTITIONS = 1000
# A table of our own inside the index file; MindSpore and other readers pass over it.
FACTS_TABLE = "DATASET_FACTS"
_FORBIDDEN_IN_NAMES = frozenset(r'\/:*?"<>|`&;' + "'")
_MAX_BATCH_BYTES = 16 * 2**20


def partition_paths(path: Path, num_partitions: int) -> list[Path]:
    """Return the data files of a data set called ``path``: itself, or itself and a number."""
    if num_partitions == 1:
        return [path]
    width = len(str(num_partitions - 1))
    return [path.with_name(f"{path.name}{i:0{width}d}") for i in range(num_partitions)]


def existing_files(path: Path) -> list[Path]:
    """Return the files, of any partition, in the way of a data set called ``path``; sorted."""
    own = re.compile(re.escape(path.name) + r"\d*(\.db)?")
    if not path.parent.is_dir():
        return []
    return sorted(entry for entry in path.parent.iterdir() if own.fullmatch(entry.name))


def check_output(path: Path, num_partitions: int, overwrite: bool) -> None:
    """Refuse an output that cannot or must not be written, before any work is done.

    Raises:
        DataError: If the name cannot be used, the number of partitions is out of range, or files
            are in the way and ``overwrite`` is False.
    """
    bad = sorted(_FORBIDDEN_IN_NAMES.intersection(path.name))
    if bad or path.name != path.name.strip(" "):
        raise DataError(
            f"MindRecord allows no {' '.join(bad) or 'blanks around the name'} in a file name",
            where=str(path),
            fix="choose another name",
        )
    if not 1 <= num_partitions <= MAX_PARTITIONS:
        raise DataError(f"{num_partitions} partitions", allowed=f"1 to {MAX_PARTITIONS}")
    in_the_way = existing_files(path)
    folders = [entry for entry in in_the_way if entry.is_dir()]
    if folders:
        raise DataError("a folder has this name", where=str(folders[0]), fix="choose another name")
    if in_the_way and not overwrite:
        raise DataError(
            f"the output exists already ({', '.join(entry.name for entry in in_the_way[:4])})",
            where=str(path),
            fix="add --overwrite to replace it, or choose another name",
        )


class MindRecordWriter:
    """Writes rows of token ids to the files of one data set; made by ``mindrecord_writer``.

    Attributes:
        num_rows: Rows written so far.
    """

    def __init__(self, path: Path, num_partitions: int) -> None:
        self._paths = partition_paths(path, num_partitions)
        self._files = [MindRecordPages(path) for path in self._paths]
        self.num_rows = 0
        self._saved_bytes = 0
        self._max_id = -1
        self._lengths: set[int] = set()

    def write(self, input_ids: np.ndarray, labels: np.ndarray) -> None:
        """Append rows.

        Args:
            input_ids: (rows, seq_length) int32.
            labels: (rows, seq_length) int32, shifted, -100 where nothing is learnt.
        """
        step = max(1, _MAX_BATCH_BYTES // max(1, input_ids[:1].nbytes))
        for start in range(0, len(input_ids), step):
            end = start + step
            self.write_packed(pack_matrix([input_ids[start:end], labels[start:end]]))

    def write_packed(self, rows: PackedRows) -> None:
        """Append rows that are records already.

        They are dealt to the partitions in equal parts; who gets one more goes round.

        Raises:
            DataError: If a row is too long for the format.
        """
        if not rows.num_rows:
            return
        num_files = len(self._files)
        share, rest = divmod(rows.num_rows, num_files)
        start = 0
        for number, file in enumerate(self._files):
            end = start + share + ((number - self.num_rows) % num_files < rest)
            file.append(rows.part(start, end))
            start = end
        self.num_rows += rows.num_rows
        plain = len(COLUMNS) * (8 + rows.seq_length * np.dtype(np.int32).itemsize)
        self._saved_bytes += int(rows.num_rows * (8 + plain) - rows.sizes.sum())
        self._max_id = max(self._max_id, rows.max_id)
        self._lengths.add(rows.seq_length)

    def finish(self, facts: Mapping[str, str]) -> None:
        """Close the files and note in each index what is in them."""
        names = [path.name for path in self._paths]
        saved_bytes = max(0, self._saved_bytes)  # integers of many digits come out longer
        for number, file in enumerate(self._files):
            file.finish(_HEADER_SCHEMA, number, names, saved_bytes)
        own = {"max_token_id": self._max_id, "seq_length": ",".join(map(str, self._lengths))}
        with ThreadPoolExecutor() as pool:  # hashing runs beside SQLite, and on every core
            hashes = [pool.submit(file_sha256, path) for path in self._paths]
            for file in self._files:
                file.write_index()
            for path, sha256 in zip(self._paths, hashes, strict=True):
                content = {**facts, **own, "sha256": sha256.result(), "size": path.stat().st_size}
                with closing(sqlite3.connect(index_path(path))) as index, index:
                    index.execute(f"CREATE TABLE {FACTS_TABLE} (NAME TEXT PRIMARY KEY, VALUE TEXT)")
                    rows = [(name, str(value)) for name, value in content.items()]
                    index.executemany(f"INSERT INTO {FACTS_TABLE} VALUES (?, ?)", rows)

    @property
    def files(self) -> list[Path]:
        """Every file of the data set, indexes first."""
        return [*(index_path(path) for path in self._paths), *self._paths]


@contextmanager
def mindrecord_writer(
    path: Path,
    *,
    num_partitions: int = 1,
    overwrite: bool = False,
    facts: Mapping[str, str] | None = None,
) -> Iterator[MindRecordWriter]:
    """Yield a writer; its files appear under ``path`` when the block ends well, else nothing does.

    Args:
        path: The data set's name.
        num_partitions: Number of files; rows are spread over them batch by batch.
        overwrite: Replace what has this name.
        facts: Notes kept in the index (``vocab_hash``); names and short texts.

    Raises:
        DataError: If the output cannot or must not be written, or no row was.
    """
    path = path.resolve() if path.is_symlink() else path
    check_output(path, num_partitions, overwrite)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for entry in path.parent.iterdir():
            if is_leftover(entry):
                remove(entry)
        with temp_name(path.with_suffix("")) as folder:
            folder.mkdir()
            writer = MindRecordWriter(folder / path.name, num_partitions)
            yield writer
            if not writer.num_rows:
                raise DataError("there are no rows to write", where=str(path))
            writer.finish(facts or {})
            check_output(path, num_partitions, overwrite)
            _move(writer.files, path, folder)
    except OSError as error:
        raise DataError(f"cannot write: {error.strerror or error}", where=str(path)) from error
    except sqlite3.Error as error:
        raise DataError(
            f"cannot write the index: {error} ({free_bytes(path.parent)} bytes free)",
            where=str(path),
            fix="check the free space and the permissions of the folder",
        ) from error


def _move(files: Sequence[Path], path: Path, folder: Path) -> None:
    """Put finished files in the place of what is there; should a move fail, the old ones return."""
    old = folder / "replaced"
    old.mkdir()
    moved: list[tuple[Path, Path]] = []
    try:
        for file in files:
            sync_file(file)
        for source, target in [
            *((entry, old / entry.name) for entry in existing_files(path)),
            *((file, path.parent / file.name) for file in files),
        ]:
            source.rename(target)
            moved.append((source, target))
    except BaseException:
        for source, target in reversed(moved):
            target.rename(source)
        raise
    sync_folder(path.parent)
