"""Stop strings are found wherever token borders lie, and never shown."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindformers.generation.config import GenerationConfig
from mindformers.generation.decoding import open_decoder
from mindformers.generation.stopping import (
    StopRules,
    StopStrings,
    StopTextScanner,
    stray_eos_ids,
)
from tests.support.generation import ByteTokenizer


class Words:
    """A decoder of whole texts: id n is the n-th text."""

    def __init__(self, texts):
        self.texts = texts

    def put(self, token_id):
        return self.texts[token_id]

    def flush(self):
        return ""


def scan(strings, texts):
    """Return (ids shown, text shown before the end, is a stop string found, tokens read)."""
    scanner, shown = StopTextScanner(StopStrings(strings), Words(texts)), []
    for number in range(len(texts)):
        shown += scanner.put(number)
        if scanner.is_matched:
            return shown, scanner, number + 1
    return shown + scanner.flush(), scanner, len(texts)


def test_an_end_token_gives_stop_and_the_tool_token_gives_tool_calls():
    rules = StopRules(GenerationConfig(eos_token_id=[7, 8]), tool_call_token_id=8)
    assert [rules.reason_of(token) for token in (6, 7, 8)] == ["", "stop", "tool_calls"]
    chosen = GenerationConfig(eos_token_id=[7, 8], tool_call_token_id=7)
    assert StopRules(chosen, tool_call_token_id=8).reason_of(7) == "tool_calls"
    assert StopRules(GenerationConfig(), tool_call_token_id=8).reason_of(8) == ""


def test_end_tokens_the_model_cannot_give_are_listed():
    assert stray_eos_ids([151329, 2, 99], 100) == [151329]


def test_a_stop_string_across_tokens_is_cut_inside_the_token_it_begins_in():
    shown, scanner, read = scan(["END"], ["ab", "cE", "N", "Dxy", "z"])
    assert (shown, scanner.last_text, scanner.text, read) == ([0], "c", "abc", 4)


def test_only_a_possible_beginning_is_held_back():
    scanner = StopTextScanner(StopStrings(["<stop>"]), Words(["a <", "st", "ep", " <", "stop>"]))
    assert [scanner.put(n) for n in range(4)] == [[], [], [0, 1, 2], []]
    assert scanner.text == "a <step"
    assert scanner.put(4) == []
    assert (scanner.is_matched, scanner.last_text, scanner.text) == (True, " ", "a <step ")


def test_an_answer_that_ends_otherwise_shows_what_was_held_back():
    shown, scanner, _ = scan(["\nUser:"], ["hi", "\nUs", "er"])
    assert (shown, scanner.is_matched, scanner.text) == ([0, 1, 2], False, "hi\nUser")


def test_the_longest_string_that_ends_at_a_place_is_cut():
    _, scanner, _ = scan(["cd", "bcd", "d"], ["abcd"])
    assert scanner.text == "a"


def test_a_string_that_failed_can_hide_the_beginning_of_another():
    _, scanner, read = scan(["aab", "abx"], ["a", "a", "a", "b"])
    assert (scanner.text, read) == ("a", 4)


def test_half_characters_wait_so_that_a_chinese_stop_string_leaks_no_byte():
    tokenizer = ByteTokenizer()
    scanner = StopTextScanner(StopStrings(["停"]), open_decoder(tokenizer))
    shown = [scanner.put(byte) for byte in "好停".encode()]
    assert shown == [[], [], list("好".encode()), [], [], []]
    assert (scanner.is_matched, scanner.text, scanner.last_text) == (True, "好", "")


@given(
    st.text("abc", min_size=1, max_size=30),
    st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=4),
    st.data(),
)
def test_where_tokens_are_split_changes_nothing(text, strings, data):
    ends = [text[:n] for n in range(1, len(text) + 1)]
    first = next((e for e in ends if any(e.endswith(s) for s in strings)), None)
    expected = text
    if first is not None:
        expected = first[: len(first) - max(len(s) for s in strings if first.endswith(s))]
    cuts = data.draw(st.sets(st.integers(1, len(text))))
    borders = [0, *sorted(cuts - {len(text)}), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(borders)]
    shown, scanner, read = scan(strings, pieces)
    assert scanner.is_matched == (first is not None)
    assert scanner.text == expected
    assert "".join(pieces[n] for n in shown) + scanner.last_text == expected
    assert shown == sorted(set(shown))
    assert read == len(pieces) or sum(map(len, pieces[:read])) >= len(first or "")


@pytest.mark.timeout(20)
def test_many_stop_strings_cost_no_more_per_character():
    strings = [f"stop number {n}" for n in range(3_000)]
    scanner = StopTextScanner(StopStrings(strings), Words(["x" * 50_000, "stop number 29"]))
    np.testing.assert_equal(scanner.put(0), [0])
    scanner.put(1)
    assert scanner.is_matched
    assert scanner.text == "x" * 50_000
