"""Rows of token ids as the records of a MindRecord data page: integers in one, two or four bytes.

A record is its size (8 bytes, little endian), then for each column the column's size (8 bytes, big
endian), the number of values (4 bytes, big endian), two bits a value that tell its width, four
values to a byte, and the values, each in the fewest bytes that hold it. Loads no MindSpore.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np

_VALUES_PER_BYTE = 4  # of the widths
# Which of a value's four bytes are kept, by its width code; the code of n bytes is log2(n).
_KEPT_BYTES = np.array([0x00000001, 0x00000101, 0x01010101], dtype="<u4")
_SIZES = np.array([1, 2, 4], dtype=np.int64)
_COLUMN_HEAD = np.dtype([("size", ">u8"), ("count", ">u4")])
_RECORD_HEAD = np.dtype([("record", "<u8"), ("size", ">u8"), ("count", ">u4")])


@dataclass(frozen=True)
class PackedRows:
    """Records, one after another.

    Attributes:
        data: Their bytes.
        sizes: (rows,) int64, bytes of each.
        seq_length: Values in each column of a row.
        max_id: The largest value; -1 without rows.
    """

    data: bytes | memoryview
    sizes: np.ndarray
    seq_length: int
    max_id: int

    @property
    def num_rows(self) -> int:
        """How many records there are."""
        return len(self.sizes)

    def part(self, start: int, end: int) -> PackedRows:
        """Return the records from ``start`` up to ``end``; their bytes are not copied."""
        if (start, end) == (0, self.num_rows):
            return self
        begin, size = int(self.sizes[:start].sum()), int(self.sizes[start:end].sum())
        data = memoryview(self.data)[begin : begin + size]
        return PackedRows(data, self.sizes[start:end], self.seq_length, self.max_id)


class RowPacker:
    """Packs rows that are filled up to one length.

    Args:
        seq_length: Values in each column of a row.
        fills: For each column the value that fills it up behind what the row brings.
    """

    def __init__(self, seq_length: int, fills: Sequence[int]) -> None:
        self._seq_length = seq_length
        self._fills = [_Fill(value, seq_length) for value in fills]

    def pack(self, columns: Sequence[np.ndarray], lengths: np.ndarray) -> PackedRows:
        """Return the records of rows.

        Args:
            columns: For each column the values of all rows, one row after another, int32.
            lengths: (rows,) how many values each row brings; at most ``seq_length``.
        """
        num_rows = len(lengths)
        if not num_rows:
            return PackedRows(b"", np.empty(0, dtype=np.int64), self._seq_length, -1)
        parts = [
            _pack_column(np.ascontiguousarray(values, dtype="<i4"), lengths, fill)
            for values, fill in zip(columns, self._fills, strict=True)
        ]
        sizes = sum((part.sizes + _COLUMN_HEAD.itemsize for part in parts), start=0 * lengths)
        first = np.empty(num_rows, dtype=_RECORD_HEAD)
        first["record"], first["size"], first["count"] = sizes, parts[0].sizes + 4, self._seq_length
        heads = [_split(first)]
        for part in parts[1:]:
            head = np.empty(num_rows, dtype=_COLUMN_HEAD)
            head["size"], head["count"] = part.sizes + 4, self._seq_length
            heads.append(_split(head))
        pieces = zip(
            *chain.from_iterable((h, *p.pieces) for h, p in zip(heads, parts, strict=True)),
            strict=True,
        )
        largest = [int(values.max()) for values in columns if values.size]
        if (lengths < self._seq_length).any():
            largest += [fill.value for fill in self._fills]
        return PackedRows(
            b"".join(chain.from_iterable(pieces)),
            sizes + 8,
            self._seq_length,
            max(-1, *largest),
        )


def record_bytes(seq_length: int, value_bytes: int, num_columns: int = 2) -> int:
    """Return the bytes of a record whose values have ``value_bytes`` (1, 2 or 4) each."""
    widths = -(-seq_length // _VALUES_PER_BYTE)
    head = _COLUMN_HEAD.itemsize + widths + seq_length * value_bytes
    return 8 + num_columns * head


def pack_matrix(columns: Sequence[np.ndarray]) -> PackedRows:
    """Return the records of rows given as whole columns, each (rows, seq_length) int32."""
    num_rows, seq_length = columns[0].shape
    packer = RowPacker(seq_length, [0] * len(columns))
    lengths = np.full(num_rows, seq_length, dtype=np.int64)
    return packer.pack([column.ravel() for column in columns], lengths)


class _Fill:
    """What stands behind a row's own values, ready to be cut to length."""

    def __init__(self, value: int, seq_length: int) -> None:
        self.value = value
        values = np.full(seq_length, value, dtype="<i4")
        codes = _width_codes(values)
        self.code = int(codes[0])
        self.width = int(_SIZES[self.code])
        self.values = values.view(np.uint8).reshape(-1, 4)[:, : self.width].tobytes()
        self.codes = _pack_codes(codes[None, :]).tobytes()


@dataclass(frozen=True)
class _PackedColumn:
    sizes: np.ndarray  # bytes of widths and values, for each row
    pieces: tuple[Sequence[bytes | memoryview], ...]  # each holds one piece of every row


def _pack_column(values: np.ndarray, lengths: np.ndarray, fill: _Fill) -> _PackedColumn:
    codes = _width_codes(values)
    data = np.compress(_KEPT_BYTES[codes].view(bool), values.view(np.uint8)).data
    ends = np.concatenate([[0], np.cumsum(lengths)])
    offsets = np.concatenate([[0], np.cumsum(_SIZES[codes])])[ends].tolist()
    # Only as many widths as the longest row needs differ from the filling's.
    seq_length = len(fill.values) // fill.width
    longest = int(lengths.max(initial=0))
    width = min(-(-longest // _VALUES_PER_BYTE) * _VALUES_PER_BYTE, seq_length)
    matrix = np.full((len(lengths), width), fill.code, dtype=np.uint8)
    matrix[np.arange(width) < lengths[:, None]] = codes
    packed = _pack_codes(matrix)
    unfilled = (seq_length - lengths) * fill.width
    filling = memoryview(fill.values)
    return _PackedColumn(
        len(fill.codes) + np.diff(offsets) + unfilled,
        (
            _split(packed),
            [fill.codes[packed.shape[1] :]] * len(lengths),
            [data[start:end] for start, end in pairwise(offsets)],
            [filling[:size] for size in unfilled.tolist()],
        ),
    )


def _width_codes(values: np.ndarray) -> np.ndarray:
    """Return for each value 0, 1 or 2: it fits one, two or four bytes; uint8."""
    narrow = values.astype(np.int8) == values
    middle = values.astype(np.int16) == values
    return np.uint8(2) - narrow - middle


def _pack_codes(codes: np.ndarray) -> np.ndarray:
    """Return (rows, n) codes as (rows, ceil(n / 4)) bytes, the first code in the highest bits."""
    missing = -codes.shape[1] % _VALUES_PER_BYTE
    if missing:
        codes = np.pad(codes, ((0, 0), (0, missing)))
    groups = np.ascontiguousarray(codes).view("<u4")
    packed = (groups << 6) | (groups >> 4) | (groups >> 14) | (groups >> 24)
    return packed.astype(np.uint8)


def _split(rows: np.ndarray) -> list[memoryview]:
    """Return the bytes of each row of an array."""
    data = memoryview(rows.tobytes())
    size = len(data) // len(rows)
    return [data[row * size : (row + 1) * size] for row in range(len(rows))]
