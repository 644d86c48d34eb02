"""JSON as Hugging Face's templates write it."""

from __future__ import annotations

import pytest

from mindformers.errors import TokenizerError
from mindformers.tokenizer.json_text import to_json


def test_keys_keep_their_order_and_nothing_is_escaped():
    value = {"z": "查询 <b>&'", "a": [1, 2.5, None, True]}
    assert to_json(value) == '{"z": "查询 <b>&\'", "a": [1, 2.5, null, true]}'
    assert to_json({"b": 1, "a": 2}, sort_keys=True) == '{"a": 2, "b": 1}'
    assert to_json({"a": "é"}, indent=4) == '{\n    "a": "é"\n}'
    assert to_json([1, 2], separators=(",", ":")) == "[1,2]"
    assert to_json("é", ensure_ascii=True) == '"\\u00e9"'


def test_an_indent_beyond_reason_and_a_value_json_has_no_form_for_are_refused():
    with pytest.raises(TokenizerError, match="at most 16"):
        to_json({}, indent=10**9)
    with pytest.raises(TokenizerError, match="cannot be written as JSON"):
        to_json({"a": {1, 2}})
