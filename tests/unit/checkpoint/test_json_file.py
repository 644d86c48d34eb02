from __future__ import annotations

import pytest

from mindformers.checkpoint import json_file
from mindformers.checkpoint.json_file import read_json, write_json
from mindformers.errors import TokenizerError


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{\n"a": 1,\n}', r"x.json:3: is not JSON"),
        (b"[1]", "holds a list; allowed: one JSON object"),
        (b"\xff\xfe{}", "is not UTF-8 text"),
        (b'{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_a_file_that_is_no_json_object_is_refused_with_its_line(content, message, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=message):
        read_json(path, TokenizerError)


def test_a_byte_order_mark_is_fine_and_a_missing_or_huge_file_is_not(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    with pytest.raises(TokenizerError, match="cannot be read"):
        read_json(path, TokenizerError)
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(path, TokenizerError) == {"a": 1}
    monkeypatch.setattr(json_file, "MAX_JSON_BYTES", 3)
    with pytest.raises(TokenizerError, match="is larger than"):
        read_json(path, TokenizerError)


def test_what_is_written_is_readable_and_read_back(tmp_path):
    content = {"name": "中文", "ids": [1, 2]}
    path = write_json(tmp_path / "x.json", content)
    assert read_json(path) == content
    assert '"name": "中文"' in path.read_text(encoding="utf-8")
