"""Text files straight to batches: the same rows as by way of MindRecord, encoded once, kept safely."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindformers.dataset import encoding, row_encoder
from mindformers.dataset.causal_lm import CausalLanguageModelDataset, KeyWordGenDataset
from mindformers.errors import ConfigError, DataError, MissingExtraError
from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer
from mindformers.tools.dataset_preprocess.glm4 import glm4_preprocess
from tests.support.vocab import write_tiny_vocab

LENGTH = 24


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_vocab(tmp_path_factory.mktemp("vocab"))


@pytest.fixture(scope="module")
def tokenizer(vocab: Path) -> ChatGLM4Tokenizer:
    return ChatGLM4Tokenizer(vocab)


def rows(count: int) -> list[dict[str, Any]]:
    """Alpaca rows of many lengths; every seventh is longer than a row."""
    return [
        {
            "instruction": f"Say {i}",
            "input": "x" * (i % 5),
            "output": "one two " * (1 + 9 * (i % 7 == 6)),
        }
        for i in range(count)
    ]


def write_json(path: Path, content: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def dataset(
    source: Path | list[str], tokenizer: Any, cache: Path, **settings: Any
) -> CausalLanguageModelDataset:
    loader = {
        "dataset_dir": source if isinstance(source, list) else str(source),
        **settings.pop("loader", {}),
    }
    section = {
        "data_loader": loader,
        "batch_size": 4,
        "drop_remainder": False,
        "cache_dir": str(cache),
    }
    settings.setdefault("seq_length", LENGTH)
    return CausalLanguageModelDataset(
        {**section, **settings.pop("section", {})}, tokenizer=tokenizer, **settings
    )


def columns(found: CausalLanguageModelDataset) -> tuple[np.ndarray, np.ndarray]:
    batches = list(found.batches(0))
    return tuple(np.concatenate([b[name] for b in batches]) for name in ("input_ids", "labels"))


@pytest.mark.parametrize("workers", [1, 2])
def test_rows_equal_those_that_went_through_mindrecord(
    vocab: Path, tokenizer: Any, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_json(tmp_path / "a.json", rows(40))
    monkeypatch.setattr(encoding, "_SMALL_INPUT_BYTES", 0)
    monkeypatch.setattr(row_encoder, "_CHUNK_ROWS", 7)
    glm4_preprocess.main([
        "--input_glob", str(source), "--vocab_file", str(vocab), "--seq_length", str(LENGTH),
        "--output_file", str(tmp_path / "a.mindrecord"),
    ])  # fmt: skip
    stored = columns(dataset(tmp_path / "a.mindrecord", None, tmp_path))
    found = columns(
        dataset(source, tokenizer, tmp_path / "cache", section={"num_parallel_workers": workers})
    )
    for one, other in zip(found, stored, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(found[0]) == 40


def test_every_file_form_gives_the_same_rows(tokenizer: Any, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    content = [{**row, "history": []} for row in rows(10)]
    content[3]["history"] = [["a", "b"]]
    whole = write_json(tmp_path / "a.json", content)
    lines = tmp_path / "b.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    table = tmp_path / "c.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(content), table)
    expected = columns(dataset(whole, tokenizer, tmp_path / "cache"))
    for path in (lines, table):
        for one, other in zip(
            columns(dataset(path, tokenizer, tmp_path / "cache")), expected, strict=True
        ):
            np.testing.assert_array_equal(one, other)
    every = dataset(tmp_path, tokenizer, tmp_path / "cache", loader={"type": "JsonDataLoader"})
    assert every.num_rows == 30


def test_a_second_run_reads_the_cache_and_a_change_makes_another(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, cache = write_json(tmp_path / "a.json", rows(10)), tmp_path / "cache"
    first = dataset(source, tokenizer, cache)
    encoded: list[int] = []
    original = row_encoder.RowEncoder.encode
    monkeypatch.setattr(
        row_encoder.RowEncoder,
        "encode",
        lambda self, each: (encoded.append(len(each)), original(self, each))[1],
    )
    moved = shutil.copy(source, tmp_path / "moved.json")
    again = dataset(moved, tokenizer, cache)  # content counts, not names
    assert not encoded
    assert again.fingerprint == first.fingerprint
    longer = dataset(source, tokenizer, cache, seq_length=LENGTH + 1)
    write_json(source, rows(11))
    changed = dataset(source, tokenizer, cache)
    assert encoded == [10, 11]
    assert len({first.fingerprint, longer.fingerprint, changed.fingerprint}) == 3


@pytest.mark.parametrize("name", ["ids.bin", "labels.bin", "rows.npy", "facts"])
def test_a_damaged_cache_is_noticed_and_made_again(
    tokenizer: Any, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    source, cache = write_json(tmp_path / "a.json", rows(10)), tmp_path / "cache"
    expected = columns(dataset(source, tokenizer, cache))
    (damaged,) = cache.glob(f"rows-*/{name}")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content if name != "facts" else content[:40])
    with caplog.at_level(logging.WARNING, "mindformers"):
        found = columns(dataset(source, tokenizer, cache))
    assert "is damaged" in caplog.text
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_fails_leaves_no_cache_behind(
    tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mindformers")
    content = [*rows(5), {"instruction": "a"}]
    source, cache = write_json(tmp_path / "a.json", content), tmp_path / "cache"
    with pytest.raises(DataError, match="the alpaca row has no 'output'"):
        dataset(source, tokenizer, cache)
    assert not [each for each in cache.iterdir() if each.suffix != ".lock"]
    found = dataset(source, tokenizer, cache, loader={"on_error": "skip"})
    assert found.num_rows == 5
    assert "dropped (malformed): 1; first" in caplog.text
    assert "17 % of the conversations were left out" in caplog.text
    caplog.clear()
    dataset(source, tokenizer, cache, loader={"on_error": "skip"})
    assert "6 read, 5 rows of" in caplog.text  # what became of the input is kept with the rows
    assert "dropped 1" in caplog.text


def test_packed_text_trains_the_same_labels(tokenizer: Any, tmp_path: Path) -> None:
    source = write_json(tmp_path / "a.json", rows(30))
    plain = columns(dataset(source, tokenizer, tmp_path / "c", seq_length=64))
    packed = dataset(source, tokenizer, tmp_path / "c", seq_length=64, section={"packing": True})
    ids, labels = columns(packed)
    assert packed.num_rows < 30
    pairs = [
        sorted(zip(i[la >= 0].tolist(), la[la >= 0].tolist(), strict=True))
        for i, la in (plain, (ids, labels))
    ]
    assert pairs[0] == pairs[1]


def test_upstreams_names_read_their_forms(tokenizer: Any, tmp_path: Path) -> None:
    advert = tmp_path / "train.json"
    advert.write_text(
        json.dumps({"content": "the model", "summary": "hello"}) + "\n", encoding="utf-8"
    )
    section = {
        "data_loader": {"type": "ADGenDataLoader", "dataset_dir": str(advert), "shuffle": True,
                        "phase": "train", "version": 2, "origin_columns": ["content", "summary"]},
        "max_source_length": 10, "max_target_length": 9, "ignore_pad_token_for_loss": True,
        "batch_size": 1, "cache_dir": str(tmp_path / "c"), "input_columns": ["input_ids", "labels"],
    }  # fmt: skip
    found = KeyWordGenDataset(section, tokenizer=tokenizer)
    (batch,) = found.batches(0)
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    assert found.seq_length == 20
    special = tokenizer.special_tokens
    text = [*tokenizer.encode_segments(tokenizer.render([{"role": "user", "content": "the model"},
            {"role": "assistant", "content": "hello"}])), special["<|user|>"]]  # fmt: skip
    assert ids[: len(text)].tolist() == text
    answer = text.index(special["<|assistant|>"])
    assert labels[:answer].tolist() == [-100] * answer
    assert labels[answer : len(text) - 1].tolist() == text[answer + 1 :]
    assert set(labels[len(text) - 1 :].tolist()) == {-100}


def test_dialogues_with_tools_are_read_as_upstream_writes_them(vocab: Path, tmp_path: Path) -> None:
    import mindformers.models  # noqa: F401 -- registers the tokenizer by its name
    from mindformers.dataset import MultiTurnDataset

    data = tmp_path / "tools.jsonl"
    turns = [
        {"role": "user", "content": "q"},
        {"role": "tool", "name": "f", "parameters": {}, "observation": "x"},
        {"role": "assistant", "content": "a"},
    ]
    row = {"tools": [{"name": "f", "parameters": {}}], "conversations": turns}
    data.write_text(json.dumps(row) + "\n", encoding="utf-8")
    section = {
        "data_loader": {"type": "ToolAlpacaDataLoader", "dataset_dir": str(data), "shuffle": True},
        "tokenizer": {"type": "ChatGLM4Tokenizer", "vocab_file": str(vocab)},
        "max_seq_length": 900, "batch_size": 1, "cache_dir": str(tmp_path / "c"),
    }  # fmt: skip
    found = MultiTurnDataset(section)
    (batch,) = found.batches(0)
    labels = batch["labels"][0]
    ids = labels[labels >= 0].tolist()
    learnt = ChatGLM4Tokenizer(vocab).decode(ids, spaces_between_special_tokens=False)
    assert learnt == "f\n{}<|observation|>\na<|user|>"
    other = MultiTurnDataset(
        {**section, "tokenizer": None}, tokenizer={"vocab_file": str(vocab)}, batch_size=1
    )
    assert other.fingerprint == found.fingerprint


def test_what_is_missing_is_named(
    vocab: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_json(tmp_path / "a.json", rows(3))
    with pytest.raises(ConfigError, match="text needs a tokenizer"):
        dataset(source, None, tmp_path)
    with pytest.raises(ConfigError, match="no length of a row is given"):
        dataset(source, tokenizer, tmp_path, seq_length=None)
    with pytest.raises(DataError, match="there is no such file.*did you mean 'a.json'"):
        dataset(tmp_path / "b.json", tokenizer, tmp_path)
    with pytest.raises(ConfigError, match="too_long has no effect on MindRecord files"):
        dataset(tmp_path / "a.mindrecord", None, tmp_path, loader={"too_long": "drop"})
    with pytest.raises(DataError, match="token id .* is beyond the model's vocabulary"):
        dataset(source, tokenizer, tmp_path, vocab_size=10)
    broken = tmp_path / "x.parquet"
    broken.write_bytes(b"PAR1 no")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"needs pyarrow; .*mindformers\[parquet\]"):
        dataset(broken, tokenizer, tmp_path)
    monkeypatch.undo()
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        dataset(broken, tokenizer, tmp_path)
