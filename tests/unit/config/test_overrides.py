import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindformers.config.loader import Document
from mindformers.config.overrides import (
    Patch,
    apply_patches,
    parse_option_value,
    parse_value,
    patches_from_arguments,
    patches_from_options,
)
from mindformers.errors import ConfigError

VALUES = {
    "True": True, "False": False, "true": True, "None": None, "null": None, "3": 3, "-3": -3,
    "1.0": 1.0, "1e3": 1000.0, "1e-6": 1e-6, "inf": "inf", "": "", "[1,2]": [1, 2],
    "[a, b]": ["a", "b"], '{"a": 1, "b": [true]}': {"a": 1, "b": [True]}, '"1"': "1", "'None'": "None",
    "a=b": "a=b", "58GB": "58GB", "./out": "./out", "a,b": "a,b", "yes": "yes", " 1": " 1",
    "[gMASK] hello": "[gMASK] hello", "{% if x %}": "{% if x %}", '"': '"', "中文": "中文",
}  # fmt: skip


@pytest.mark.parametrize(("text", "value"), VALUES.items())
def test_an_argument_has_the_value_it_has_in_yaml(text, value):
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    {
        "True": True, "1,2": [1, 2], "a, b": ["a", "b"], "(1,2)": [1, 2], "[1,2]": [1, 2],
        "0.9,1e-3": [0.9, 1e-3], '"a,b"': "a,b", "x": "x", "": "",
    }.items(),
)  # fmt: skip
def test_options_read_lists_with_commas(text, value):
    assert parse_option_value(text) == value


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False,
       allow_infinity=False), lambda inner: st.lists(inner, max_size=3), max_leaves=6))  # fmt: skip
def test_json_arguments_keep_their_value(value):
    assert parse_value(json.dumps(value)) == value


def test_both_spellings_of_an_override_are_read():
    found = patches_from_arguments(
        ["--a.b", "1", "--c=x=y", "--d", "k=v", "--e", "-1", "--f", "-.5"]
    )
    assert [(patch.path, patch.value) for patch in found] == [
        (("a", "b"), 1), (("c",), "x=y"), (("d",), "k=v"), (("e",), -1), (("f",), -0.5),
    ]  # fmt: skip
    assert found[0].origin == "command line: --a.b"


def test_options_keep_everything_after_the_first_equals_sign():
    found = patches_from_options(["a.b=True", "c.1.d=x=y", "e="])
    assert [(patch.path, patch.value) for patch in found] == [
        (("a", "b"), True), (("c", 1, "d"), "x=y"), (("e",), ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--a.b"], "command line: --a.b: the value is missing; allowed: --a.b value"),
        (["--a.b", "--c", "1"], "command line: --a.b: the value is missing; allowed: --a.b value"),
        (["x"], "command line: unexpected argument 'x'; allowed: --key value"),
        (["-seed", "3"], "command line: unexpected argument '-seed'; allowed: --key value; "
                         "did you mean '--seed'?"),
        (["--a..b", "1"], "command line: --a..b: 'a..b' is no key path; "
                          "allowed: keys joined by single dots"),
    ],
)  # fmt: skip
def test_a_malformed_override_is_refused(arguments, message):
    with pytest.raises(ConfigError) as caught:
        patches_from_arguments(arguments, ["--seed", "--config"])
    assert str(caught.value) == message


def test_an_option_without_a_value_is_refused():
    with pytest.raises(ConfigError) as caught:
        patches_from_options(["seed"])
    assert str(caught.value) == "command line: --options: found 'seed'; allowed: key=value"


def patched(data, *patches):
    return apply_patches(Document(data), [Patch(path, value, "here") for path, value in patches])


def test_a_patch_sets_a_value_and_makes_the_sections_before_it():
    before = {"a": {"b": 1}, "n": None}
    after = patched(before, (("a", "c", "d"), 2), (("n", "x"), 3))
    assert after.data == {"a": {"b": 1, "c": {"d": 2}}, "n": {"x": 3}}
    assert after.where(("a", "c", "d")) == "here"
    assert before == {"a": {"b": 1}, "n": None}


def test_a_later_patch_wins():
    assert patched({}, (("a",), 1), (("a",), 2)).data == {"a": 2}


def test_a_list_item_is_addressed_by_its_number():
    data = {"callbacks": [{"type": "A"}, {"type": "B", "steps": 1}]}
    assert patched(data, (("callbacks", 1, "steps"), 5)).data["callbacks"][1]["steps"] == 5


def test_a_section_is_merged_and_a_list_is_replaced():
    data = {"a": {"x": 1, "y": {"z": 1}}, "b": [1, 2]}
    after = patched(data, (("a",), {"y": {"w": 2}}), (("b",), [3]))
    assert after.data == {"a": {"x": 1, "y": {"z": 1, "w": 2}}, "b": [3]}
    assert after.where(("a", "y", "w")) == "here"


def test_a_change_of_the_dataset_reaches_the_tasks_copy():
    data = {
        "train_dataset": {"data_loader": {"dataset_dir": ""}},
        "train_dataset_task": {"dataset_config": {"data_loader": {"dataset_dir": ""}}},
    }
    after = patched(data, (("train_dataset", "data_loader", "dataset_dir"), "x")).data
    assert after["train_dataset_task"]["dataset_config"]["data_loader"]["dataset_dir"] == "x"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("callbacks", 2, "x"), "here: callbacks.2.x: 2 is no item of a list of 1; allowed: 0 to 0"),
        (("callbacks", "x"), "here: callbacks.x: 'x' is no item of a list of 1; allowed: 0 to 0"),
        (("empty", 0), "here: empty.0: 0 is no item of a list of 0; "
                       "allowed: an empty list has no items"),
        (("seed", "x"), "here: seed.x: a plain value (1) stands before 'x'; allowed: a section there"),
        (("context", 0), "here: context.0: 0 numbers a list item, but a section stands there; "
                         "allowed: mode"),
    ],
)  # fmt: skip
def test_a_path_that_leads_nowhere_is_refused(path, message):
    data = {"callbacks": [{}], "empty": [], "seed": 1, "context": {"mode": 0}}
    with pytest.raises(ConfigError) as caught:
        patched(data, (path, 1))
    assert str(caught.value) == message
