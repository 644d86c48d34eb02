"""Read the rows of a data file one at a time: JSON Lines, or one JSON array. Loads no MindSpore.

Memory stays at one row (and a read buffer) however long the file is. A line that is no row is
yielded as an error, so that the caller can count it and go on; a file that cannot be read on
raises one.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO

from mindformers.dataset.parquet_rows import parquet_rows
from mindformers.errors import DataError

MAX_ROW_BYTES = 16 * 2**20  # a row of text this long is a broken file, not a conversation
_CHUNK_CHARS = 2**20
_SPACE = " \t\r\n"


class RawRow(NamedTuple):
    """A row as it stands in the file.

    Attributes:
        where: ``file:line`` of its beginning.
        data: The bytes of a line, not parsed yet, or the parsed element of an array.
    """

    where: str
    data: Any


def read_rows(
    path: str | Path, on_bytes: Callable[[int], None] | None = None
) -> Iterator[RawRow | DataError]:
    """Yield the rows of a JSON Lines file or of a JSON array, and the error of each overlong line.

    A byte-order mark at the beginning, CRLF and blank lines are taken as they are. A file whose name
    ends in ``.parquet`` is read with pyarrow.

    Args:
        path: The file; its first character tells the format (``[`` opens an array).
        on_bytes: Called with the number of bytes read since the last call (for a progress bar).

    Raises:
        DataError: If the file cannot be opened, is empty, is not UTF-8, or the array is broken.
    """
    path = Path(path)
    report = on_bytes or (lambda count: None)
    try:
        if path.suffix == ".parquet":
            yield from (RawRow(*row) for row in parquet_rows(path, report))
            return
        with path.open("rb") as stream:
            first = _first_byte(stream, path)
            stream.seek(0)
            if first != b"[":
                yield from _lines(stream, path, report)
                return
        with path.open(encoding="utf-8-sig", newline="") as text:
            yield from _Array(text, path, report).elements()
    except OSError as error:
        raise DataError(f"cannot read: {error.strerror or error}", where=str(path)) from error


def parse_row(row: RawRow) -> dict[str, Any]:
    """Return the JSON object of a row.

    Raises:
        DataError: If the line is no JSON object; names file, line and column.
    """
    value = row.data
    if isinstance(value, bytes):
        value = _parse_line(value, row.where)
    if not isinstance(value, dict):
        raise DataError(
            f"the row is a JSON {_json_type(value)}", where=row.where, allowed="an object {...}"
        )
    return value


def _first_byte(stream: BinaryIO, path: Path) -> bytes:
    head = stream.read(4)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(
            "the file is UTF-16", where=str(path), allowed="UTF-8", fix="save it as UTF-8"
        )
    stream.seek(len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0)
    while byte := stream.read(1):
        if byte not in b" \t\r\n":
            return byte
    raise DataError("the file is empty", where=str(path), fix="give a file with rows")


def _lines(
    stream: BinaryIO, path: Path, report: Callable[[int], None]
) -> Iterator[RawRow | DataError]:
    number = 0
    while line := stream.readline(MAX_ROW_BYTES + 1):
        number += 1
        report(len(line))
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if len(line) > MAX_ROW_BYTES and not line.endswith(b"\n"):
            report(_skip_line(stream))
            yield DataError(
                f"the line is longer than {MAX_ROW_BYTES // 2**20} MiB",
                where=f"{path}:{number}",
                fix="split the row, or check that lines end with a newline",
            )
        elif line.strip():
            yield RawRow(f"{path}:{number}", line)


def _skip_line(stream: BinaryIO) -> int:
    skipped = 0
    while part := stream.readline(_CHUNK_CHARS):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped


def _parse_line(line: bytes, where: str) -> Any:
    if b"\0" in line:
        raise DataError("the line holds a NUL byte", where=where, fix="restore or remove the line")
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"byte {error.start + 1} of the line is not UTF-8", where=where, fix="save it as UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"the line is no JSON: {error.msg} at column {error.colno}",
            where=where,
            allowed="one JSON object on each line, or one JSON array as the whole file",
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"the line cannot be parsed: {_reason(error)}", where=where) from error


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error).partition(";")[0]


def _json_type(value: Any) -> str:
    names = {list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


class _Array:
    """The elements of one JSON array, parsed as the file is read."""

    def __init__(self, stream: TextIO, path: Path, report: Callable[[int], None]) -> None:
        self._stream, self._path, self._report = stream, path, report
        self._buffer, self._at, self._line, self._ended = "", 0, 1, False
        self._reported = 0
        self._decoder = json.JSONDecoder()

    def elements(self) -> Iterator[RawRow]:
        """Yield every element with the line it begins on."""
        self._expect("[")
        if self._peek() == "]":
            self._step()
        else:
            while True:
                yield self._element()
                if self._expect(",]") == "]":
                    break
        if rest := self._peek():
            raise self._error(f"{rest!r} after the end of the array")

    def _element(self) -> RawRow:
        self._peek()
        where = f"{self._path}:{self._line}"
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                if len(self._buffer) - self._at <= MAX_ROW_BYTES and self._fill():
                    continue
                self._advance(error.pos)
                raise self._error(f"the array is no JSON: {error.msg}") from error
            except (ValueError, RecursionError) as error:
                raise self._error(f"the row cannot be parsed: {_reason(error)}") from error
            # A number can go on in the next chunk; what ends with a bracket or a quote cannot.
            if end == len(self._buffer) and self._fill():
                continue
            self._advance(end)
            return RawRow(where, value)

    def _expect(self, choices: str) -> str:
        found = self._peek()
        if not found:
            raise self._error("the file ends inside the array")
        if found not in choices:
            raise self._error(f"{found!r} where {' or '.join(choices)} is expected")
        self._step()
        return found

    def _peek(self) -> str:
        """Return the next character that is no blank, or an empty string at the end."""
        while True:
            end = len(self._buffer)
            at = self._at
            while at < end and self._buffer[at] in _SPACE:
                at += 1
            self._advance(at)
            if at < end:
                return self._buffer[at]
            if not self._fill():
                return ""

    def _step(self) -> None:
        self._advance(self._at + 1)

    def _advance(self, position: int) -> None:
        self._line += self._buffer.count("\n", self._at, position)
        self._at = position

    def _fill(self) -> bool:
        if self._ended:
            return False
        # Twice as much each time a long row does not fit, so a row is parsed few times.
        wanted = max(_CHUNK_CHARS, len(self._buffer) - self._at)
        try:
            chunk = self._stream.read(wanted)
        except UnicodeDecodeError as error:
            raise DataError(
                f"the file is not UTF-8 after line {self._line}",
                where=str(self._path),
                fix="save it as UTF-8",
            ) from error
        self._buffer, self._at = self._buffer[self._at :] + chunk, 0
        self._ended = not chunk
        size = len(chunk.encode("utf-8"))
        self._report(size)
        return bool(chunk)

    def _error(self, found: str) -> DataError:
        return DataError(
            found, where=f"{self._path}:{self._line}", fix="the rows after it cannot be read"
        )
