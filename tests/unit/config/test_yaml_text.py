import json
import logging
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindformers.config.yaml_text import parse_yaml, resolve_scalar
from mindformers.errors import ConfigError

# https://yaml.org/spec/1.2.2/#103-core-schema, and the text None of Python users.
SCALARS = {
    "": None, "~": None, "null": None, "NULL": None, "None": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False,
    "1": 1, "-3": -3, "+4": 4, "010": 10, "0o17": 15, "0xff": 255,
    "1e-6": 1e-6, "1.e-6": 1e-6, "1E+3": 1000.0, "1.": 1.0, ".5": 0.5, "1.5625e-07": 1.5625e-07,
    "yes": "yes", "no": "no", "on": "on", "off": "off", "y": "y", "none": "none", "NONE": "NONE",
    "1_000": "1_000", "1:30": "1:30", "2024-01-01": "2024-01-01", "0b11": "0b11", "e5": "e5",
    "58GB": "58GB", "1e": "1e", ".": ".", "-": "-", "tRue": "tRue",
}  # fmt: skip


@pytest.mark.parametrize(("text", "value"), SCALARS.items())
def test_a_plain_scalar_has_its_yaml_1_2_value(text, value):
    found = resolve_scalar(text)
    assert found == value
    assert type(found) is type(value)


def test_infinity_and_not_a_number_have_the_yaml_spelling():
    assert resolve_scalar(".inf") == math.inf
    assert resolve_scalar("-.Inf") == -math.inf
    assert math.isnan(resolve_scalar(".nan"))
    assert resolve_scalar("inf") == "inf"


def test_a_number_of_too_many_digits_stays_text():
    assert resolve_scalar("9" * 10_000) == "9" * 10_000


def test_quoted_scalars_are_text():
    assert parse_yaml("a: '1'\nb: \"None\"\nc: |\n  true\n", "f")[0] == {
        "a": "1",
        "b": "None",
        "c": "true\n",
    }


def test_none_is_read_as_null_with_one_hint(caplog):
    with caplog.at_level(logging.INFO, logger="mindformers"):
        assert parse_yaml("a: 1\nb: None\nc: None\n", "f.yaml")[0] == {"a": 1, "b": None, "c": None}
    assert [record.getMessage() for record in caplog.records] == [
        "f.yaml:2: None is read as null; write null"
    ]


def test_every_key_path_has_its_line():
    text = "a:\n  b: 1\n  c:\n    - x\n    - d: 2\ne: [1,\n  2]\n"
    _, positions = parse_yaml(text, "f")
    assert positions == {
        ("a",): ("f", 1), ("a", "b"): ("f", 2), ("a", "c"): ("f", 3), ("a", "c", 0): ("f", 4),
        ("a", "c", 1): ("f", 5), ("a", "c", 1, "d"): ("f", 5), ("e",): ("f", 6), ("e", 0): ("f", 6),
        ("e", 1): ("f", 7),
    }  # fmt: skip


def test_an_alias_is_a_copy_that_keeps_the_lines_of_its_anchor():
    data, positions = parse_yaml("a: &x\n  b: [1]\nc: *x\n", "f")
    data["a"]["b"].append(2)
    assert data["c"] == {"b": [1]}
    assert positions[("c",)] == ("f", 3)
    assert positions[("c", "b")] == ("f", 2)


def test_an_anchor_can_be_set_again_and_aliases_take_the_last_one():
    assert parse_yaml("a: &x 1\nb: &x 2\nc: *x", "f")[0]["c"] == 2


def test_merge_keys_lie_below_the_own_keys():
    data, _ = parse_yaml(
        "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc:\n  z: 3\n  <<: [*a, *b]\n", "f"
    )
    assert data["c"] == {"x": 1, "y": 1, "z": 3}


def test_keys_are_text_whatever_they_look_like():
    assert parse_yaml("1: a\ntrue: b\nnull: c", "f")[0] == {"1": "a", "true": "b", "null": "c"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(blacklist_categories=("Cs", "Cc", "Cn", "Co")), max_size=20),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.text(st.characters(whitelist_categories=("L", "N")), min_size=1, max_size=8), inner,
        max_size=4,
    ),
    max_leaves=15,
)  # fmt: skip


@given(JSON)
def test_json_is_yaml_of_the_same_value(value):
    text = json.dumps({"key": value}, ensure_ascii=False)
    text = text.replace("\u2028", "").replace("\u2029", "").replace("\ufeff", "")
    assert parse_yaml(text, "f")[0] == json.loads(text)


@given(st.text(max_size=60))
def test_any_text_is_a_value_or_a_config_error(text):
    message = ""
    try:
        parse_yaml(text, "f")
    except ConfigError as error:
        message = str(error)
    assert "\n" not in message
