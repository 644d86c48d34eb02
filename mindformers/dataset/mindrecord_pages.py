"""One MindRecord data file and its index, byte for byte as MindSpore's own writer lays them out.

A file is a header (JSON, in 16 MiB) and pages of 32 MiB: data pages with the records, and raw pages
with what a record holds beside its arrays, which is nothing here but must be said for every row.
The index is a SQLite table of where each row lies. Loads no MindSpore.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from mindformers.dataset.mindrecord_rows import PackedRows, record_bytes
from mindformers.errors import DataError

HEADER_BYTES, PAGE_BYTES = 2**24, 2**25
INDEX_SUFFIX = ".db"
_FORMAT_VERSION = "3.0"
_FILE_MODE = 0o600  # MindSpore's own
# Size (8 bytes, little endian) and MessagePack of {"id": 0}: the row follows the only schema.
_RAW_RECORD = (5).to_bytes(8, "little") + b"\x81\xa2id\x00"
_INDEX_COLUMNS = (
    *("ROW_ID", "PAGE_ID_RAW", "PAGE_OFFSET_RAW", "PAGE_OFFSET_RAW_END"),
    *("ROW_GROUP_ID", "PAGE_ID_BLOB", "PAGE_OFFSET_BLOB", "PAGE_OFFSET_BLOB_END"),
)


def index_path(path: Path) -> Path:
    """Return the index file of a data file."""
    return path.with_name(path.name + INDEX_SUFFIX)


@dataclass
class _RawPage:
    page_id: int
    num_rows: int = 0
    groups: list[tuple[int, int]] = field(default_factory=list)  # of rows: number, first offset


@dataclass
class _DataPage:
    page_id: int
    first_row: int
    group: int  # the rows of a data page are one group in a raw page
    raw_page: _RawPage
    raw_offset: int
    used: int = 0
    sizes: list[np.ndarray] = field(default_factory=list)  # of its records; 4 bytes a row

    @property
    def num_rows(self) -> int:
        """How many records the page holds."""
        return sum(map(len, self.sizes))


class MindRecordPages:
    """One data file in the making; it can be read once ``finish`` and ``write_index`` are done.

    Args:
        path: The file; made anew.

    Attributes:
        num_rows: Rows written so far.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pages: list[_DataPage] = []
        self._raw_pages: list[_RawPage] = []
        self.num_rows = 0
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _FILE_MODE))

    def append(self, rows: PackedRows) -> None:
        """Write records at the end.

        Raises:
            DataError: If a record is longer than a page.
        """
        ends = np.concatenate([[0], np.cumsum(rows.sizes)])
        data = memoryview(rows.data)
        first = 0
        with _opened(self._path) as file:
            while first < rows.num_rows:
                page = self._page_for(int(rows.sizes[first]), rows.seq_length)
                room = PAGE_BYTES - page.used + ends[first]
                last = int(np.searchsorted(ends, room, side="right")) - 1
                _write_at(file, data[ends[first] : ends[last]], _place(page.page_id) + page.used)
                page.used += int(ends[last] - ends[first])
                page.sizes.append(rows.sizes[first:last].astype(np.uint32))
                page.raw_page.num_rows += last - first
                self.num_rows += last - first
                first = last

    def _page_for(self, size: int, seq_length: int) -> _DataPage:
        """Return the page for a record of ``size`` bytes: the last one, or a new one."""
        if size > PAGE_BYTES:
            raise DataError(
                f"a row of {seq_length} tokens has {size} bytes",
                where=str(self._path.name),
                allowed=f"at most {PAGE_BYTES}, one page of a MindRecord file",
                fix="lower --seq_length",
            )
        if self._pages and self._pages[-1].used + size <= PAGE_BYTES:
            return self._pages[-1]
        page_id = len(self._pages) + len(self._raw_pages)
        # The rows of a data page have to lie in one raw page: how many they will be is not known.
        most_rows = PAGE_BYTES // record_bytes(seq_length, 1)
        raw_page = self._raw_pages[-1] if self._raw_pages else None
        data_page_id = page_id
        if raw_page is None:
            raw_page = _RawPage(page_id + 1)
            self._raw_pages.append(raw_page)
        elif (raw_page.num_rows + most_rows) * len(_RAW_RECORD) > PAGE_BYTES:
            raw_page = _RawPage(page_id)
            self._raw_pages.append(raw_page)
            data_page_id = page_id + 1
        offset = raw_page.num_rows * len(_RAW_RECORD)
        page = _DataPage(data_page_id, self.num_rows, len(self._pages), raw_page, offset)
        raw_page.groups.append((page.group, offset))
        self._pages.append(page)
        return page

    def finish(
        self, schema: Mapping[str, Any], shard: int, names: Sequence[str], saved_bytes: int
    ) -> None:
        """Write the raw pages and the header.

        Args:
            schema: What the columns are, as the header holds it.
            shard: Which of the data set's files this is.
            names: The names of all of them.
            saved_bytes: By how much the records are shorter than their integers, in all files.

        Raises:
            DataError: If there are more pages than the header can name.
        """
        header = {
            "header_size": HEADER_BYTES,
            "index_fields": None,
            "page": self._page_table(shard) or None,
            "page_size": PAGE_BYTES,
            "compression_size": saved_bytes,
            "schema": [schema],
            "shard_addresses": list(names),
            "shard_id": shard,
            "statistics": None,
            "version": _FORMAT_VERSION,
        }
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
        if len(text) + 8 > HEADER_BYTES:
            raise DataError(
                f"{self.num_rows} rows are too many for one MindRecord file",
                where=self._path.name,
                fix="raise --file_partition",
            )
        with _opened(self._path) as file:
            for page in self._raw_pages:
                _write_at(file, memoryview(_RAW_RECORD * page.num_rows), _place(page.page_id))
            _write_at(file, memoryview(len(text).to_bytes(8, "little") + text), 0)

    def _page_table(self, shard: int) -> list[dict[str, Any]]:
        table = [
            _page_entry(
                "BLOB_DATA", number, page.page_id, page.used, shard, [(0, 0)],
                (page.first_row, page.first_row + page.num_rows),
            )
            for number, page in enumerate(self._pages)
        ]  # fmt: skip
        table += [
            _page_entry(
                "RAW_DATA", number, page.page_id, page.num_rows * len(_RAW_RECORD), shard,
                page.groups, (0, 0),
            )
            for number, page in enumerate(self._raw_pages)
        ]  # fmt: skip
        return sorted(table, key=lambda entry: int(entry["page_id"]))

    def write_index(self) -> None:
        """Write the index file beside the data file."""
        path = index_path(self._path)
        columns = ", ".join(f"{name} INT NOT NULL" for name in _INDEX_COLUMNS)
        with closing(sqlite3.connect(path, isolation_level=None)) as index:
            # The file is synced as a whole when it is moved; until then it may be lost.
            index.execute("PRAGMA journal_mode = OFF")
            index.execute("PRAGMA synchronous = OFF")
            index.execute("BEGIN")
            index.execute(f"CREATE TABLE INDEXES({columns}, PRIMARY KEY(ROW_ID))")
            index.execute("CREATE TABLE SHARD_NAME(NAME TEXT NOT NULL)")
            index.execute("INSERT INTO SHARD_NAME VALUES (?)", (self._path.name,))
            marks = ", ".join("?" * len(_INDEX_COLUMNS))
            for page in self._pages:
                index.executemany(f"INSERT INTO INDEXES VALUES ({marks})", _index_rows(page))
            index.execute("COMMIT")
        path.chmod(_FILE_MODE)


def _index_rows(page: _DataPage) -> Iterator[tuple[int, ...]]:
    ends = np.cumsum(np.concatenate(page.sizes), dtype=np.int64)
    starts = np.concatenate([[0], ends[:-1]])
    numbers = np.arange(len(ends))
    raw = page.raw_offset + numbers * len(_RAW_RECORD)
    raw_id, group, page_id = (
        [value] * len(ends) for value in (page.raw_page.page_id, page.group, page.page_id)
    )
    row_ids, raw_ends = (page.first_row + numbers).tolist(), (raw + len(_RAW_RECORD)).tolist()
    return zip(
        row_ids, raw_id, raw.tolist(), raw_ends, group, page_id, starts.tolist(), ends.tolist(),
        strict=True,
    )  # fmt: skip


def _page_entry(
    kind: str,
    number: int,
    page_id: int,
    used: int,
    shard: int,
    groups: Sequence[tuple[int, int]],
    rows: tuple[int, int],
) -> dict[str, Any]:
    return {
        "end_row_id": rows[1],
        "page_id": page_id,
        "page_size": used,
        "page_type": kind,
        "page_type_id": number,
        "row_group_ids": [{"id": group, "offset": offset} for group, offset in groups],
        "shard_id": shard,
        "start_row_id": rows[0],
    }


def _place(page_id: int) -> int:
    return HEADER_BYTES + page_id * PAGE_BYTES


def _opened(path: Path) -> FileIO:
    """Open a data file for writing; none is kept open, a data set may have a thousand."""
    return FileIO(path, "r+")


def _write_at(file: FileIO, data: memoryview, offset: int) -> None:
    file.seek(offset)
    while len(data):
        data = data[file.write(data) :]
