"""JSON as Hugging Face's templates write it."""

from __future__ import annotations

import pytest

from mindformers.errors import TokenizerError
from mindformers.tokenizer import json_text
from mindformers.tokenizer.json_text import read_json_object, to_json


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{\n"a": 1,\n}', r"x.json:3: is not JSON"),
        (b"[1]", "holds a JSON list; allowed: an object"),
        (b"\xff\xfe{}", "is not UTF-8 text"),
        (b'{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_a_file_that_is_no_json_object_is_refused_with_its_line(content, message, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=message):
        read_json_object(path)


def test_a_byte_order_mark_is_fine_and_a_missing_or_huge_file_is_not(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    with pytest.raises(TokenizerError, match="cannot be read"):
        read_json_object(path)
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json_object(path) == {"a": 1}
    monkeypatch.setattr(json_text, "MAX_JSON_BYTES", 3)
    with pytest.raises(TokenizerError, match="is larger than"):
        read_json_object(path)
