"""Packing: every document once, no row too full, the same rows for the same seed."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers.dataset import packing
from mindformers.dataset.causal_lm import CausalLanguageModelDataset
from mindformers.dataset.mindrecord import mindrecord_writer
from mindformers.dataset.packing import PackedPasses, pack_documents
from mindformers.errors import DataError
from mindformers.parallel.layout import Layout

SEQ = 12


def test_first_fit_decreasing_by_hand() -> None:
    lengths = np.array([3, 7, 2, 5, 0, 4, 10])
    packs = pack_documents(lengths, 10, np.arange(7))
    rows = [packs.row(row).tolist() for row in range(packs.num_rows)]
    # 10 | 7 and the 3 that still fits it | 5 and 4 | 2: the first row with room takes it
    assert rows == [[6], [1, 0], [3, 5], [2]]
    assert packs.num_tokens == 31
    assert packs.fill == pytest.approx(31 / 40)


def test_every_document_is_packed_once_and_no_row_is_too_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packing, "WINDOW", 50)
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.geometric(0.02, 500), 128)
    packs = pack_documents(lengths, 128, rng.permutation(500))
    assert sorted(packs.documents.tolist()) == list(range(500))
    filled = [int(lengths[packs.row(row)].sum()) for row in range(packs.num_rows)]
    assert max(filled) <= 128
    assert sum(filled) == packs.num_tokens == lengths.sum()
    assert packs.fill > 0.9


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=80), st.integers(40, 90), st.integers(0, 9))
def test_no_two_rows_could_have_been_one(lengths: list[int], seq_length: int, seed: int) -> None:
    sizes = np.array(lengths, dtype=np.int64)
    order = np.random.default_rng(seed).permutation(len(sizes))
    packs = pack_documents(sizes, seq_length, order)
    filled = sorted(int(sizes[packs.row(row)].sum()) for row in range(packs.num_rows))
    assert sorted(packs.documents.tolist()) == np.flatnonzero(sizes).tolist()
    assert all(0 < each <= seq_length for each in filled)
    assert len(filled) < 2 or filled[0] + filled[1] > seq_length


def test_epochs_of_packed_passes_have_equally_many_rows_and_lose_no_document() -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 60, 200)

    def order(number: int) -> np.ndarray:  # every third pass is longer, the others shorter
        return np.random.default_rng([5, number]).permutation(200)[: 200 if number % 3 else 150]

    passes = [pack_documents(lengths, 64, order(number)) for number in range(9)]
    stream = [packs.row(row).tolist() for packs in passes for row in range(packs.num_rows)]
    packed = PackedPasses(lengths, 64, order)
    count = packed.num_rows
    assert count == passes[0].num_rows < passes[1].num_rows
    epochs = [[row.tolist() for row in packed.rows(epoch)] for epoch in range(9)]
    assert [len(rows) for rows in epochs] == [count] * 9
    assert [row for rows in epochs for row in rows] == stream[: 9 * count]
    late = PackedPasses(lengths, 64, order)  # as a run that resumes
    assert [row.tolist() for row in late.rows(6)] == epochs[6]
    assert [row.tolist() for row in late.rows(2)] == epochs[2]
    same = PackedPasses(lengths, 64, lambda number: order(0), repeats=True)
    assert [row.tolist() for row in same.rows(7)] == epochs[0]


def write_documents(path: Path, lengths: list[int]) -> Path:
    """Write rows; document d has the ids d+1, and learns all but its first token (the last row nothing)."""
    ids = np.zeros((len(lengths), SEQ), np.int32)
    labels = np.full_like(ids, -100)
    for row, length in enumerate(lengths):
        ids[row, :length] = row + 1
        if row < len(lengths) - 1:
            labels[row, 1:length] = row + 1
    with mindrecord_writer(path) as writer:
        writer.write(ids, labels)
    return path


LENGTHS = [5, 12, 3, 6, 4, 2, 9, 7]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_documents(tmp_path_factory.mktemp("data") / "a.mindrecord", LENGTHS)


def dataset(path: Path, tmp_path: Path, **settings) -> CausalLanguageModelDataset:
    loader = {"dataset_dir": str(path), "shuffle": settings.pop("shuffle", True)}
    layout = settings.pop("layout", None)
    return CausalLanguageModelDataset(
        data_loader=loader, packing=True, cache_dir=str(tmp_path), pad_token_id=77, layout=layout,
        **{"batch_size": 2, "seed": 3, **settings},
    )  # fmt: skip


def test_rows_hold_whole_documents_and_say_where_each_begins(path: Path, tmp_path: Path) -> None:
    found = dataset(path, tmp_path, shuffle=False, batch_size=1)
    rows = [{name: each[0].tolist() for name, each in b.items()} for b in found.batches(0)]
    assert [row["input_ids"] for row in rows] == [
        [2] * 12, [7] * 9 + [3] * 3, [4] * 6 + [1] * 5 + [77], [5] * 4 + [6] * 2 + [77] * 6,
    ]  # fmt: skip
    assert [row["document_starts"] for row in rows] == [
        [0] * 12, [0] * 9 + [9] * 3, [0] * 6 + [6] * 5 + [11],
        [0] * 4 + [4] * 2 + [6, 7, 8, 9, 10, 11],
    ]  # fmt: skip
    assert rows[1]["labels"] == [-100] + [7] * 8 + [-100] + [3] * 2
    assert rows[3]["labels"] == [-100] + [5] * 3 + [-100, 6] + [-100] * 6


def test_the_report_counts_rows_documents_and_what_is_lost(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "mindformers"):
        dataset(path, tmp_path)
    assert (
        "packing: 7 documents in 4 rows of 12 tokens, 85.4 % filled (48.8 % without packing)"
        in (caplog.text)
    )
    assert "left out: 1 documents without a label" in caplog.text


def test_a_longer_row_takes_more_documents(path: Path, tmp_path: Path) -> None:
    found = dataset(path, tmp_path, max_seq_length=41, batch_size=1)
    assert (found.seq_length, found.num_rows) == (41, 1)
    with pytest.raises(DataError, match="a row has 12 tokens"):
        dataset(path, tmp_path, max_seq_length=8)


def test_epochs_reorder_the_rows_and_a_run_goes_on_where_it_was(path: Path, tmp_path: Path) -> None:
    found, again = (dataset(path, tmp_path, batch_size=1) for _ in range(2))
    assert found.fingerprint == again.fingerprint
    seen = [[b["input_ids"].tolist() for b in found.batches(epoch)] for epoch in (0, 1)]
    assert seen[0] != seen[1]
    assert sorted(seen[0]) == sorted(seen[1])
    assert [b["input_ids"].tolist() for b in again.batches(1, 2)] == seen[1][2:]
    assert dataset(path, tmp_path, max_seq_length=24).fingerprint != found.fingerprint


def test_processes_share_rows_and_tokens(path: Path, tmp_path: Path) -> None:
    whole = list(dataset(path, tmp_path).batches(0))
    parts = [
        list(dataset(path, tmp_path, layout=Layout(data=2, context=2, rank=rank)).batches(0))
        for rank in range(4)
    ]
    for number, batch in enumerate(whole):
        for name, values in batch.items():
            halves = [np.concatenate([parts[r][number][name] for r in pair], 1)
                      for pair in ((0, 1), (2, 3))]  # fmt: skip
            np.testing.assert_array_equal(np.concatenate(halves), values)
