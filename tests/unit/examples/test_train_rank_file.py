"""The vocabulary trainer against tiktoken, against a case by hand, and its error messages."""

from __future__ import annotations

import base64
import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.tiny_chat.train_rank_file import count_pieces, main, read_texts, train_ranks
from mindformers.errors import ConfigError, DataError
from mindformers.tokenizer.bpe import BytePairEncoder, load_encoder

EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "tiny_chat"
DATA = EXAMPLES / "alpaca_tiny.json"
BYTES = [bytes([value]) for value in range(256)]

# Written out here once more, so that a change of the package's pattern is noticed.
GLM4_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_by_tiktoken(pieces: dict[bytes, int], vocab_size: int) -> list[bytes]:
    """Train the slow way: before each merge, tiktoken itself encodes every piece."""
    tokens = list(BYTES)
    while len(tokens) < vocab_size:
        encoding = tiktoken.Encoding(
            "slow",
            pat_str=r"[\s\S]+",
            mergeable_ranks={token: rank for rank, token in enumerate(tokens)},
            special_tokens={},
        )
        joins: Counter[bytes] = Counter()
        for piece, count in pieces.items():
            split = encoding.decode_tokens_bytes(encoding.encode_ordinary(piece.decode()))
            for left, right in itertools.pairwise(split):
                joins[left + right] += count
        if not joins:
            break
        tokens.append(min(joins, key=lambda joined: (-joins[joined], joined)))
    return tokens


def write_rows(path: Path, *rows: object) -> Path:
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


def alpaca(instruction: str, output: str, context: str = "") -> dict[str, str]:
    return {"instruction": instruction, "input": context, "output": output}


def failure(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """Run the command line, expect exit code 2 and one line of error; return that line."""
    assert main([str(argument) for argument in argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err.removeprefix("error: ").rstrip("\n")


def test_the_first_merges_of_aaabdaaabac_are_those_found_by_hand() -> None:
    # aa stands at four places. Then aaa and ab stand at two each, and aaa is smaller. Then aaab.
    # In aaab|d|aaab|a|c every join stands once, so the smallest bytes come first.
    merges = train_ranks({b"aaabdaaabac": 1}, 1024)[256:]
    assert merges == [
        b"aa", b"aaa", b"aaab", b"aaaba", b"aaabac", b"aaabd", b"aaabdaaabac",
    ]  # fmt: skip


def test_a_frequent_pair_in_few_words_beats_a_rare_pair_in_many() -> None:
    pieces = {b"xy": 5, b"ab": 1, b"cab": 1, b"dab": 1}
    assert train_ranks(pieces, 258)[256:] == [b"xy", b"ab"]


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=14), st.integers(1, 9), max_size=8))
def test_training_equals_training_in_which_tiktoken_splits_every_piece_anew(
    words: dict[str, int],
) -> None:
    pieces = {word.encode(): count for word, count in words.items()}
    assert train_ranks(pieces, 290) == train_by_tiktoken(pieces, 290)


def test_training_on_the_chinese_and_english_rows_equals_the_slow_way() -> None:
    pieces = count_pieces(read_texts(DATA)[-60:])
    assert train_ranks(pieces, 340) == train_by_tiktoken(pieces, 340)


def test_pieces_are_those_of_the_glm4_pattern() -> None:
    pieces = count_pieces(["It's 12345 o'clock.\n\n你好，世界", "It"])
    expected = [b"It", b"'s", b" ", b"123", b"45", b" o", b"'clock", b".\n\n"]
    expected += ["你好".encode(), "，世界".encode(), b"It"]
    assert pieces == Counter(expected)


def test_the_file_loads_in_tiktoken_and_gives_every_text_back(tmp_path: Path) -> None:
    output = tmp_path / "tokenizer.model"
    assert main(["--data", str(DATA), "--vocab_size", "1024", "--output", str(output)]) == 0
    ranks: dict[bytes, int] = {}
    for line in output.read_bytes().splitlines():
        token, rank = line.split(b" ")
        ranks[base64.b64decode(token, validate=True)] = int(rank)
    assert list(ranks.values()) == list(range(1024))
    assert list(ranks)[:256] == BYTES
    encoding = tiktoken.Encoding(
        "tiny", pat_str=GLM4_PATTERN, mergeable_ranks=ranks, special_tokens={}
    )
    ours = load_encoder(output)
    texts = read_texts(DATA)
    for text in [*texts, "text of another language: ελληνικά, 日本語, 🙂\r\n\t end "]:
        assert encoding.decode(encoding.encode_ordinary(text)) == text
        assert ours.encode(text) == encoding.encode_ordinary(text)
    num_tokens = sum(len(encoding.encode_ordinary(text)) for text in texts)
    assert sum(len(text.encode()) for text in texts) / num_tokens > 2.2


def test_every_merge_joins_two_tokens_of_lower_rank() -> None:
    tokens = train_ranks(count_pieces(read_texts(DATA)), 2034)
    ranks = {token: rank for rank, token in enumerate(tokens)}
    assert len(ranks) == 2034
    for rank, token in enumerate(tokens[256:], 256):
        borders = range(1, len(token))
        assert any(
            ranks.get(token[:at], rank) < rank and ranks.get(token[at:], rank) < rank
            for at in borders
        ), token


def test_every_token_is_used_in_the_data_or_is_part_of_a_longer_one() -> None:
    pieces = count_pieces(read_texts(DATA))
    tokens = train_ranks(pieces, 2034)
    encoder = BytePairEncoder(tokens)
    used = {encoder.tokens[rank] for piece in pieces for rank in encoder.encode(piece.decode())}
    for token in tokens[256:]:
        assert token in used or any(token in other for other in tokens if len(other) > len(token))


def test_two_runs_write_the_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    script = EXAMPLES / "train_rank_file.py"
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, script, "--data", DATA, "--output", tmp_path / f"{seed}.model"],
            check=True,
            capture_output=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(EXAMPLES.parents[1]), "PATH": ""},
        )
    assert (tmp_path / "1.model").read_bytes() == (tmp_path / "2.model").read_bytes()


def test_a_small_vocabulary_is_the_beginning_of_a_larger_one() -> None:
    pieces = count_pieces(read_texts(DATA))
    assert train_ranks(pieces, 700) == train_ranks(pieces, 1500)[:700]


def test_the_user_text_of_an_alpaca_row_holds_the_input(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "a.json", alpaca("Give the opposite.", "Cold.", "hot"))
    assert read_texts(data) == ["Give the opposite: hot", "Cold."]


def test_messages_give_contents_and_names_of_called_tools(tmp_path: Path) -> None:
    call = {"role": "assistant", "metadata": "look", "content": "{}"}
    talk = [{"role": "user", "content": "Hi"}, call]
    assert read_texts(write_rows(tmp_path / "m.json", {"messages": talk})) == ["Hi", "look", "{}"]


def test_several_files_are_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write_rows(tmp_path / "1.json", alpaca("aa", "aa"))
    second = write_rows(tmp_path / "2.json", alpaca("bb", "bb"))
    output = tmp_path / "out.model"
    assert main(["--data", str(first), str(second), "--output", str(output)]) == 0
    assert load_encoder(output).tokens[256:] == [b"aa", b"bb"]
    assert "No merge is left: the data gives 258 ranks, not 1024." in capsys.readouterr().out


def test_the_closing_table_shows_ranks_bytes_per_token_and_examples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows(tmp_path / "d.json", alpaca("abab", "abc"))
    assert main(["--data", str(data), "--vocab_size", "257", "--output", str(tmp_path / "o")]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()) for line in table if not line.startswith("time")] == [
        "ranks 257 (256 bytes, 1 merges)",
        "texts 2 (7 bytes)",
        "tokens 4",
        "bytes per token 1.75",
        "example ab|ab",
        "example ab|c",
        f"written {tmp_path / 'o'}",
    ]


def test_256_ranks_are_the_single_bytes(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "d.json", alpaca("abab", "abc"))
    output = tmp_path / "o.model"
    assert main(["--data", str(data), "--vocab_size", "256", "--output", str(output)]) == 0
    assert load_encoder(output).tokens == BYTES


def test_a_vocabulary_smaller_than_the_bytes_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = failure(capsys, "--data", DATA, "--vocab_size", 255, "--output", tmp_path / "o.model")
    assert message == "--vocab_size: vocab_size is 255; allowed: 256 (the single bytes) or more"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="vocab_size is -1"):
        train_ranks({}, -1)


def test_an_existing_output_is_kept_unless_overwrite_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "o.model"
    output.write_text("mine")
    message = failure(capsys, "--data", DATA, "--output", output)
    assert message == f"{output}: the output exists; add --overwrite or give another --output"
    assert output.read_text() == "mine"
    assert main(["--data", str(DATA), "--output", str(output), "--overwrite"]) == 0
    assert load_encoder(output).num_ranks == 1024


def test_the_data_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_rows(tmp_path / "d.json", alpaca("a", "b"))
    before = data.read_bytes()
    message = failure(capsys, "--data", data, "--output", data, "--overwrite")
    assert message == f"{data}: the output would replace the data; give another --output"
    assert data.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"[]", "the file holds no rows"),
        (b"[1]", "the row is a JSON number"),
        (b'[{"instruction": "a"}]', "the alpaca row has no 'output'"),
        (b'[{"instruction": "a", "output": 3}]', "'output' is a int"),
        (b'[{"question": "a"}]', "a row with the keys question"),
        (b'[{"instruction": "a", "output": "b"}', "the file ends inside the array"),
        (b'[{"instruction": "\\ud800", "output": "b"}]', "half a surrogate pair"),
        ('[{"instruction": "é", "output": "b"}]'.encode("latin-1"), "not UTF-8"),
    ],
)
def test_wrong_data_is_one_line_that_names_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, reason: str
) -> None:
    data = tmp_path / "d.json"
    data.write_bytes(content)
    message = failure(capsys, "--data", data, "--output", tmp_path / "o.model")
    assert message.startswith(str(data))
    assert reason in message
    assert not (tmp_path / "o.model").exists()


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "none.json"
    message = failure(capsys, "--data", DATA, missing, "--output", tmp_path / "o.model")
    assert message == f"{missing}: cannot read: No such file or directory"
    with pytest.raises(DataError):
        read_texts(missing)
