"""What a MindRecord file says about itself, read in plain Python before MindSpore opens it.

MindSpore reports a truncated file as an internal error, and changed bytes can end the process. So
nothing is opened whose header and index do not fit its bytes.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mindformers.config.columns import COLUMNS
from mindformers.dataset.mindrecord import FACTS_TABLE
from mindformers.dataset.mindrecord_pages import INDEX_SUFFIX, index_path
from mindformers.errors import DataError

REWRITE = "make the data set again with glm4_preprocess.py"
_INTEGERS = ("int32", "int64")
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 256 * 2**20


@dataclass(frozen=True)
class MindRecordFile:
    """What the header and the index of one data file say.

    Attributes:
        path: The file.
        num_rows: Rows in it.
        partitions: Names of all files of its data set.
        facts: Notes of the writer (``seq_length``, ``max_token_id``, ``sha256``, ...); empty when
            another program wrote the file.
    """

    path: Path
    num_rows: int
    partitions: tuple[str, ...]
    facts: dict[str, str] = field(default_factory=dict)


def read_file(path: Path) -> MindRecordFile:
    """Return what header and index of a data file say, after checking that they fit its bytes.

    Raises:
        DataError: If the file or its index is missing, truncated or foreign.
    """
    header = read_header(path)
    index = index_path(path)
    if not index.is_file():
        raise DataError(
            f"the index file {index.name} is missing beside it",
            where=str(path),
            fix=f"copy it from where the data came from, or {REWRITE}",
        )
    try:
        with closing(sqlite3.connect(f"{index.resolve().as_uri()}?mode=ro", uri=True)) as database:
            name, num_rows, last_page, end, facts = _read_index(database)
    except sqlite3.Error as error:
        raise DataError(f"the index is damaged: {error}", where=str(index), fix=REWRITE) from error
    if name != path.name:
        raise DataError(
            f"the index belongs to {name}: MindRecord files cannot be renamed",
            where=str(path),
            fix=f"rename both files back to {name} and {name}{INDEX_SUFFIX}",
        )
    needed = header.header_size + last_page * header.page_size + end if num_rows else 0
    size = path.stat().st_size
    if size < needed:
        raise DataError(
            f"the file is truncated: {size} bytes",
            where=str(path),
            allowed=f"at least {needed}, by its index",
            fix=f"copy it again, or {REWRITE}",
        )
    return MindRecordFile(path, num_rows, header.partitions, facts)


def _read_index(database: sqlite3.Connection) -> tuple[str, int, int, int, dict[str, str]]:
    (name,) = database.execute("SELECT NAME FROM SHARD_NAME").fetchone() or ("",)
    num_rows = database.execute("SELECT COUNT(*) FROM INDEXES").fetchone()[0]
    ends = [
        database.execute(
            f"SELECT PAGE_ID_{kind}, PAGE_OFFSET_{kind}_END FROM INDEXES "
            f"ORDER BY PAGE_ID_{kind} DESC, PAGE_OFFSET_{kind}_END DESC LIMIT 1"
        ).fetchone()
        for kind in ("RAW", "BLOB")
    ]
    last_page, end = max(filter(None, ends), default=(0, 0))
    has_facts = database.execute(
        "SELECT COUNT(*) FROM sqlite_master WHERE name = ?", (FACTS_TABLE,)
    ).fetchone()[0]
    facts = dict(database.execute(f"SELECT NAME, VALUE FROM {FACTS_TABLE}")) if has_facts else {}
    return Path(name).name, num_rows, last_page, end, facts


@dataclass(frozen=True)
class Header:
    """The header of a data file: where pages begin, and the names of all partitions."""

    header_size: int
    page_size: int
    partitions: tuple[str, ...]


def read_header(path: Path) -> Header:
    """Return the header of a data file.

    Raises:
        DataError: If it is no MindRecord file or its schema is not the published one.
    """
    content = _header_content(path)
    try:
        schema = content["schema"][0]["schema"]
        names = tuple(Path(name).name for name in content["shard_addresses"])
        header = Header(int(content["header_size"]), int(content["page_size"]), names)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError("the MindRecord header is damaged", where=str(path), fix=REWRITE) from error
    missing = [name for name in COLUMNS if name not in schema]
    if missing:
        raise DataError(
            f"the file has the columns {', '.join(schema)}",
            where=str(path),
            allowed=" and ".join(COLUMNS),
            fix=REWRITE,
        )
    for name in COLUMNS:
        if not isinstance(schema[name], dict) or (
            schema[name].get("type") not in _INTEGERS or schema[name].get("shape") != [-1]
        ):
            raise DataError(
                f"column {name} is {_describe(schema[name])}",
                where=str(path),
                allowed="int32 [-1] (int64 is read too)",
                fix=REWRITE,
            )
    return header


def _header_content(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
            in_range = 0 < length <= min(size - _LENGTH_BYTES, _MAX_HEADER_BYTES)
            text = stream.read(length) if in_range else b""
    except OSError as error:
        raise DataError(f"cannot read: {error.strerror or error}", where=str(path)) from error
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise DataError(
            f"this is no MindRecord file, or it is truncated ({size} bytes)",
            where=str(path),
            fix=REWRITE,
        )
    return content


def _describe(column: Any) -> str:
    if not isinstance(column, dict):
        return repr(column)
    return f"{column.get('type')} {column.get('shape', 'scalar')}"
