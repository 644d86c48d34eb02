"""Whole files: the bytes and the index of MindSpore's own writer, over several pages."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from mindformers.dataset import mindrecord_pages
from mindformers.dataset.mindrecord import SCHEMA, mindrecord_writer
from mindformers.dataset.mindrecord_pages import index_path
from mindformers.errors import DataError
from tests.support.mindrecords import numbered_rows

SMALL_PAGE = 2**15  # the smallest MindSpore takes
DESCRIPTION = "token ids and shifted labels of a causal language model"


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mindrecord_pages, "PAGE_BYTES", SMALL_PAGE)


def write_both(folder: Path, ids: np.ndarray, labels: np.ndarray, batch: int) -> tuple[Path, Path]:
    """Write rows with our writer and with MindSpore's; return both files."""
    from mindspore.mindrecord import FileWriter

    ours, theirs = folder / "ours" / "数 据.mindrecord", folder / "theirs" / "数 据.mindrecord"
    theirs.parent.mkdir()
    writer = FileWriter(str(theirs), 1)
    writer.set_page_size(SMALL_PAGE)
    writer.add_schema(SCHEMA, DESCRIPTION)
    with mindrecord_writer(ours) as own:
        for start in range(0, len(ids), batch):
            rows = ids[start : start + batch], labels[start : start + batch]
            own.write(*rows)
            writer.write_raw_data(
                [
                    dict(zip(("input_ids", "labels"), pair, strict=True))
                    for pair in zip(*rows, strict=True)
                ]
            )
    writer.commit()
    return ours, theirs


def index_of(path: Path) -> list[list[tuple]]:
    with closing(sqlite3.connect(index_path(path))) as index:
        return [
            index.execute(f"SELECT * FROM {table}").fetchall()
            for table in ("INDEXES", "SHARD_NAME")
        ]


@pytest.mark.usefixtures("small_pages")
def test_a_file_is_byte_for_byte_mindspores_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 151552, (300, 100)).astype(np.int32)
    lengths = rng.integers(1, 100, 300)
    labels = np.where(np.arange(100) < lengths[:, None], ids, -100).astype(np.int32)
    ours, theirs = write_both(tmp_path, ids, labels, batch=11)
    assert ours.read_bytes() == theirs.read_bytes()
    assert index_of(ours) == index_of(theirs)
    assert index_of(ours)[0][-1][5] >= 4  # several data pages were needed
    assert ours.stat().st_mode == theirs.stat().st_mode


@pytest.mark.usefixtures("small_pages")
def test_a_record_that_fills_its_page_exactly_stays_in_it(tmp_path: Path) -> None:
    # Half a page each: 8 + 2 * (12 + 1001 of widths + 4004 of values), and 3 more for each wide one.
    ids, labels = np.full((2, 5, 4004), 7, dtype=np.int32)
    ids[:, :2114] = 70000
    ours, theirs = write_both(tmp_path, ids, labels, batch=2)
    assert ours.read_bytes() == theirs.read_bytes()
    assert index_of(ours) == index_of(theirs)
    places = [(row[5], row[7]) for row in index_of(ours)[0]]  # page, end
    assert places == [(0, 16384), (0, 32768), (2, 16384), (2, 32768), (3, 16384)]


@pytest.mark.usefixtures("small_pages")
def test_rows_beyond_one_raw_page_read_back_in_order(tmp_path: Path) -> None:
    import mindspore.dataset as mds

    ids, labels = numbered_rows(6000, 2)  # 13 bytes of each in raw pages of 32 KiB
    path = tmp_path / "a.mindrecord"
    with mindrecord_writer(path) as writer:
        for start in range(0, 6000, 700):
            writer.write(ids[start : start + 700], labels[start : start + 700])
    raw_pages = {row[1] for row in index_of(path)[0]}
    assert len(raw_pages) >= 3
    dataset = mds.MindDataset(str(path), shuffle=False, num_parallel_workers=1)
    rows = list(dataset.create_tuple_iterator(num_epochs=1, output_numpy=True))
    np.testing.assert_array_equal(np.stack([row[0] for row in rows]), ids)
    np.testing.assert_array_equal(np.stack([row[1] for row in rows]), labels)


@pytest.mark.usefixtures("small_pages")
def test_a_row_longer_than_a_page_is_named_with_the_way_out(tmp_path: Path) -> None:
    row = np.full((1, 9000), 70000, dtype=np.int32)
    with (
        pytest.raises(DataError, match=r"a row of 9000 tokens has 76532 bytes; allowed: at most 32768.*"
                                       r"lower --seq_length"),
        mindrecord_writer(tmp_path / "a.mindrecord") as writer,
    ):  # fmt: skip
        writer.write(row, row)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small_pages")
def test_more_pages_than_the_header_can_name_are_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(mindrecord_pages, "HEADER_BYTES", 1024)
    with (
        pytest.raises(
            DataError, match="600 rows are too many for one MindRecord file; raise --file_part"
        ),
        mindrecord_writer(tmp_path / "a.mindrecord") as writer,
    ):
        writer.write(*numbered_rows(600, 256))
    assert list(tmp_path.iterdir()) == []


def test_rows_are_dealt_evenly_and_always_alike(tmp_path: Path) -> None:
    counts = []
    for name in ("a", "b"):
        path = tmp_path / f"{name}.mindrecord"
        ids, labels = numbered_rows(50)
        with mindrecord_writer(path, num_partitions=4) as writer:
            for start in range(0, 50, 7):
                writer.write(ids[start : start + 7], labels[start : start + 7])
        files = [path.with_name(f"{path.name}{number}") for number in range(4)]
        counts.append([len(index_of(file)[0]) for file in files])
    assert counts[0] == counts[1]
    assert sorted(counts[0]) == [12, 12, 13, 13]


def test_a_partition_without_rows_is_read_by_mindspore(tmp_path: Path) -> None:
    import mindspore.dataset as mds

    path = tmp_path / "a.mindrecord"
    with mindrecord_writer(path, num_partitions=3) as writer:
        writer.write(*numbered_rows(2))
    dataset = mds.MindDataset(f"{path}0", shuffle=False)
    assert sorted(
        row["input_ids"][0] for row in dataset.create_dict_iterator(output_numpy=True)
    ) == [0, 1]
