"""Tools and schemas of others: what is refused, and that none takes long."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mindformers.errors import TokenizerError
from mindformers.tokenizer.conversation import normalise_tools
from mindformers.tokenizer.schema_checks import check_schema
from mindformers.tokenizer.schema_types import types_of, value_json
from mindformers.tokenizer.tool_calls import ToolCall
from mindformers.tokenizer.tool_choice import chosen_tools
from mindformers.tokenizer.tool_schema import argument_problems, check_tools, schema_problems


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def obj(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


TREE = {
    "type": "object",
    "properties": {"left": {"$ref": "#"}, "kids": {"type": "array", "items": {"$ref": "#"}}},
}
# Each name means two of the next: 2 to the power of 60 without a memory of what is known to end.
MANY = {
    "$defs": {
        **{f"a{i}": obj(x={"$ref": f"#/$defs/a{i + 1}"}, y={"$ref": f"#/$defs/a{i + 1}"}) for i in range(60)},
        "a60": {"type": "null"},
    },
    "$ref": "#/$defs/a0",
}  # fmt: skip
# No allOf: each reference has a pattern beside it.
CHAIN = {
    "$defs": {
        **{f"a{i}": {"pattern": f"x{i}", "$ref": f"#/$defs/a{i + 1}"} for i in range(20)},
        "a20": {"type": "string"},
    },
    "properties": {"a": {"$ref": "#/$defs/a0"}},
}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object", "properties": {"pattern": {"type": "string"}, "$ref": {}, "a": True}},
        {"pattern": r"^\p{L}+(\.\d+)*$"},
        {"pattern": "^(?<year>[0-9]{4})-([a-z]+ )*$"},
        {"pattern": "^[a-z]{1,64}@([a-z]{1,63}[.]){1,8}[a-z]{2,63}$"},
        {"pattern": r"^(\(a{99}\)[({]{9}){50}(b{4,}|c{0,40}){100}$"},
        {"const": {"pattern": "(a+)+", "$ref": "nowhere"}},
        TREE,
        MANY,
        deep(60),
        {"type": "object", "properties": {f"a{i}": {"pattern": f"b{i}"} for i in range(100)}},
        {"anyOf": [{"pattern": f"b{i}"} for i in range(100)]},
        {"$defs": {"a/b": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a~1b"}]}}, "$ref": "#/$defs/a~1b"},
    ],
)  # fmt: skip
def test_schemas_of_use_pass(schema: Any) -> None:
    check_schema(schema)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ([], "here: a schema cannot be a list; allowed: an object"),
        (deep(70), "nested too deeply; allowed: at most 64 levels"),
        ({"enum": ["x" * 100_000]}, "has 100014 characters; allowed: at most 100000"),
        ({"const": float("nan")}, "is no JSON"),
        ({"const": {1}}, "is no JSON"),
        (
            obj(a={"pattern": "(a+)+$"}),
            r"here.properties.a.pattern: the pattern repeats a repetition",
        ),
        ({"pattern": r"^(?:[a-z\]]*)*"}, "repeats a repetition"),
        ({"pattern": r"(\p{L}{2,})+"}, "repeats a repetition"),
        ({"pattern": "("}, "here.pattern: the pattern '[(]' is no regular expression: missing"),
        ({"pattern": "a" * 1001}, "a pattern of 1001 characters; allowed: at most 1000"),
        (
            {"pattern": "^((a{9}){99}){999}$"},
            "repetitions, written out, are too long: .*; allowed: at most 10000 characters",
        ),
        ({"pattern": r"(?:x\(|[)}]{20}){2,600}"}, "written out, are too long"),
        ({"pattern": "a{" + "9" * 900 + "}"}, "written out, are too long"),
        (
            {"allOf": [{"pattern": f"a{i}"} for i in range(9)]},
            "may have to be met at once; allowed: at most 8",
        ),
        (
            {"patternProperties": {f"a{i}": {} for i in range(201)}},
            "201 patterns and multipleOf; allowed: at most 200",
        ),
        (CHAIN, "too many patterns or multipleOf may"),
        ({"$ref": "#/$defs/x"}, "'#/[$]defs/x' leads nowhere; allowed: a place in the same schema"),
        ({"$ref": "http://127.0.0.1:1/x"}, "leads nowhere"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "leads back to itself"),
        (obj(x={"$ref": "#"}), "leads back to itself, so no value could ever end"),
        ({"allOf": [{"$ref": "#"}]}, "leads back to itself"),
        ({"anyOf": [{"$ref": "#"}, obj(y={"$ref": "#"})]}, "leads back to itself"),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "leads back to itself"),
    ],
)
def test_schemas_that_mean_nothing_or_take_long_are_refused(schema: Any, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        check_schema(schema, "here")


def function(name: str, **parts: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **parts}}


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ([function(f"f{i}") for i in range(129)], "tools: 129 tools; allowed: at most 128"),
        ([function("a\nb")], r"the tool name is 'a\\nb'"),
        ([function("<|user|>")], r"tools\[0\].function.name: the name is '<|user|>'"),
        ([function("f" * 65)], "1 to 64 letters, digits, underscores and hyphens"),
        ([function("f"), function("f")], "two tools are called 'f'"),
        ([function("f", parameters={"type": "array"})], "arguments are always an object"),
        ([function("f", parameters={"pattern": "("})], r"tools\[0\].function.parameters.pattern"),
        ({"f": 1}, "a tool list cannot be a dict"),
    ],
)
def test_tools_are_checked(tools: Any, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        check_tools(tools)


def test_good_tools_come_back_in_openai_s_form() -> None:
    tools = [{"name": "f-1", "parameters": {"properties": {}}}, {"type": "python"}]
    assert check_tools(tools) == normalise_tools(tools)


def test_a_choice_names_what_may_be_called() -> None:
    tools = check_tools([function("f"), function("g"), {"type": "python"}])
    assert chosen_tools(tools) == (tools, "auto")
    assert chosen_tools(tools, None) == (tools, "auto")
    assert chosen_tools(tools, "required") == (tools, "required")
    assert chosen_tools(tools, "none") == ([], "none")
    assert chosen_tools(tools, function("g")) == ([tools[1]], "named")
    assert chosen_tools(tools, {"type": "function", "name": "g"}) == ([tools[1]], "named")
    assert chosen_tools(tools, {"type": "python"}) == ([tools[2]], "named")


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("requird", "tool_choice: found 'requird'; allowed: auto, required, none.*mean 'required'"),
        (["auto"], r"tool_choice: found \['auto'\]"),
        (function("h"), "there is no tool 'h'; allowed: f"),
        ({}, "there is no tool None"),
    ],
)
def test_an_unknown_choice_is_refused(choice: Any, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        chosen_tools([function("f")], choice)
    with pytest.raises(TokenizerError, match="a call is required, and there is no tool"):
        chosen_tools([], "required")


TOOLS = normalise_tools(
    [
        function("f", parameters={**obj(n={"type": "integer"}, s={"pattern": "^(a|b)*$"}),
                                  "additionalProperties": False}),
        function("g"),
    ]
)  # fmt: skip


@pytest.mark.parametrize(
    ("call", "problems"),
    [
        (ToolCall("f", '{"n": 1, "s": "ab"}'), []),
        (ToolCall("g", '{"anything": [1]}'), []),
        (ToolCall("f", '{"n": "1", "s": "c", "x": 1}'),
         ["Additional properties are not allowed ('x' was unexpected)",
          """['n']: "1" is not of type "integer\"""", """['s']: "c" does not match "^(a|b)*$\""""]),
        (ToolCall("f", "{}"), ['"n" is a required property', '"s" is a required property']),
        (ToolCall("g", "[1]"), ['[1] is not of type "object"']),
        (ToolCall("g", "{1"), ["the arguments are no JSON"]),
        (ToolCall("h", "{}"), ["there is no tool 'h'"]),
    ],
)  # fmt: skip
def test_arguments_are_held_against_the_tool_s_schema(call: ToolCall, problems: list[str]) -> None:
    pytest.importorskip("jsonschema_rs")
    assert sorted(argument_problems(call, TOOLS)) == sorted(problems)


def test_no_pattern_takes_long_and_nothing_is_fetched() -> None:
    pytest.importorskip("jsonschema_rs")
    assert schema_problems("a" * 50_000 + "!", {"pattern": "^(a|a)*(a|aa)+$"}) != []
    for wrong in (
        {"pattern": "a(?=b)"},
        {"$ref": "http://127.0.0.1:1/x"},
        {"pattern": "((a{9}){99}){999}"},
    ):
        with pytest.raises(TokenizerError, match="the schema cannot be used"):
            schema_problems("a", wrong)
    assert len(schema_problems([*range(100)], {"items": {"type": "string"}}, limit=3)) == 3


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ({"type": "string"}, {"string"}),
        ({"type": ["string", "null"]}, {"string", "null"}),
        ({"anyOf": [{"type": "integer"}, {"enum": ["a", 1.5]}]}, {"integer", "string", "number"}),
        ({"$ref": "#/$defs/text"}, {"string"}),
        ({"const": True}, {"boolean"}),
    ],
)
def test_the_types_a_value_may_have(schema: Any, types: set[str]) -> None:
    root = {"properties": {"a": schema}, "$defs": {"text": {"type": "string"}}}
    assert types_of(root, "a") == types


def test_a_value_may_have_any_type_where_nothing_is_said() -> None:
    loop = {"properties": {"a": {"$ref": "#/properties/a"}}}
    for root in (None, {}, {"properties": {"a": {}}}, {"properties": {"a": True}}, loop):
        assert len(types_of(root, "a")) == 7


@pytest.mark.parametrize(
    ("text", "types", "value"),
    [
        ("5", {"string"}, "5"),
        ("5", {"integer"}, 5),
        ("5", {"number", "string"}, 5),
        ("5", {"string", "null"}, "5"),
        ("null", {"string", "null"}, None),
        (" [1, 2] ", {"array"}, [1, 2]),
        ("five", {"integer"}, "five"),
        ('"a"', {"object"}, '"a"'),
        ("true", {"integer"}, True),  # of the wrong type, but what the model said
        ("NaN", {"number"}, "NaN"),
    ],
)
def test_a_bare_value_is_read_by_its_type(text: str, types: set[str], value: Any) -> None:
    assert json.loads(value_json(text, frozenset(types))) == value
