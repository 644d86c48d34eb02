"""Ids back to text, whole and as a stream."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindformers.errors import TokenizerError
from mindformers.generation.decoding import open_decoder
from mindformers.tokenizer.bpe import BytePairEncoder
from mindformers.tokenizer.detokenize import DecodeRules, Detokenizer, StreamDecoder
from mindformers.tokenizer.special_tokens import AddedToken, SpecialTokens
from tests.support.vocab import tiny_tokens

ENCODER = BytePairEncoder(tiny_tokens())
N = ENCODER.num_ranks
TABLE = SpecialTokens(
    [AddedToken("[gMASK]", N), AddedToken("<sop>", N + 1), AddedToken("<think>", N + 2, False)]
)
DETOKENIZER = Detokenizer(ENCODER, TABLE)


def stream(ids, rules):
    decoder = StreamDecoder(DETOKENIZER, rules)
    return [decoder.put(i) for i in ids] + [decoder.flush()]


def test_special_tokens_are_surrounded_by_blanks_unless_told_otherwise():
    ids = [N, N + 1, *ENCODER.encode("An one")]
    assert DETOKENIZER.decode(ids, DecodeRules()) == "[gMASK] <sop> An one"
    tight = DecodeRules(spaces_between_special_tokens=False)
    assert DETOKENIZER.decode(ids, tight) == "[gMASK]<sop>An one"
    assert DETOKENIZER.decode(ids, DecodeRules(skip_special_tokens=True)) == "An one"
    between = [*ENCODER.encode("a"), N, *ENCODER.encode("b")]
    assert DETOKENIZER.decode(between, DecodeRules()) == "a [gMASK] b"
    assert DETOKENIZER.decode(between, DecodeRules(skip_special_tokens=True)) == "ab"


def test_a_marker_of_the_answer_is_text_and_never_skipped():
    ids = [N + 2, *ENCODER.encode("hm")]
    assert DETOKENIZER.decode(ids, DecodeRules(skip_special_tokens=True)) == "<think>hm"


@given(
    st.lists(st.integers(0, N + 2), max_size=30),
    st.booleans(),
    st.booleans(),
)
def test_the_parts_of_a_stream_joined_equal_the_whole(ids, skip, spaces):
    rules = DecodeRules(skip, spaces)
    assert "".join(stream(ids, rules)) == DETOKENIZER.decode(ids, rules)


@given(st.lists(st.integers(0, 255), max_size=30))
def test_any_bytes_decode_as_python_decodes_them(byte_ids):
    expected = bytes(byte_ids).decode("utf-8", "replace")
    assert DETOKENIZER.decode(byte_ids, DecodeRules()) == expected
    assert "".join(stream(byte_ids, DecodeRules())) == expected


@given(st.text())
def test_a_stream_of_single_bytes_never_shows_half_a_character(text):
    parts = stream(list(text.encode("utf-8")), DecodeRules())
    assert "".join(parts) == text
    assert "\ufffd" in text or not any("\ufffd" in part for part in parts)


def test_a_joined_emoji_arrives_character_by_character():
    ids = list("👩\u200d👧".encode())
    parts = stream(ids, DecodeRules())
    assert [part for part in parts if part] == ["👩", "\u200d", "👧"]


def test_what_is_left_of_a_character_comes_out_at_the_end_or_before_a_special_token():
    euro = list("€".encode())
    assert stream(euro[:2], DecodeRules())[-1] == "\ufffd"
    assert "".join(stream([*euro[:2], N], DecodeRules())) == "\ufffd [gMASK]"


def test_an_id_without_a_token_is_an_error_or_a_placeholder():
    with pytest.raises(TokenizerError, match=rf"id {N + 9}; allowed: 0 to {N + 2}; the model's"):
        DETOKENIZER.decode([1, N + 9], DecodeRules())
    with pytest.raises(TokenizerError, match="marks labels that are not learnt"):
        DETOKENIZER.decode([-100], DecodeRules())
    with pytest.raises(TokenizerError, match="a token id cannot be"):
        DETOKENIZER.decode([1.5], DecodeRules())
    shown = DecodeRules(errors="placeholder")
    assert DETOKENIZER.decode([97, N + 9], shown) == f"a <|unused_{N + 9}|>"
    skipped = DecodeRules(skip_special_tokens=True, errors="placeholder")
    assert DETOKENIZER.decode([97, N + 9], skipped) == "a"
    with pytest.raises(TokenizerError, match="'strict' or 'placeholder'"):
        DecodeRules(errors="ignore")


def test_numpy_integers_are_ids():
    assert stream([np.int32(104), np.int64(105)], DecodeRules()) == ["h", "i", ""]


def test_a_special_token_is_shown_among_those_left_out_where_it_is_asked_for(tiny):
    special = tiny.special_tokens
    ids = [special["[gMASK]"], 97, special["<|assistant|>"], 98, special["<|user|>"]]
    decoder = tiny.stream_decoder(True, False, shown=("<|assistant|>", "<unknown>"))
    assert "".join([*map(decoder.put, ids), decoder.flush()]) == "a<|assistant|>b"
    opened = open_decoder(tiny, skip_special_tokens=True, shown=("<|assistant|>",))
    assert "".join([*map(opened.put, ids), opened.flush()]) == "a<|assistant|>b"
