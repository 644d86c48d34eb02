from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from mindformers.dataset import rows
from mindformers.dataset.rows import parse_row, read_rows
from mindformers.errors import DataError


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def values(path: Path) -> list:
    return [parse_row(row) for row in read_rows(path)]


def places(path: Path) -> list[str]:
    return [row.where.removeprefix(f"{path}:") for row in read_rows(path)]


def test_lines_keep_their_numbers_past_bom_crlf_and_blank_lines(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"a": 2}\n{"a": "\xe4\xbd\xa0"}'
    )
    assert values(path) == [{"a": 1}, {"a": 2}, {"a": "你"}]
    assert places(path) == ["1", "4", "5"]


def test_an_array_keeps_the_line_every_row_begins_on(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.json",
        b'\xef\xbb\xbf\n[\r\n  {"a": 1,\r\n   "b": "]}"}\r\n ,{"a": "\\"x"},\n{}]\n\n',
    )
    assert values(path) == [{"a": 1, "b": "]}"}, {"a": '"x'}, {}]
    assert places(path) == ["3", "5", "6"]
    assert values(written(tmp_path / "b.json", b" [ ] ")) == []


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_an_array_is_read_alike_whatever_the_read_buffer(
    tmp_path: Path, monkeypatch, chunk: int
) -> None:
    content = [{"a": i, "b": "x\n你" * i, "c": [i, {"d": -1.5e3}]} for i in range(20)]
    path = written(tmp_path / "a.json", json.dumps(content, ensure_ascii=False, indent=1).encode())
    expected = places(path)
    monkeypatch.setattr(rows, "_CHUNK_CHARS", chunk)
    assert values(path) == content
    assert places(path) == expected


@pytest.mark.parametrize(("data", "message"), [
    (b"[{}, {]", ":1: the array is no JSON: Expecting property name"),
    (b'[{}\n{"a": 1}]', ":2: '{' where , or ] is expected"),
    (b'[\n{"a": 1},\n', ":3: the array is no JSON: Expecting value"),
    (b'[\n{"a": 1}\n', ":3: the file ends inside the array"),
    (b'[{"a": 1}] {"b": 2}', ":1: '{' after the end of the array"),
    (b'[\n{"a": "x', ":2: the array is no JSON: Unterminated string"),
    (b'[\n{"a": "\xff"}]', "the file is not UTF-8 after line"),
    (b"[" + b"[" * 100_000 + b"]" * 100_000 + b"]", ":1: the row cannot be parsed: it is nested too deeply"),
    (b"", "the file is empty"),
    (b" \n\n", "the file is empty"),
    (b"\xef\xbb\xbf", "the file is empty"),
    ('{"a": 1}'.encode("utf-16"), "the file is UTF-16; allowed: UTF-8"),
])  # fmt: skip
def test_a_file_that_cannot_be_read_on_is_an_error_with_its_line(
    tmp_path: Path, data: bytes, message: str
) -> None:
    with pytest.raises(DataError) as caught:
        values(written(tmp_path / "a.json", data))
    assert f"a.json{message}" in str(caught.value).replace(": the file is", "the file is")


@pytest.mark.parametrize(("line", "message"), [
    (b'{"a": }', "the line is no JSON: Expecting value at column 7"),
    (b'{"a": 1} {"a": 2}', "the line is no JSON: Extra data at column 10"),
    (b'{"a": "\x00"}', "the line holds a NUL byte"),
    (b'{"a": "\xe4\xbd"}', "byte 8 of the line is not UTF-8"),
    (b'"text"', "the row is a JSON string; allowed: an object {...}"),
    (b"null", "the row is a JSON null"),
    (b"3", "the row is a JSON number"),
    (b'{"a": ' + b"9" * 5000 + b"}", "the line cannot be parsed: Exceeds the limit"),
    (b'{"a":' * 100_000, "the line cannot be parsed: it is nested too deeply"),
])  # fmt: skip
def test_a_line_that_is_no_row_is_named_and_the_next_one_read(
    tmp_path: Path, line: bytes, message: str
) -> None:
    path = written(tmp_path / "a.jsonl", b'{"a": 1}\n' + line + b'\n{"a": 3}\n')
    first, second, third = read_rows(path)
    with pytest.raises(DataError) as caught:
        parse_row(second)
    assert f"a.jsonl:2: {message}" in str(caught.value)
    assert [parse_row(first), parse_row(third)] == [{"a": 1}, {"a": 3}]


def test_an_overlong_line_is_skipped_without_being_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as stream:
        stream.write(b'{"a": 1}\n')
        for _ in range(50):
            stream.write(b"x" * 2**20)
        stream.write(b'\n{"a": 3}\n')
    tracemalloc.start()
    first, second, third = read_rows(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(second, DataError)
    assert "a.jsonl:2: the line is longer than 16 MiB" in str(second)
    assert (parse_row(first), parse_row(third), third.where) == ({"a": 1}, {"a": 3}, f"{path}:3")
    assert peak < 40 * 2**20


def test_a_long_array_is_read_in_constant_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with path.open("w") as stream:
        stream.write("[")
        for i in range(40_000):
            stream.write(("," if i else "") + json.dumps({"instruction": "x" * 300, "n": i}) + "\n")
        stream.write("]")
    tracemalloc.start()
    assert sum(parse_row(row)["n"] for row in read_rows(path)) == 40_000 * 39_999 // 2
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20 < path.stat().st_size


def test_every_byte_is_reported_for_the_progress_bar(tmp_path: Path) -> None:
    for name, data in (
        ("a.jsonl", '{"a": "你"}\n\n{}\n'.encode()),
        ("a.json", '[{"a": "你"}]\n'.encode()),
    ):
        path, counts = written(tmp_path / name, data), []
        list(read_rows(path, counts.append))
        assert sum(counts) == len(data)


def test_a_path_that_is_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none.jsonl: cannot read: No such file"):
        list(read_rows(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match="cannot read: Is a directory"):
        list(read_rows(tmp_path))
