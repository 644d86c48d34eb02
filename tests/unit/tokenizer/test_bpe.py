"""The byte-pair encoder against plain tiktoken, and every way a rank file can be wrong."""

from __future__ import annotations

import json
import os
import pickle
from base64 import b64encode

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers.errors import TokenizerError
from mindformers.tokenizer import bpe, rank_file
from mindformers.tokenizer.bpe import SPLIT_PATTERN, BytePairEncoder, load_encoder
from mindformers.tokenizer.rank_file import read_rank_file
from tests.support.shared import shared_file
from tests.support.vocab import tiny_tokens

TINY = BytePairEncoder(tiny_tokens())
PUBLISHED_SHA256 = "5a493598071550244b2ee7f26118f3edec2150b9dfa967929a99052ac83fe716"


def rank_lines(tokens):
    return [f"{b64encode(token).decode()} {rank}" for rank, token in enumerate(tokens)]


def write(tmp_path, lines, end="\n"):
    path = tmp_path / "tokenizer.model"
    path.write_bytes((end.join(lines) + end).encode())
    return path


def plain_tiktoken(tokens):
    ranks = {token: rank for rank, token in enumerate(tokens)}
    return tiktoken.Encoding("x", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={})


@given(st.text())
def test_every_text_comes_back_unchanged(text):
    assert TINY.decode(TINY.encode(text)).decode("utf-8") == text


@given(st.text(alphabet="aé中😀 \n\r\t'1<|>[]", max_size=40))
def test_texts_of_seams_come_back_unchanged(text):
    assert TINY.decode(TINY.encode(text)).decode("utf-8") == text


def test_ids_equal_plain_tiktoken_on_real_rows():
    encoder = load_encoder(shared_file("data/glm4_tokenizer.model"))
    reference = plain_tiktoken(encoder.tokens)
    alpaca = json.loads(shared_file("data/alpaca_en_demo.json").read_text(encoding="utf-8"))
    glaive = json.loads(
        shared_file("data/glaive_toolcall_en_demo.json").read_text(encoding="utf-8")
    )
    texts = [row[key] for row in alpaca for key in ("instruction", "input", "output")]
    texts += [json.dumps(row, ensure_ascii=False) for row in glaive]
    assert len(texts) == 999 * 3 + 300
    expected = [reference.encode_ordinary(text) for text in texts]
    assert [encoder.encode(text) for text in texts] == expected
    assert all(
        encoder.decode(ids).decode() == text for ids, text in zip(expected, texts, strict=True)
    )


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello world", [9703, 1879]),
        ("你好世界", [109377, 99011]),
        ("1234567890", [108714, 100461, 21, 100928, 24, 15]),
    ],
)
def test_published_vocabulary_gives_the_published_ids(text, ids):
    encoder = load_encoder(shared_file("data/glm4_tokenizer.model"))
    assert encoder.encode(text) == ids
    assert encoder.num_ranks == 151329
    assert encoder.sha256 == PUBLISHED_SHA256


@pytest.mark.parametrize("run", [" ", "\n", "\t", "\u3000"])
def test_a_long_run_of_blanks_is_encoded_as_the_backend_would(run, monkeypatch):
    text = f"a{run * 3000}b{run * 700}\n{run * 500}"
    expected = plain_tiktoken(tiny_tokens()).encode_ordinary(text)
    monkeypatch.setattr(bpe, "_has_long_blank", lambda text: True)
    assert TINY.encode(text) == expected


@given(st.text(alphabet="aB1中. \n\r\t\u3000'", max_size=60))
@settings(max_examples=200)
def test_the_piecewise_path_equals_the_backend(text):
    assert TINY._encode_piecewise(text) == TINY.encode(text)


def test_a_million_blanks_do_not_break_the_backend():
    text = " " * 1_000_000 + "x"
    assert TINY.decode(TINY.encode(text)).decode() == text


def test_a_lone_surrogate_is_an_error_that_says_where():
    with pytest.raises(TokenizerError, match=r"lone surrogate U\+D83D at character 2"):
        TINY.encode("ab\ud83d")


def test_decode_names_the_rank_it_does_not_know():
    for bad in (TINY.num_ranks, -1, 2**40):
        with pytest.raises(
            TokenizerError, match=rf"rank {bad}; allowed: 0 to {TINY.num_ranks - 1}"
        ):
            TINY.decode([1, bad])


def test_an_unchanged_file_is_parsed_once_and_a_changed_one_again(tmp_path):
    path = write(tmp_path, rank_lines(tiny_tokens()))
    first = load_encoder(path)
    assert load_encoder(path) is first
    write(tmp_path, rank_lines(tiny_tokens()[:-1]))
    os.utime(path, ns=(1, 1))
    assert load_encoder(path).num_ranks == first.num_ranks - 1


def test_line_ends_do_not_change_the_vocabulary_or_its_hash(tmp_path):
    path = write(tmp_path, rank_lines(tiny_tokens()), end="\r\n")
    assert load_encoder(path).sha256 == TINY.sha256
    assert TINY.rank_file.decode().splitlines() == rank_lines(tiny_tokens())


def test_ranks_may_stand_in_any_order(tmp_path):
    path = write(tmp_path, rank_lines(tiny_tokens())[::-1])
    assert read_rank_file(path).tokens == tiny_tokens()


def test_an_encoder_survives_pickling():
    assert pickle.loads(pickle.dumps(TINY)).encode("Hello 世界") == TINY.encode("Hello 世界")


LINES = rank_lines(tiny_tokens())
FAULTS = {
    "blank line": ([*LINES[:5], "", *LINES[5:]], ":6: blank line"),
    "bad base64": ([*LINES[:5], "QQ= 5", *LINES[6:]], ":6: 'QQ= 5' is not 'base64 rank'"),
    "no rank": ([*LINES[:5], "BQ==", *LINES[6:]], ":6: 'BQ==' is not 'base64 rank'"),
    "negative rank": ([*LINES[:5], "BQ== -5", *LINES[6:]], ":6: 'BQ== -5' is not"),
    "two blanks": ([*LINES[:5], "BQ==  5", *LINES[6:]], ":6: 'BQ==  5' is not"),
    "loose bits": ([*LINES[:5], "BR== 5", *LINES[6:]], ":6: 'BR== 5' is not"),
    "empty token": ([*LINES[:5], " 5", *LINES[6:]], ":6: ' 5' is not"),
    "double token": ([*LINES, f"{LINES[7].split()[0]} {len(LINES)}"], "has two ranks, 7 and"),
    "double rank": ([*LINES[:-1], LINES[-1].split()[0] + " 9"], "rank 9 is given twice"),
    "gap": ([*LINES[:-1], LINES[-1].split()[0] + " 99999"], "rank 99999 in a file of"),
    "missing byte": (rank_lines([t for t in tiny_tokens() if t != b"\n"]), "0x0a"),
    "empty": ([], "is not 'base64 rank'|empty|blank"),
    "json": (['{"version": "1.0"}'], "JSON or a web page"),
    "html": (["<!DOCTYPE html>"], "JSON or a web page"),
    "lfs": (["version https://git-lfs.github.com/spec/v1", "oid sha256:1"], "Git LFS pointer"),
    "binary": (["\x00\x01"], "a binary file"),
    "sentencepiece": (["\n\x0e\n\x05<unk>\x15\x00\x00\x00"], "SentencePiece model"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_rank_file_is_refused_with_file_and_reason(fault, tmp_path):
    lines, message = FAULTS[fault]
    path = write(tmp_path, lines)
    with pytest.raises(TokenizerError, match=message) as caught:
        load_encoder(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_a_missing_and_a_huge_file_and_a_folder_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "tokenizer.model"
    with pytest.raises(TokenizerError, match="cannot be read"):
        load_encoder(path)
    path.touch()
    with pytest.raises(TokenizerError, match="is empty"):
        load_encoder(path)
    with pytest.raises(TokenizerError, match="is a folder"):
        load_encoder(tmp_path)
    monkeypatch.setattr(rank_file, "MAX_FILE_BYTES", 100)
    write(tmp_path, LINES)
    with pytest.raises(TokenizerError, match="larger than"):
        load_encoder(path)
