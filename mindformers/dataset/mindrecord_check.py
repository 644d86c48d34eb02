"""Find MindRecord files and check them before the first step, so that no bad file reaches MindSpore.

MindSpore reports a truncated file as an internal error, and bytes that changed can end the process.
So the header and the index are read here in plain Python, and nothing is opened that does not fit.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mindformers.dataset.mindrecord import (
    COLUMNS,
    FACTS_TABLE,
    INDEX_SUFFIX,
    SCHEMA,
    file_sha256,
    index_path,
)
from mindformers.errors import DataError, did_you_mean

_NAME = re.compile(r"mindrecord\d*$")
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 256 * 2**20
_REWRITE = "make the data set again with glm4_preprocess.py"


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


def find_files(source: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the data files that ``dataset_dir`` means, sorted within a folder.

    Args:
        source: A file (then its sibling partitions too), a folder that is searched for names ending
            in ``mindrecord`` and digits, with its sub-folders, or a list of files.

    Raises:
        DataError: If there is none.
    """
    if not isinstance(source, str | Path):
        if not source:
            raise DataError("the list of data files is empty", where="dataset_dir")
        return list(dict.fromkeys(file for item in source for file in _one_file(Path(item))))
    if not str(source):
        raise DataError(
            "no training data is given",
            where="train_dataset.data_loader.dataset_dir",
            fix="add --train_dataset FILE_OR_FOLDER",
        )
    path = Path(source)
    if not path.is_dir():
        files = _one_file(path)
        siblings = read_header(files[0]).partitions if len(files) == 1 else ()
        return [path.with_name(name) for name in siblings] or files
    found = sorted(file for file in path.rglob("*") if _NAME.search(file.name) and file.is_file())
    if not found:
        raise DataError(
            "the folder holds no MindRecord file",
            where=str(path),
            allowed="files whose names end in 'mindrecord' and digits",
            fix="make one with glm4_preprocess.py, or give the file itself",
        )
    return found


def _one_file(path: Path) -> list[Path]:
    if path.is_file():
        if path.name.endswith(INDEX_SUFFIX):
            raise DataError(
                "this is an index file",
                where=str(path),
                fix=f"give the data file beside it: {path.name.removesuffix(INDEX_SUFFIX)}",
            )
        return [path]
    partitions = re.compile(re.escape(path.name) + r"\d+")
    names = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
    if found := [path.with_name(name) for name in names if partitions.fullmatch(name)]:
        return found
    kind = "it is a folder" if path.is_dir() else "there is no such file"
    raise DataError(f"{kind}", where=str(path), fix=did_you_mean(path.name, names))


def check_files(
    files: Sequence[Path], *, seq_length: int | None = None, vocab_size: int | None = None
) -> list[MindRecordFile]:
    """Check files against one another, the model and their own checksums; return what they hold.

    Args:
        files: Data files; every partition of a data set must be among them.
        seq_length: The model's row length (tokens); None: whatever the files have.
        vocab_size: Rows of the model's embedding; None: not checked.

    Raises:
        DataError: If a file is truncated, changed since it was written, of another schema or length,
            holds ids beyond the vocabulary, or if an index or a partition is missing.
    """
    checked = [read_file(path) for path in files]
    given = {path.resolve() for path in files}
    for file in checked:
        for name in file.partitions:
            sibling = file.path.with_name(name)
            if sibling.resolve() not in given:
                fix = f"give it too, or the whole data set; {_REWRITE}"
                if not sibling.exists():
                    fix = f"restore it, or {_REWRITE}"
                raise DataError(
                    f"belongs to a data set of {len(file.partitions)} files, and {name} is missing",
                    where=str(file.path),
                    fix=fix,
                )
        _check_facts(file, seq_length, vocab_size)
    return checked


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
            fix=f"copy it from where the data came from, or {_REWRITE}",
        )
    try:
        with closing(sqlite3.connect(f"{index.resolve().as_uri()}?mode=ro", uri=True)) as database:
            name, num_rows, last_page, end, facts = _read_index(database)
    except sqlite3.Error as error:
        raise DataError(f"the index is damaged: {error}", where=str(index), fix=_REWRITE) from error
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
            fix=f"copy it again, or {_REWRITE}",
        )
    return MindRecordFile(path, num_rows, header.partitions, facts)


def _read_index(database: sqlite3.Connection) -> tuple[str, int, int, int, dict[str, str]]:
    (name,) = database.execute("SELECT NAME FROM SHARD_NAME").fetchone() or ("",)
    num_rows = database.execute("SELECT COUNT(*) FROM INDEXES").fetchone()[0]
    last_page = end = 0
    if num_rows:
        last_page, end = database.execute(
            "SELECT PAGE_ID_BLOB, PAGE_OFFSET_BLOB_END FROM INDEXES "
            "ORDER BY PAGE_ID_BLOB DESC, PAGE_OFFSET_BLOB_END DESC LIMIT 1"
        ).fetchone()
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
        raise DataError(
            "the MindRecord header is damaged", where=str(path), fix=_REWRITE
        ) from error
    missing = [name for name in COLUMNS if name not in schema]
    if missing:
        raise DataError(
            f"the file has the columns {', '.join(schema)}",
            where=str(path),
            allowed=" and ".join(COLUMNS),
            fix=_REWRITE,
        )
    for name in COLUMNS:
        if schema[name] != SCHEMA[name]:
            raise DataError(
                f"column {name} is {_describe(schema[name])}",
                where=str(path),
                allowed=_describe(SCHEMA[name]),
                fix=_REWRITE,
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
            fix=_REWRITE,
        )
    return content


def _describe(column: Any) -> str:
    if not isinstance(column, dict):
        return repr(column)
    return f"{column.get('type')} {column.get('shape', 'scalar')}"


def _check_facts(file: MindRecordFile, seq_length: int | None, vocab_size: int | None) -> None:
    facts = file.facts
    if "sha256" in facts and facts["sha256"] != file_sha256(file.path):
        raise DataError(
            "the content has changed since the file was written (its sha256 differs)",
            where=str(file.path),
            fix=f"copy it again, or {_REWRITE}",
        )
    found = facts.get("seq_length", "")
    if found.isdigit() and seq_length is not None:
        check_length(int(found), seq_length, file.path)
    largest = facts.get("max_token_id", "")
    if largest.isdigit() and vocab_size is not None:
        check_vocabulary(int(largest), vocab_size, file.path)


def check_length(found: int, seq_length: int, path: Path) -> None:
    """Raise a DataError when rows of ``found`` tokens go to a model of ``seq_length``."""
    if found != seq_length:
        raise DataError(
            f"rows have {found} tokens, the model's seq_length is {seq_length}",
            where=str(path),
            fix=f"set model.model_config.seq_length to {found}, "
            f"or make the data set again with --seq_length {seq_length}",
        )


def check_vocabulary(largest: int, vocab_size: int, path: Path) -> None:
    """Raise a DataError when an id is beyond the model's embedding."""
    if largest >= vocab_size:
        raise DataError(
            f"token id {largest} is beyond the model's vocabulary",
            where=str(path),
            allowed=f"0 to {vocab_size - 1} (padded_vocab_size {vocab_size})",
            fix="use the vocabulary and the configuration of one model",
        )
