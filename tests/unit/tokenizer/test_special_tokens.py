"""The table of special tokens."""

from __future__ import annotations

import pytest

from mindformers.errors import TokenizerError
from mindformers.tokenizer.special_tokens import (
    AddedToken,
    Segment,
    SpecialTokens,
    build_special_tokens,
)


def test_ids_begin_at_the_number_of_ranks_and_follow_the_order():
    table = build_special_tokens(300, ["<a>", "<b>"])
    assert {text: token.id for text, token in table.by_text.items()} == {"<a>": 300, "<b>": 301}


def test_declared_tokens_keep_their_ids_and_new_ones_come_after():
    declared = {
        "300": {"content": "<a>", "special": True},
        "303": {"content": "<think>", "special": False},
    }
    table = build_special_tokens(300, ["<a>"], declared, ["<new>", "<a>"])
    assert [(t.content, t.id, t.special) for t in table.by_id.values()] == [
        ("<a>", 300, True),
        ("<think>", 303, False),
        ("<new>", 304, True),
    ]


def test_split_prefers_the_longest_token_and_loses_nothing():
    table = SpecialTokens([AddedToken("<a>", 0), AddedToken("<a>b", 1)])
    segments = list(table.split("x<a>b<a><a"))
    assert segments == [
        Segment("x", False),
        Segment("<a>b", True),
        Segment("<a>", True),
        Segment("<a", False),
    ]


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"301": {"content": "<a>"}}, "gives '<a>' the id 301, but with the 300 ranks"),
        ({"7": {"content": "<x>"}}, "has the id 7, which is an ordinary token's"),
        ({"300": {"content": "<x>"}}, "'<x>' with id 300 collides with '<a>'"),
        ({"x": {"content": "<x>"}}, "added_tokens_decoder has 'x'"),
        ({"301": {"text": "<x>"}}, "added_tokens_decoder has '301'"),
        ({"301": {"content": ""}}, "has no text"),
    ],
)
def test_a_table_that_does_not_fit_the_vocabulary_is_refused(declared, message):
    with pytest.raises(TokenizerError, match=message):
        build_special_tokens(300, ["<a>"], declared)
