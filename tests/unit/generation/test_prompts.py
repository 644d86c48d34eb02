"""Padding is told from content by written rules."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mindformers.errors import GenerationError
from mindformers.generation.prompts import answer_limits, check_prompts, prepare_prompts

PAD = 9
CUT = "more than the 8 tokens the model holds, so the answer is cut to 6 tokens"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([1, 2, 3], [[1, 2, 3]]),
        (np.array([1, 2], np.int64), [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        ([[1, 9], [3, 9, 9], [4]], [[1, 9], [3, 9, 9], [4]]),  # ragged: nothing is padding
        ([[9, 9, 1], [1, 2, 3]], [[1], [1, 2, 3]]),  # left
        ([[1, 9, 9], [1, 2, 3]], [[1], [1, 2, 3]]),  # right
        ([[1, 9], [1, 2]], [[1], [1, 2]]),
        ([[9, 9, 1], [9, 2, 9]], [[1], [2, 9]]),  # left-padded, so the last id is content
        ([1, 2, 9], [[1, 2, 9]]),  # one pad id alone is the prompt's own end
        ([[1, 2, 9], [4, 9, 9]], [[1, 2], [4]]),
        ([[1, 2, 9], [4, 5, 9]], [[1, 2, 9], [4, 5, 9]]),
        ([1, 2, 9, 9, 9], [[1, 2]]),  # filled up to a fixed length
        ([9, 1, 2], [[9, 1, 2]]),
        ([9, 9, 1, 2], [[1, 2]]),
        ([1, 9, 9, 2], [[1, 9, 9, 2]]),  # inside a prompt nothing is padding
    ],
)
def test_padding_rules(rows, expected):
    assert prepare_prompts(rows, PAD) == expected
    if isinstance(rows, list) and len({np.size(row) for row in rows}) == 1:
        assert prepare_prompts(np.array(rows, np.int32), PAD) == expected


def test_without_a_pad_id_nothing_is_removed():
    assert prepare_prompts([[9, 9, 1]]) == [[9, 9, 1]]


def test_an_attention_mask_is_exact():
    ids = np.array([[9, 9, 1, 9], [1, 2, 9, 9]])
    assert prepare_prompts(ids, PAD, [[0, 0, 1, 1], [1, 1, 1, 0]]) == [[1, 9], [1, 2, 9]]
    assert prepare_prompts([5, 6], None, np.array([True, False])) == [[5]]


def test_tensors_are_taken_by_their_asnumpy():
    tensor = SimpleNamespace(asnumpy=lambda: np.array([[1, 2], [9, 3]]))
    assert prepare_prompts(tensor, PAD) == [[1, 2], [3]]
    assert prepare_prompts([tensor.asnumpy()[0], SimpleNamespace(
        asnumpy=lambda: np.array([4]), __len__=lambda: 1)][:1], PAD) == [[1, 2]]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("hello", "input_ids: found a text;.*encode text with the tokenizer"),
        (["hello"], "found a text"),
        (None, "found None"),
        ([1.5], "found values of type float64"),
        ([True], "found values of type bool"),
        ([[[1]]], "found an array of 2 axes"),
        (np.zeros((1, 1, 1), int), "found an array of 3 axes"),
        ([1, [2]], "ids and lists side by side"),
        ([], "prompt 0: is empty"),
        ([[1], []], "prompt 1: is empty"),
        ([[9, 9], [1, 2]], "prompt 0: holds only the pad id 9"),
        (10**30, "found 1000000"),
        ([10**30], "found values of type object"),
    ],
)
def test_what_is_no_prompt_is_refused(values, message):
    with pytest.raises(GenerationError, match=message):
        prepare_prompts(values, PAD)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([[1, 1]], r"attention_mask: row lengths \[2\]; allowed: those of input_ids: \[3\]"),
        ([[1, 2, 1]], "attention_mask: found 2; allowed: 1 for a token, 0 for padding"),
        ([[0, 0, 0]], "prompt 0: is empty or holds only padding"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask, message):
    with pytest.raises(GenerationError, match=message):
        prepare_prompts([[1, 2, 3]], PAD, mask)


def test_ids_outside_the_vocabulary_are_named_with_their_place():
    assert check_prompts([[0, 9]], 10, 5) == [[0, 9]]
    for bad in (10, -1):
        with pytest.raises(
            GenerationError, match=f"prompt 1: id {bad} at place 2; allowed: 0 to 9"
        ):
            check_prompts([[1], [1, 2, bad]], 10, 5)


def test_a_prompt_that_fills_the_model_is_refused_with_both_numbers():
    with pytest.raises(GenerationError, match=r"prompt 0: has 5 tokens .*the model holds 5 in all"):
        check_prompts([[1] * 5], 10, 5)


@pytest.mark.parametrize(
    ("new", "longest", "limits", "note"),
    [
        (3, 20, [5, 4], ""),
        (None, 6, [6, 6], ""),
        (7, 20, [8, 8], f"prompt 0 of 2 tokens and max_new_tokens 7: {CUT}"),
        (10**12, 20, [8, 8], f"prompt 0 of 2 tokens and max_new_tokens 1000000000000: {CUT}"),
        (None, 9, [8, 8], f"max_length 9: {CUT}"),
    ],
)
def test_limits_are_clipped_with_a_note(new, longest, limits, note):
    assert answer_limits([[1, 2], [3]], new, longest, 8) == (limits, note)


def test_a_max_length_below_the_prompt_is_refused_with_both_numbers():
    with pytest.raises(
        GenerationError, match=r"prompt 0: has 2 tokens .* max_length 2 counts both"
    ):
        answer_limits([[1, 2]], None, 2, 8)
