"""Records: bytes worked out by hand, and those of MindSpore's own writer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mindformers.dataset.mindrecord_pages import HEADER_BYTES, PAGE_BYTES
from mindformers.dataset.mindrecord_rows import RowPacker, pack_matrix, record_bytes
from tests.support.mindrecords import write_foreign

EDGES = [
    0,
    1,
    -1,
    127,
    128,
    -128,
    -129,
    255,
    256,
    32767,
    32768,
    -32768,
    -32769,
    65535,
    65536,
    151329,
]
EDGES += [2**31 - 1, -(2**31)]


def test_a_record_is_the_one_written_by_hand() -> None:
    ids = np.array([[1, 300, 70000, -100, 5]], dtype=np.int32)
    labels = np.array([[-100] * 5], dtype=np.int32)
    # Widths 1, 2, 4, 1 and 1 bytes have the codes 0, 1, 2, 0 | 0: 0b00011000 and 0b00000000.
    first = (
        b"\0\0\0\5" + bytes([0b00011000, 0]) + b"\1" + b"\x2c\1" + b"\x70\x11\1\0" + b"\x9c" + b"\5"
    )
    second = b"\0\0\0\5" + bytes(2) + b"\x9c" * 5
    columns = b"".join(len(column).to_bytes(8, "big") + column for column in (first, second))
    packed = pack_matrix([ids, labels])
    assert bytes(packed.data) == len(columns).to_bytes(8, "little") + columns
    assert packed.sizes.tolist() == [len(columns) + 8]
    assert (packed.num_rows, packed.seq_length, packed.max_id) == (1, 5, 70000)


@pytest.mark.parametrize("seq_length", [1, 2, 3, 4, 5, 8, 127, 512])
def test_records_are_those_of_mindspores_writer(tmp_path: Path, seq_length: int) -> None:
    rng = np.random.default_rng(seq_length)
    ids, labels = rng.choice(np.array(EDGES), (2, 9, seq_length)).astype(np.int32)
    rows = [{"input_ids": i, "labels": j} for i, j in zip(ids, labels, strict=True)]
    content = write_foreign(tmp_path / "a.mindrecord", rows).read_bytes()
    page = content[HEADER_BYTES : HEADER_BYTES + PAGE_BYTES]
    packed = pack_matrix([ids, labels])
    assert page.rstrip(b"\0") == bytes(packed.data).rstrip(b"\0")
    assert packed.sizes.sum() == len(packed.data)


@pytest.mark.parametrize("fills", [(151329, -100), (3, 300), (-5, 70000)])
@pytest.mark.parametrize("seq_length", [1, 4, 7, 30])
def test_filling_up_gives_the_bytes_of_whole_rows(seq_length: int, fills: tuple[int, int]) -> None:
    rng = np.random.default_rng(seq_length)
    lengths = rng.integers(0, seq_length + 1, 20)
    own = np.arange(seq_length) < lengths[:, None]
    whole = [
        np.where(own, rng.choice(np.array(EDGES), own.shape), fill).astype(np.int32)
        for fill in fills
    ]
    filled = RowPacker(seq_length, fills).pack([column[own] for column in whole], lengths)
    expected = pack_matrix(whole)
    assert bytes(filled.data) == bytes(expected.data)
    assert filled.sizes.tolist() == expected.sizes.tolist()
    assert filled.max_id == expected.max_id


def test_rows_can_be_taken_apart() -> None:
    ids = np.arange(60, dtype=np.int32).reshape(10, 6) * 1000
    packed = pack_matrix([ids, ids])
    parts = [packed.part(0, 3), packed.part(3, 3), packed.part(3, 10)]
    assert b"".join(bytes(part.data) for part in parts) == bytes(packed.data)
    assert [part.num_rows for part in parts] == [3, 0, 7]
    assert packed.part(0, 10) is packed


def test_no_rows_have_no_bytes() -> None:
    empty = np.empty(0, dtype=np.int32)
    packed = RowPacker(8, (0, -100)).pack([empty, empty], np.empty(0, dtype=np.int64))
    assert (packed.num_rows, bytes(packed.data), packed.max_id) == (0, b"", -1)


@pytest.mark.parametrize(("value", "width"), [(1, 1), (300, 2), (70000, 4)])
@pytest.mark.parametrize("seq_length", [1, 5, 64])
def test_the_bytes_of_a_record_are_known_ahead(seq_length: int, value: int, width: int) -> None:
    column = np.full((1, seq_length), value, dtype=np.int32)
    assert len(pack_matrix([column, column]).data) == record_bytes(seq_length, width)
