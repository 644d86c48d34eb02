"""Truncation, padding, arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindformers.errors import TokenizerError
from mindformers.tokenizer.batch import (
    BatchEncoding,
    Padder,
    as_encoding,
    as_rows,
    truncate_behind,
    truncate_pair,
)
from mindformers.tokenizer.options import NO_LIMIT, EncodeOptions

ROWS = [
    {"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1], "position_ids": [0, 1, 2]},
    {"input_ids": [8], "attention_mask": [1], "position_ids": [0]},
]


def pad(side, limit=NO_LIMIT, **options):
    return Padder(9, side, limit).pad(ROWS, EncodeOptions.parse(options))


def test_left_padding_puts_ids_mask_and_positions_at_the_end():
    assert pad("left", padding=True)[1] == {
        "input_ids": [9, 9, 8],
        "attention_mask": [0, 0, 1],
        "position_ids": [0, 0, 0],
    }


def test_right_padding_puts_them_at_the_start_and_rounds_up():
    assert pad("right", padding="longest", pad_to_multiple_of=4)[0] == {
        "input_ids": [5, 6, 7, 9],
        "attention_mask": [1, 1, 1, 0],
        "position_ids": [0, 1, 2, 0],
    }


def test_max_length_pads_shorter_rows_and_leaves_longer_ones():
    assert [len(r["input_ids"]) for r in pad("left", padding="max_length", max_length=2)] == [3, 2]
    assert [len(r["input_ids"]) for r in pad("left", 6, padding="max_length")] == [6, 6]
    with pytest.raises(TokenizerError, match="padding='max_length' without a max_length"):
        pad("left", padding="max_length")


def test_a_call_may_choose_its_own_side():
    assert pad("left", padding=True, padding_side="right")[1]["input_ids"] == [8, 9, 9]


def one_by_one(first, second, count):
    """Hugging Face's rule, slowly: take from the longer, from the second when both are equal."""
    first, second = list(first), list(second)
    for _ in range(count):
        (first if len(first) > len(second) else second).pop()
    return first, second


@given(st.integers(0, 8), st.integers(0, 8), st.data())
def test_longest_first_cuts_one_by_one_from_the_longer(a, b, data):
    count = data.draw(st.integers(0, a + b))
    first, second = list(range(a)), list(range(100, 100 + b))
    cut = truncate_pair(first, second, count, "longest_first", "right")
    assert cut == one_by_one(first, second, count)


def test_only_first_and_only_second_cut_one_list_from_the_side_asked_for():
    assert truncate_pair([1, 2, 3], [4], 2, "only_first", "left") == ([3], [4])
    assert truncate_pair([1], [4, 5, 6], 2, "only_second", "right") == ([1], [4])
    with pytest.raises(TokenizerError, match="cannot remove 2 tokens"):
        truncate_pair([1], [4, 5, 6], 2, "only_first", "right")


def test_the_prefix_is_never_cut():
    assert truncate_behind([1, 2], [1, 2, 3, 4, 5], 3, "left") == [1, 2, 5]
    assert truncate_behind([1, 2], [1, 2, 3, 4, 5], 3, "right") == [1, 2, 3]
    assert truncate_behind([1, 2], [3, 4, 5], 1, "left") == [5]
    with pytest.raises(TokenizerError, match="no room for the 2 tokens"):
        truncate_behind([1, 2], [1, 2, 3], 1, "left")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paddin": True}, "unknown argument 'paddin'; did you mean 'padding'"),
        ({"padding": "longst"}, "padding='longst'.*did you mean 'longest'"),
        ({"truncation": "first"}, "truncation='first'; allowed: True, False, longest_first"),
        ({"max_length": 0}, "max_length=0; allowed: an integer of at least 1"),
        ({"max_length": True}, "max_length=True"),
        ({"pad_to_multiple_of": 1.5}, "pad_to_multiple_of=1.5"),
        ({"padding_side": "top"}, "'left' or 'right'"),
        ({"return_offsets_mapping": True}, "return_offsets_mapping=True is not available"),
        ({"stride": 3}, "stride=3 is not available; allowed: 0"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused(options, message):
    with pytest.raises(TokenizerError, match=message):
        EncodeOptions.parse(options)


def test_a_maximal_length_alone_cuts_and_with_padding_does_not():
    assert EncodeOptions.parse({"max_length": 3}).truncation == "longest_first"
    padded = EncodeOptions.parse({"max_length": 3, "padding": "max_length"})
    assert padded.truncation == "do_not_truncate"


def test_an_encoding_is_a_dict_with_attributes():
    encoding = BatchEncoding(input_ids=[1])
    assert encoding.input_ids == encoding["input_ids"] == encoding.data["input_ids"] == [1]
    with pytest.raises(AttributeError, match="has input_ids, not 'labels'"):
        _ = encoding.labels


def test_arrays_are_int32_with_a_batch_axis():
    array = as_encoding(ROWS[:1], False, "np")["input_ids"]
    assert array.dtype == np.int32
    assert array.tolist() == [[5, 6, 7]]
    with pytest.raises(TokenizerError, match="rows of 1 to 3 tokens make no array"):
        as_encoding(ROWS, True, "np")
    with pytest.raises(TokenizerError, match="return_tensors='pt'; allowed: None, 'np' or 'ms'"):
        as_encoding(ROWS, True, "pt")


def test_rows_come_from_columns_lists_and_arrays():
    columns = {"input_ids": [[1, 2], [3]], "attention_mask": [[1, 1], [1]]}
    assert as_rows(columns)[0][1] == {"input_ids": [3], "attention_mask": [1]}
    assert as_rows({"input_ids": np.array([1, 2])}) == ([{"input_ids": [1, 2]}], False)
    assert as_rows([{"input_ids": (1, 2)}])[0] == [{"input_ids": [1, 2]}]
    with pytest.raises(TokenizerError, match="has no input_ids"):
        as_rows([{"ids": [1]}])
