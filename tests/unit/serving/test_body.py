"""What of a body is refused before it is parsed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers.serving.body import MAX_PARTS, check_json_bytes
from mindformers.serving.errors import ApiError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)


def depth(value: object) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


def passes(body: bytes, most: int) -> bool:
    try:
        check_json_bytes(body, most)
    except ApiError:
        return False
    return True


@settings(deadline=None)
@given(VALUES, st.booleans())
def test_json_passes_exactly_when_it_is_not_too_deep(value: object, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert passes(body, max(depth(value), 1))
    if depth(value) > 1:
        assert not passes(body, depth(value) - 1)


@pytest.mark.parametrize(
    ("body", "fits"),
    [
        (b'{"a": "[[[[[[{{{{"}', True),
        (b'{"a": "\\"[[[[[["}', True),
        (b'{"a": "\\\\", "b": [[[[]]]]}', False),
        (b'{"]]]]": [[[[]]]]}', False),
        (b'["[[[[[[', True),  # no JSON, as its parser will say
        (b"[[[[[[", False),
        (b'{"a":\0}', False),
    ],
)
def test_brackets_in_texts_do_not_count(body: bytes, fits: bool) -> None:
    assert passes(body, 3) == fits


def test_lists_and_objects_are_counted() -> None:
    for parts in (b"[]", b"{}"):
        assert passes(b"[" + b",".join([parts] * (MAX_PARTS - 1)) + b"]", 3)
        assert not passes(b"[" + b",".join([parts] * MAX_PARTS) + b"]", 3)
