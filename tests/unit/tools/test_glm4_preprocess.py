from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mindformers.dataset.mindrecord_file import read_file
from mindformers.dataset.pipeline import ReadOptions, TrainDataset
from mindformers.errors import ConfigError, TokenizerError
from mindformers.guard import run_guarded
from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer
from mindformers.tools.dataset_preprocess.glm4 import glm4_preprocess
from mindformers.tools.dataset_preprocess.glm4.glm4_preprocess import (
    build_parser,
    input_files,
    main,
)
from tests.support.sentence_pieces import write_tiny_model
from tests.support.vocab import tiny_tokens, write_tiny_vocab

N = len(tiny_tokens())
E, M, P, U, A = N, N + 2, N + 4, N + 7, N + 8


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_vocab(tmp_path_factory.mktemp("vocab"))


def row(question: str, reply: str) -> str:
    return (
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": reply},
                ]
            }
        )
        + "\n"
    )


def run(
    tmp_path: Path,
    vocab: Path,
    *more: str,
    lines: str | None = None,
    output: str = "out.mindrecord",
) -> int:
    source = tmp_path / "in.jsonl"
    if lines is not None:
        source.write_text(lines, encoding="utf-8")
    return run_guarded(main, [
        "--input_glob", str(source), "--vocab_file", str(vocab), "--output_file", str(tmp_path / output),
        "--seq_length", "12", "--num_workers", "1", *more])  # fmt: skip


def stored(path: Path) -> tuple[list, list]:
    batch = next(
        TrainDataset(path, ReadOptions(batch_size=10_000, drop_remainder=False)).batches(0)
    )
    return batch["input_ids"].tolist(), batch["labels"].tolist()


def test_rows_are_those_written_by_hand(tmp_path: Path, vocab: Path, capsys) -> None:
    assert run(tmp_path, vocab, lines=row("hi", "ok") + row("hello there", "ok")) == 0
    ids, labels = stored(tmp_path / "out.mindrecord")
    assert ids[0] == [M, P, U, 10, 104, 105, A, 10, 111, 107, U, E]
    assert labels[0] == [-100] * 6 + [10, 111, 107, U] + [-100] * 2
    shown = capsys.readouterr()
    assert shown.out.endswith(
        f"Transformed 1 records.\nTransform finished, output files refer: {tmp_path / 'out.mindrecord'}\n"
    )
    for line in (
        "rows read           2",
        "rows written        1",
        "tokens              11",
        "trained tokens      4 (36.4 %)",
        "truncated rows      0 (0 tokens cut)",
        "dropped rows        1",
        "  nothing to learn  1",
    ):
        assert line in shown.out
    assert "dropped (nothing to learn): " in shown.err
    assert "in.jsonl:2: every label would be -100: the answer begins after token 12" in shown.err


def test_published_flags_and_defaults_are_kept() -> None:
    parsed = build_parser().parse_args([])
    assert (parsed.input_glob, parsed.output_file, parsed.vocab_file) == (
        "./alpaca_glm4_data.jsonl",
        "./alpaca-fastchat-glm4.mindrecord",
        "./tokenizer.model",
    )
    assert (parsed.file_partition, parsed.repeat, parsed.seq_length) == (1, 1, 8192)


@pytest.mark.parametrize(("flag", "value"), [("--seq_length", "0"), ("--repeat", "x"), ("--file_partition", "-1"),
                                             ("--num_workers", "1.5")])  # fmt: skip
def test_a_number_out_of_range_is_a_usage_error(flag: str, value: str) -> None:
    message = f"argument {flag}: '{value}' is not an integer of at least 1"
    with pytest.raises(ConfigError, match=message) as caught:
        build_parser().parse_args([f"{flag}={value}"])
    assert caught.value.exit_code == 2


def test_a_pattern_takes_several_files_sorted(tmp_path: Path, vocab: Path) -> None:
    for name, letter in (("b.jsonl", "b"), ("a.jsonl", "a"), ("sub/c.jsonl", "c")):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(row(letter, letter))
    pattern = str(tmp_path / "in" / "**" / "*.jsonl")
    assert [path.name for path in input_files(pattern)] == ["a.jsonl", "b.jsonl", "c.jsonl"]
    assert run(tmp_path, vocab, "--input_glob", pattern) == 0
    assert [chr(ids[4]) for ids in stored(tmp_path / "out.mindrecord")[0]] == ["a", "b", "c"]


def test_no_matching_file_is_an_error_with_the_nearest_name(
    tmp_path: Path, vocab: Path, capsys
) -> None:
    (tmp_path / "alpaca.jsonl").touch()
    assert run(tmp_path, vocab, "--input_glob", str(tmp_path / "alpacca.jsonl")) == 2
    assert "there is no such file; did you mean 'alpaca.jsonl'?" in capsys.readouterr().err
    assert run(tmp_path, vocab, "--input_glob", str(tmp_path / "*.txt")) == 2
    assert "no file matches; correct the path or the pattern" in capsys.readouterr().err


def test_repeat_and_partitions_hold_every_row(tmp_path: Path, vocab: Path) -> None:
    lines = "".join(row(letter, letter) for letter in "abcdefg")
    assert run(tmp_path, vocab, "--repeat", "3", "--file_partition", "4", lines=lines) == 0
    files = [tmp_path / f"out.mindrecord{i}" for i in range(4)]
    assert sum(read_file(file).num_rows for file in files) == 21
    assert sorted(chr(ids[4]) for ids in stored(files[0])[0]) == sorted("abcdefg" * 3)


@pytest.mark.parametrize("workers", ["1", "2", "3"])
def test_workers_keep_the_order(tmp_path: Path, vocab: Path, workers: str) -> None:
    lines = "".join(row(str(i), "a" * (i % 7 + 1)) for i in range(400))
    assert run(tmp_path, vocab, "--num_workers", workers, "--seq_length", "24", lines=lines) == 0
    tokenizer = ChatGLM4Tokenizer(vocab)
    texts = [
        tokenizer.decode(ids, skip_special_tokens=True).split("\n")
        for ids in stored(tmp_path / "out.mindrecord")[0]
    ]
    assert [text[1].strip() for text in texts] == [str(i) for i in range(400)]


def test_existing_output_is_refused_before_any_work(tmp_path: Path, vocab: Path, capsys) -> None:
    assert run(tmp_path, vocab, lines=row("a", "b")) == 0
    before = (tmp_path / "out.mindrecord").read_bytes()
    assert run(tmp_path, vocab, lines="broken") == 2
    assert (
        "the output exists already (out.mindrecord, out.mindrecord.db); add --overwrite"
        in capsys.readouterr().err
    )
    assert (tmp_path / "out.mindrecord").read_bytes() == before
    assert run(tmp_path, vocab, "--overwrite", lines=row("c", "d")) == 0
    assert stored(tmp_path / "out.mindrecord")[0][0][4] == ord("c")


LONG = row("a", "bcdefghijklm") + row("a", "b")


@pytest.mark.parametrize(("policy", "rows", "count"), [
    ("truncate", 2, "truncated rows  1 (7 tokens cut)"), ("drop", 1, "  too long      1"),
])  # fmt: skip
def test_long_rows_are_cut_or_dropped_and_counted(
    tmp_path, vocab, capsys, policy: str, rows: int, count: str
) -> None:
    assert run(tmp_path, vocab, "--too_long", policy, lines=LONG) == 0
    assert len(stored(tmp_path / "out.mindrecord")[0]) == rows
    assert count in capsys.readouterr().out


def test_long_rows_may_be_an_error(tmp_path: Path, vocab: Path, capsys) -> None:
    assert run(tmp_path, vocab, "--too_long", "error", lines=LONG) == 2
    assert (
        "in.jsonl:1: the conversation has 20 tokens; allowed: at most 13" in capsys.readouterr().err
    )
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_the_preview_marks_what_is_learnt(tmp_path: Path, vocab: Path, capsys) -> None:
    lines = row("hi \x1b[31m<sop>", "ok <|user|>") + row("a", "b") + row("c", "d")
    assert run(tmp_path, vocab, "--preview", "2", "--seq_length", "64", lines=lines) == 0
    shown = capsys.readouterr().out
    assert (
        "[gMASK]<sop><|user|>\nhi \\x1b[31m<sop><|assistant|>{+\nok <|user|><|user|>+}\n" in shown
    )
    assert (
        "--- sample 2 (9 of 64 tokens); {+learnt+}\n[gMASK]<sop><|user|>\na<|assistant|>{+\nb<|user|>+}\n"
        in shown
    )
    assert "sample 3" not in shown
    assert "\x1b" not in shown


def test_the_preview_of_a_cut_row_ends_with_its_last_label(
    tmp_path: Path, vocab: Path, capsys
) -> None:
    assert run(tmp_path, vocab, "--preview", "1", lines=LONG) == 0
    assert "a<|assistant|>{+\nbcdefg+}\n" in capsys.readouterr().out


def test_a_model_folder_brings_its_chat_template(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    vocab = write_tiny_vocab(folder)
    template = (
        "[gMASK]<sop>{% for m in messages %}<|{{ m['role'] }}|>#{{ m['content'] }}{% endfor %}"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    assert run(tmp_path, folder, lines=row("a", "b")) == 0
    assert stored(tmp_path / "out.mindrecord")[0][0] == [M, P, U, 35, 97, A, 35, 98, U, E, E, E]
    assert run(tmp_path, vocab, "--overwrite", lines=row("a", "b")) == 0
    assert stored(tmp_path / "out.mindrecord")[0][0] == [M, P, U, 10, 97, A, 10, 98, U, E, E, E]


def test_the_facts_name_the_vocabulary(tmp_path: Path, vocab: Path) -> None:
    assert run(tmp_path, vocab, lines=row("a", "b")) == 0
    facts = read_file(tmp_path / "out.mindrecord").facts
    assert facts["vocab_hash"] == ChatGLM4Tokenizer(vocab).vocab_hash
    assert (facts["seq_length"], facts["max_token_id"]) == ("12", str(A))


def test_it_runs_by_path_and_reads_back(tmp_path: Path, vocab: Path) -> None:
    (tmp_path / "in.jsonl").write_text(row("你好", "b") * 5, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, glm4_preprocess.__file__, "--input_glob", "in.jsonl", "--vocab_file", str(vocab),
         "--output_file", "deep/er/out.mindrecord", "--seq_length", "16", "--preview", "1"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "\\u4f60\\u597d<|assistant|>" in done.stdout
    assert "Transformed 5 records." in done.stdout
    assert np.shape(stored(tmp_path / "deep" / "er" / "out.mindrecord")) == (2, 5, 16)


@pytest.mark.parametrize("family", ["ChatGLM2Tokenizer", "ChatGLM3Tokenizer"])
def test_a_sentencepiece_vocabulary_is_encoded_by_several_processes_as_by_one(
    tmp_path: Path, family: str
) -> None:
    pieces = write_tiny_model(tmp_path)
    source = tmp_path / "in.jsonl"
    source.write_text("".join(row(f"你好 {i}", f"answer {i}") for i in range(40)), encoding="utf-8")
    found = []
    for workers in ("1", "2"):
        output = tmp_path / workers / "rows.mindrecord"
        glm4_preprocess.main(
            ["--input_glob", str(source), "--vocab_file", str(pieces), "--tokenizer_type", family,
             "--output_file", str(output), "--seq_length", "48", "--num_workers", workers])  # fmt: skip
        found.append(output.read_bytes())
    assert found[0] == found[1]
    with pytest.raises(TokenizerError, match="nothing beside it says of which family"):
        glm4_preprocess.main(["--input_glob", str(source), "--vocab_file", str(pieces),
                              "--output_file", str(tmp_path / "x.mindrecord")])  # fmt: skip
