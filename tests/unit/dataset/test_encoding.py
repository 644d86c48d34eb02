"""Rows to records: the same from one process and from several, whatever the rows are like."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mindformers.dataset import row_encoder
from mindformers.dataset.encode import Prompt, Sample, encode_conversation, encode_conversations
from mindformers.dataset.encoding import encode_files, encoded_samples, read_chunks
from mindformers.dataset.mindrecord_rows import pack_matrix
from mindformers.dataset.row_encoder import EncodeOptions, RowEncoder
from mindformers.dataset.rows import read_rows
from mindformers.dataset.tally import Tally
from mindformers.errors import DataError
from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer
from mindformers.tools.dataset_preprocess.glm4 import glm4_preprocess
from tests.support.vocab import write_tiny_vocab


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatGLM4Tokenizer:
    return ChatGLM4Tokenizer(write_tiny_vocab(tmp_path_factory.mktemp("vocab")))


def mixed_rows(count: int) -> str:
    """Good rows, long ones, ones with nothing to learn, malformed ones."""
    kinds = {3: ("q" * 40, "a"), 5: ("q", "a" * 40), 8: ("", "a")}
    rows = []
    for number in range(count):
        question, reply = kinds.get(number % 11, (f"你 {number}", "a" * (number % 6 + 1)))
        rows.append(json.dumps({"instruction": question, "output": reply}))
    return "\n".join(rows) + "\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text(mixed_rows(900), encoding="utf-8")
    return path


def collect(chunks) -> tuple[bytes, list[int], Tally]:
    records, sizes, tally = [], [], Tally()
    for chunk in chunks:
        records.append(bytes(chunk.rows.data))
        sizes += chunk.rows.sizes.tolist()
        tally.add(chunk.tally)
    return b"".join(records), sizes, tally


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_make_what_one_process_makes(source, tokenizer, monkeypatch, workers) -> None:
    monkeypatch.setattr(row_encoder, "_CHUNK_ROWS", 40)
    options = EncodeOptions(24, on_error="skip")
    alone = collect(encode_files([source], tokenizer, options, repeat=2))
    together = collect(encode_files([source], tokenizer, options, repeat=2, num_workers=workers))
    assert alone == together
    assert alone[2].rows_read == 1800
    assert alone[2].dropped.keys() == {"malformed", "nothing to learn"}
    assert alone[2].truncated > 0


def test_processes_that_cannot_be_forked_answer_through_a_pipe(
    source, tokenizer, monkeypatch
) -> None:
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    monkeypatch.setattr(
        multiprocessing,
        "get_context",
        lambda method, get=multiprocessing.get_context: get(method or "spawn"),
    )
    options = EncodeOptions(24, on_error="skip")
    assert collect(encode_files([source], tokenizer, options, num_workers=2)) == collect(
        encode_files([source], tokenizer, options)
    )


def test_records_are_those_of_the_rows_one_by_one(source, tokenizer) -> None:
    columns, encoder = ([], []), RowEncoder(tokenizer, EncodeOptions(24, on_error="skip"))
    for row in read_rows(source):
        fields = json.loads(row.data)
        messages = [
            {"role": "user", "content": fields["instruction"]},
            {"role": "assistant", "content": fields["output"]},
        ]
        try:
            sample = encode_conversation(tokenizer, messages, 24)
        except DataError:
            continue
        if fields["instruction"]:
            columns[0].append(sample.input_ids)
            columns[1].append(sample.labels)
    expected = pack_matrix([np.stack(column) for column in columns])
    chunks = list(map(encoder.pack, read_chunks([source], 24)))
    assert b"".join(chunk.rows.data for chunk in chunks) == bytes(expected.data)
    assert max(chunk.rows.max_id for chunk in chunks) == expected.max_id


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_row_that_ends_the_work_is_named_and_rows_before_it_are_made(
    source, tokenizer, workers
) -> None:
    made = 0
    options = EncodeOptions(24, too_long="error")
    with pytest.raises(
        DataError, match=r"in.jsonl:4: the conversation has \d+ tokens; allowed: at most 25"
    ):
        for chunk in encode_files([source], tokenizer, options, num_workers=workers):
            made += chunk.rows.num_rows
    assert made == 3
    with pytest.raises(DataError, match=r"in.jsonl:9: 'instruction' and 'input' are both empty"):
        for _ in encode_files([source], tokenizer, EncodeOptions(64), num_workers=workers):
            pass


def test_conversations_are_encoded_together_as_one_by_one(tokenizer) -> None:
    def talk(question: str, *more: dict) -> list[dict]:
        return [{"role": "user", "content": question}, *more]

    def encode_one(prompt: Prompt, truncate: bool) -> Sample:
        return encode_conversation(
            tokenizer, prompt.messages, 12, where=prompt.where, truncate=truncate
        )

    answer = {"role": "assistant", "content": "ok"}
    conversations = [
        talk("hi", answer), talk("\ud83d", answer), talk("q" * 30, answer), talk("q"), talk("hi", answer),
        talk("hi", {**answer, "content": "a" * 30}), [{"role": "nobody"}],
    ]  # fmt: skip
    prompts = [
        Prompt(messages, None, f"f:{number}") for number, messages in enumerate(conversations)
    ]
    for truncate in (True, False):
        rows, errors = encode_conversations(
            tokenizer, prompts, 12, too_long="truncate" if truncate else "error"
        )
        start, good = 0, 0
        for prompt, error in zip(prompts, errors, strict=True):
            if error is not None:
                with pytest.raises(type(error)) as alone:
                    encode_one(prompt, truncate)
                assert str(alone.value) == str(error)
                continue
            one = encode_one(prompt, truncate)
            end = start + one.num_tokens
            assert rows.input_ids[start:end].tolist() == one.input_ids[: one.num_tokens].tolist()
            assert rows.labels[start:end].tolist() == one.labels[: one.num_tokens].tolist()
            counts = rows.num_tokens[good], rows.num_trained[good], rows.num_cut[good]
            assert counts == (one.num_tokens, one.num_trained, one.num_cut)
            start, good = end, good + 1
        assert (len(rows.input_ids), len(rows)) == (start, good)


def test_samples_to_show_are_not_filled_up(source, tokenizer) -> None:
    ids, labels = next(encoded_samples([source], tokenizer, EncodeOptions(1000)))
    assert len(ids) == len(labels) < 30


def test_a_chunk_is_small_where_rows_are_long() -> None:
    assert [row_encoder.rows_of_chunk(length) for length in (16, 512, 8192, 2**20)] == [
        512,
        512,
        64,
        1,
    ]


def test_a_small_input_starts_no_process_and_loads_no_framework(
    tmp_path: Path, source: Path
) -> None:
    vocab = write_tiny_vocab(tmp_path / "vocab")
    arguments = [
        "--input_glob", str(source), "--vocab_file", str(vocab), "--on_error", "skip",
        "--output_file", str(tmp_path / "a.mindrecord"), "--seq_length", "24",
    ]  # fmt: skip
    code = (
        f"import sys; sys.path.insert(0, {str(Path(glm4_preprocess.__file__).parents[4])!r});"
        "from mindformers.tools.dataset_preprocess.glm4.glm4_preprocess import main;"
        f"main({arguments!r}); names = ('mindspore', 'multiprocessing', 'jinja2', 'pydantic');"
        "sys.exit(str([name for name in names if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "[]"
    assert (tmp_path / "a.mindrecord").is_file()
