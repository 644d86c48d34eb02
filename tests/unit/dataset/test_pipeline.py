from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mindformers.dataset import pipeline
from mindformers.dataset.pipeline import ReadOptions, TrainDataset
from mindformers.errors import DataError
from tests.support.mindrecords import drop_facts, numbered_rows, write_foreign, write_numbered


@pytest.fixture(scope="module")
def twenty_three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_numbered(tmp_path_factory.mktemp("data") / "a.mindrecord", 23)


@pytest.fixture(scope="module")
def partitioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_numbered(tmp_path_factory.mktemp("data") / "p.mindrecord", 12, partitions=4)


def order(dataset: TrainDataset, epoch: int = 0, start: int = 0) -> list[int]:
    """Row numbers in the order of the batches."""
    return [int(i) for batch in dataset.batches(epoch, start) for i in batch["input_ids"][:, 0]]


def test_batches_hold_the_rows_as_they_were_written(twenty_three: Path) -> None:
    dataset = TrainDataset(twenty_three, ReadOptions(batch_size=5))
    assert (len(dataset), dataset.num_rows, dataset.seq_length, dataset.batch_size) == (4, 23, 8, 5)
    batches = list(dataset.batches(0))
    assert len(batches) == 4
    assert all(set(batch) == {"input_ids", "labels"} for batch in batches)
    assert all(
        array.shape == (5, 8) and array.dtype == np.int32
        for batch in batches
        for array in batch.values()
    )
    ids, labels = numbered_rows(23)
    np.testing.assert_array_equal(
        np.concatenate([batch["input_ids"] for batch in batches]), ids[:20]
    )
    np.testing.assert_array_equal(
        np.concatenate([batch["labels"] for batch in batches]), labels[:20]
    )


def test_the_last_batch_may_be_kept(twenty_three: Path) -> None:
    dataset = TrainDataset(twenty_three, ReadOptions(batch_size=5, drop_remainder=False))
    assert [len(batch["labels"]) for batch in dataset.batches(0)] == [5, 5, 5, 5, 3]
    assert len(dataset) == 5


def test_the_order_follows_from_seed_and_epoch_alone(twenty_three: Path) -> None:
    options = ReadOptions(batch_size=4, shuffle=True, seed=7, drop_remainder=False)
    first, again = TrainDataset(twenty_three, options), TrainDataset(twenty_three, options)
    expected = np.random.default_rng([7, 3]).permutation(23).tolist()
    assert order(first, 3) == expected
    assert order(first, 0) != order(first, 1)
    np.random.seed(5)
    assert [order(again, epoch) for epoch in (3, 1, 0)] == [
        expected,
        order(first, 1),
        order(first, 0),
    ]
    assert sorted(order(first, 1)) == list(range(23))
    other = TrainDataset(
        twenty_three, ReadOptions(batch_size=4, shuffle=True, seed=8, drop_remainder=False)
    )
    assert order(other, 3) != expected


@pytest.mark.parametrize("workers", [1, 8])
def test_beginning_in_the_middle_gives_the_rest_of_the_epoch(
    twenty_three: Path, workers: int
) -> None:
    dataset = TrainDataset(
        twenty_three, ReadOptions(batch_size=4, shuffle=True, seed=1, num_parallel_workers=workers)
    )
    whole = order(dataset, 2)
    for start in range(len(dataset) + 1):
        assert order(dataset, 2, start) == whole[4 * start :]
    assert order(dataset, 2, 99) == []


def test_rows_that_are_skipped_are_not_read(twenty_three: Path, monkeypatch) -> None:
    dataset = TrainDataset(twenty_three, ReadOptions(batch_size=4))
    read: list[int] = []
    original = TrainDataset._read_raw
    monkeypatch.setattr(
        TrainDataset,
        "_read_raw",
        lambda self, rows: (read.extend(rows.tolist()), original(self, rows))[1],
    )
    assert order(dataset, 0, start=4) == read == [16, 17, 18, 19]


def test_an_epoch_may_be_left_early(twenty_three: Path) -> None:
    dataset = TrainDataset(twenty_three, ReadOptions(batch_size=2))
    for _ in range(3):
        batches = dataset.batches(0)
        assert next(batches)["input_ids"][:, 0].tolist() == [0, 1]
        batches.close()


def test_fewer_samples_may_be_asked_for(twenty_three: Path) -> None:
    dataset = TrainDataset(twenty_three, ReadOptions(batch_size=3, num_samples=7, shuffle=True))
    assert (len(dataset), dataset.num_rows) == (2, 7)
    assert set(order(dataset)) <= set(range(7))


def test_the_four_ways_to_name_the_data(
    partitioned: Path, twenty_three: Path, tmp_path: Path
) -> None:
    folder, part = partitioned.parent, partitioned.with_name("p.mindrecord2")
    for source in (
        partitioned,
        str(partitioned),
        part,
        folder,
        [partitioned],
        [str(folder / f"p.mindrecord{i}") for i in range(4)],
    ):
        assert sorted(order(TrainDataset(source))) == list(range(12))
    assert TrainDataset([partitioned, twenty_three]).num_rows == 35
    nested = tmp_path / "x" / "y"
    nested.mkdir(parents=True)
    for file in partitioned.parent.iterdir():
        shutil.copy(file, nested)
    assert TrainDataset(tmp_path).num_rows == 12


def test_one_partition_alone_is_read_alone_with_a_warning(partitioned: Path, caplog) -> None:
    with caplog.at_level("WARNING", logger="mindformers"):
        dataset = TrainDataset([partitioned.with_name("p.mindrecord1")])
    assert order(dataset) == [3, 4, 5]
    assert "p.mindrecord0 is not read: the list of data files leaves it out" in caplog.text


def test_folders_of_unfinished_runs_are_not_read(partitioned: Path, tmp_path: Path) -> None:
    for file in partitioned.parent.iterdir():
        shutil.copy(file, tmp_path)
    leftover = tmp_path / ".tmp-1-abc"
    leftover.mkdir()
    shutil.copy(partitioned.with_name("p.mindrecord0"), leftover / "q.mindrecord")
    assert TrainDataset(tmp_path).num_rows == 12


def test_the_fingerprint_follows_name_and_content_not_the_folder(
    twenty_three: Path, tmp_path: Path
) -> None:
    fingerprint = TrainDataset(twenty_three).fingerprint
    for suffix in ("", ".db"):
        shutil.copy(f"{twenty_three}{suffix}", tmp_path)
    assert TrainDataset(tmp_path).fingerprint == fingerprint
    other = write_numbered(tmp_path / "b" / "a.mindrecord", 22)
    assert TrainDataset(other).fingerprint != fingerprint


def test_a_file_of_the_published_writer_loads(tmp_path: Path) -> None:
    ids, labels = numbered_rows(9)
    rows = [{"input_ids": i, "labels": j} for i, j in zip(ids, labels, strict=True)]
    path = write_foreign(tmp_path / "alpaca.mindrecord", rows)
    dataset = TrainDataset(path, ReadOptions(batch_size=3), seq_length=8, vocab_size=9)
    np.testing.assert_array_equal(np.concatenate([b["input_ids"] for b in dataset.batches(0)]), ids)
    np.testing.assert_array_equal(np.concatenate([b["labels"] for b in dataset.batches(0)]), labels)


def test_int64_columns_become_int32(tmp_path: Path) -> None:
    ids, labels = numbered_rows(4)
    rows = [
        {"input_ids": i.astype(np.int64), "labels": j.astype(np.int64)}
        for i, j in zip(ids, labels, strict=True)
    ]
    schema = {name: {"type": "int64", "shape": [-1]} for name in ("input_ids", "labels")}
    batch = next(TrainDataset(write_foreign(tmp_path / "a.mindrecord", rows, schema)).batches(0))
    assert batch["input_ids"].dtype == batch["labels"].dtype == np.int32


def test_fewer_rows_than_a_batch_is_an_error(twenty_three: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"a.mindrecord: 23 rows make no batch of 24; lower runner_config.batch_size",
    ):
        TrainDataset(twenty_three, ReadOptions(batch_size=24))
    assert len(TrainDataset(twenty_three, ReadOptions(batch_size=24, drop_remainder=False))) == 1


def test_rows_without_notes_are_probed_before_the_first_step(
    twenty_three: Path, tmp_path: Path, monkeypatch
) -> None:
    for suffix in ("", ".db"):
        shutil.copy(f"{twenty_three}{suffix}", tmp_path)
    path = tmp_path / twenty_three.name
    drop_facts(path)
    with pytest.raises(
        DataError, match=r"a.mindrecord:21: token id 20 is beyond the model's vocabulary"
    ):
        TrainDataset(path, vocab_size=20)
    with pytest.raises(DataError, match="rows have 8 tokens, the model's seq_length is 16"):
        TrainDataset(path, seq_length=16)
    monkeypatch.setattr(
        pipeline, "_NUM_PROBED_ROWS", 2
    )  # rows 0 and 12 only: the rest is checked as it is read
    dataset = TrainDataset(path, vocab_size=20)
    with pytest.raises(DataError, match="a.mindrecord:21: token id 20"):
        order(dataset)
