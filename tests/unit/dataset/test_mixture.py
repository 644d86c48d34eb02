"""Several sources in given shares, batches of like lengths, rows with documents of their own: orders that resume."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindformers.dataset.causal_lm import CausalLanguageModelDataset
from mindformers.dataset.mindrecord import mindrecord_writer
from mindformers.dataset.mixture import Mixture
from mindformers.dataset.pipeline import starts_behind
from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer
from mindformers.parallel.layout import Layout
from tests.support.vocab import write_tiny_vocab


def test_shares_are_kept_to_the_row() -> None:
    assert Mixture([10, 30, 5], [1, 1, 2], 40).counts.tolist() == [10, 10, 20]
    assert Mixture([10, 10, 10], [1, 1, 1], 20).counts.tolist() == [7, 7, 6]
    assert Mixture([4, 4], [1, 999], 8).counts.tolist() == [0, 8]


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_source_is_gone_through_whole_before_it_begins_again(shuffle: bool) -> None:
    mixture = Mixture([3, 7], [1, 1], 10, seed=4, shuffle=shuffle)
    epochs = [mixture.rows(epoch) for epoch in range(7)]
    assert all(len(rows) == 10 for rows in epochs)
    small = np.concatenate([np.sort(rows[rows < 3]) for rows in epochs])
    large = np.concatenate([rows[rows >= 3] for rows in epochs])
    assert len(small) == len(large) == 35
    counts = np.bincount(np.concatenate(epochs), minlength=10)
    assert counts[:3].tolist() in (
        [12, 12, 11],
        [12, 11, 12],
        [11, 12, 12],
    )  # 35 places among 3 rows
    assert counts[3:].tolist() == [5] * 7
    np.testing.assert_array_equal(mixture.rows(4), epochs[4])


def test_without_a_draw_sources_take_turns() -> None:
    rows = Mixture([4, 4], [1, 3], 8).rows(0)
    # due at 1/4 and 3/4 of the epoch, and at 1/12, 3/12, ...; of the larger one four rows, then again the first
    assert rows.tolist() == [4, 0, 5, 6, 7, 1, 4, 5]


def test_the_order_is_another_in_every_epoch_and_with_every_seed() -> None:
    first = Mixture([20, 20], [1, 1], 40, seed=1, shuffle=True)
    other = Mixture([20, 20], [1, 1], 40, seed=2, shuffle=True)
    assert sorted(first.rows(0).tolist()) == list(range(40))
    assert first.rows(0).tolist() != first.rows(1).tolist()
    assert first.rows(0).tolist() != other.rows(0).tolist()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatGLM4Tokenizer:
    return ChatGLM4Tokenizer(write_tiny_vocab(tmp_path_factory.mktemp("vocab")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources: 12 rows that answer with a's, 30 that answer with b's, of many lengths."""
    folder = tmp_path_factory.mktemp("sources")
    for name, count in (("a", 12), ("b", 30)):
        rows = [{"instruction": "q", "output": name * (1 + 5 * i % 37)} for i in range(count)]
        (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def dataset(folder: Path, tokenizer: Any, **section: Any) -> CausalLanguageModelDataset:
    layout = section.pop("layout", None)
    loader = {"shuffle": True, **section.pop("loader", {})}
    return CausalLanguageModelDataset(
        {"data_loader": loader, "batch_size": 4, "seed": 3, "cache_dir": str(folder / "cache"), **section},
        tokenizer=tokenizer, seq_length=64, layout=layout,
    )  # fmt: skip


def two_sources(folder: Path) -> dict[str, Any]:
    return {
        "sources": [
            {"dataset_dir": str(folder / "a.json"), "weight": 3.0},
            {"dataset_dir": str(folder / "b.json"), "format": "alpaca"},
        ]
    }


def share_of_a(batches: list[dict[str, np.ndarray]]) -> float:
    rows = np.concatenate([batch["labels"] for batch in batches])
    return float((rows == ord("a")).any(axis=1).mean())


def test_sources_are_mixed_by_weight_and_the_shares_are_told(
    folder: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mindformers")
    found = dataset(folder, tokenizer, loader=two_sources(folder))
    assert (found.num_rows, len(found)) == (42, 10)
    assert share_of_a(list(found.batches(0))) == pytest.approx(0.75, abs=0.05)
    assert "a.json: 32 of 12 rows an epoch (2.67 passes), 76.2 % of the rows" in caplog.text
    assert "b.json: 10 of 30 rows an epoch (0.33 passes), 23.8 % of the rows" in caplog.text
    again = dataset(folder, tokenizer, loader=two_sources(folder))
    expected = [batch["input_ids"].tolist() for batch in found.batches(2)][4:]
    assert [batch["input_ids"].tolist() for batch in again.batches(2, 4)] == expected
    assert again.fingerprint == found.fingerprint


def test_a_mixture_can_be_packed(folder: Path, tokenizer: Any) -> None:
    found = dataset(folder, tokenizer, loader=two_sources(folder), packing=True, batch_size=1)
    ids = np.concatenate([batch["input_ids"] for batch in found.batches(0)])
    conversations = int((ids == tokenizer.special_tokens["[gMASK]"]).sum())
    assert conversations == 42
    assert found.num_rows < 30


def lengths_of(batch: dict[str, np.ndarray]) -> list[int]:
    trained = batch["labels"] != -100
    return (np.where(trained, np.arange(trained.shape[1]), 0).max(axis=1) + 2).tolist()


def test_batches_of_like_lengths_are_filled_up_to_their_longest(
    folder: Path, tokenizer: Any
) -> None:
    loader = {"dataset_dir": str(folder / "b.json")}
    plain = dataset(folder, tokenizer, loader=loader)
    dynamic = dataset(folder, tokenizer, loader=loader, dynamic_batch=True, divisor=8)
    grouped = dataset(
        folder, tokenizer, loader=loader, dynamic_batch=True, divisor=8, group_by_length=True
    )
    for one, other in zip(plain.batches(1), dynamic.batches(1), strict=True):
        width = other["input_ids"].shape[1]
        assert width == -(-max(lengths_of(one)) // 8) * 8
        for name, values in other.items():
            np.testing.assert_array_equal(values, one[name][:, :width])
    sizes = [
        sum(batch["input_ids"].size for batch in each.batches(1))
        for each in (plain, dynamic, grouped)
    ]
    assert sizes[0] > sizes[1] > sizes[2]
    lengths = [lengths_of(batch) for batch in grouped.batches(0)]
    assert [each == sorted(each, reverse=True) for each in lengths] == [True] * 7
    assert lengths != sorted(lengths, reverse=True)  # but the batches come in drawn order
    assert grouped.fingerprint != plain.fingerprint


def test_every_process_fills_up_to_the_longest_row_of_the_whole_batch(
    folder: Path, tokenizer: Any
) -> None:
    loader = {"dataset_dir": str(folder / "b.json")}
    whole = dataset(folder, tokenizer, loader=loader, dynamic_batch=True, divisor=5)
    halves = [
        dataset(
            folder,
            tokenizer,
            loader=loader,
            dynamic_batch=True,
            divisor=5,
            layout=Layout(data=2, rank=rank),
        )
        for rank in range(2)
    ]
    for batch, *parts in zip(whole.batches(0), *(half.batches(0) for half in halves), strict=True):
        # Shared among two copies a length need not be a multiple of anything else.
        joined = np.concatenate([part["input_ids"] for part in parts])
        np.testing.assert_array_equal(joined, batch["input_ids"])


def test_text_and_mindrecord_in_the_same_order_give_the_same_batches(
    folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    loader = {"dataset_dir": str(folder / "b.json")}
    text = dataset(folder, tokenizer, loader=loader, num_parallel_workers=1)
    ids, labels = (np.concatenate([b[name] for b in dataset(
        folder, tokenizer, loader={**loader, "shuffle": False}, batch_size=1).batches(0)])
        for name in ("input_ids", "labels"))  # fmt: skip
    with mindrecord_writer(tmp_path / "b.mindrecord") as writer:
        writer.write(ids, labels)
    records = dataset(folder, None, loader={"dataset_dir": str(tmp_path / "b.mindrecord")})
    for one, other in zip(text.batches(3), records.batches(3), strict=True):
        for name, values in one.items():
            np.testing.assert_array_equal(values, other[name])


def test_rows_that_are_packed_already_say_where_documents_begin(tmp_path: Path) -> None:
    ids = np.array([[5, 9, 6, 7, 9, 9, 8, 4], [1, 2, 3, 4, 5, 6, 7, 9]], np.int32)
    starts = [[0, 0, 2, 2, 2, 5, 6, 6], [0] * 8]
    assert starts_behind(ids, 9).tolist() == starts
    with mindrecord_writer(tmp_path / "a.mindrecord") as writer:
        writer.write(ids, np.full_like(ids, 3))
    section = {"data_loader": {"dataset_dir": str(tmp_path / "a.mindrecord")}, "batch_size": 2}
    (batch,) = CausalLanguageModelDataset(section, eod_reset=True, eod_token_id=9).batches(0)
    assert batch["document_starts"].tolist() == starts
    (plain,) = CausalLanguageModelDataset(section).batches(0)
    assert "document_starts" not in plain
