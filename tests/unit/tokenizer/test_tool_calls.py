"""Tool calls in answers: what is one, what is content, and that a stream says the same."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers.errors import TokenizerError
from mindformers.tokenizer.tool_calls import (
    DIALECTS,
    AnswerStream,
    ParsedAnswer,
    ToolCall,
    parse_answer,
)

WEATHER = {
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "more": {}},
    },
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "get"}},
    {"type": "function", "function": WEATHER},
    {"type": "python"},
    {"type": "simple_browser"},
]
NEXT = "<|assistant|>"


def parse(text: str, finish: str = "tool_calls", dialect: str = "glm4") -> ParsedAnswer:
    return parse_answer(text, TOOLS, finish, dialect)


def calls(*pairs: tuple[str, str]) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(*pair) for pair in pairs)


@pytest.mark.parametrize(
    ("text", "content", "found"),
    [
        ("\nHello", "Hello", []),
        ('get_weather\n{"city": "北京"}', "", [("get_weather", '{"city": "北京"}')]),
        ("get\n{}", "", [("get", "{}")]),  # a name that begins another
        ("get", "", [("get", "{}")]),  # nothing below the name
        ("get\n", "", [("get", "{}")]),
        ("get \r\n\n {}\n", "", [("get", "{}")]),
        ("\nLet me see.\n\nget\n{}", "Let me see.", [("get", "{}")]),
        ("\nLet me see.<|assistant|>get\n{}", "Let me see.", [("get", "{}")]),
        ("get\n{}<|assistant|>\nDone.", "Done.", [("get", "{}")]),
        ("\nA<|assistant|>\nB<|assistant|>", "A\nB", []),
        (
            'get\n{"a": 1}<|assistant|>get_weather\n{"b": [{}]}',
            "",
            [("get", '{"a": 1}'), ("get_weather", '{"b": [{}]}')],
        ),
        ('get\n{"a": 1}get\n{}', "", [("get", '{"a": 1}'), ("get", "{}")]),  # the token left out
        ("get\n{}\nget\n{}", "", [("get", "{}"), ("get", "{}")]),
        ('get\n{"q": "a \\"b\\" {[\\\\"}', "", [("get", '{"q": "a \\"b\\" {[\\\\"}')]),
        ('get\n{"q": "<|assistant|>get\\n{}"}', "", [("get", '{"q": "<|assistant|>get\\n{}"}')]),
        ('get\n{"n": ' + "9" * 5000 + "}", "", [("get", '{"n": ' + "9" * 5000 + "}")]),
        ("get\n{} and so on", "and so on", [("get", "{}")]),
    ],
)
def test_calls_stand_at_the_start_of_a_line(
    text: str, content: str, found: list[tuple[str, str]]
) -> None:
    reason = "tool_calls" if found else "stop"
    assert parse(text) == ParsedAnswer(content, calls(*found), reason)


@pytest.mark.parametrize(
    "text",
    [
        'look_up\n{"a": 1}',  # no tool that was given
        "get_weather\n[1, 2]",
        "get_weather\n3",
        'get_weather\n{"a": NaN}',
        'get_weather\n{"a" 1}',
        "get_weather\n{'a': 1}",
        "get_weather\n" + '{"a":' * 100_000 + "1" + "}" * 100_000,
        "call get\n{}",
        "  get\n{}",
        "get weather\n{}",
        "getter\n{}",
        '{"name": "get", "arguments": {}}',
        "cogview\na cat",  # not on offer
        "<|assistant|>look_up\n{}",
    ],
)
def test_anything_else_is_content_word_for_word(text: str) -> None:
    assert parse(text) == ParsedAnswer(text, (), "stop")


@pytest.mark.parametrize("text", ['get_weather\n{"city": "Bei', "get_weather", "python\nprint("])
def test_an_answer_cut_at_its_length_is_content_word_for_word(text: str) -> None:
    assert parse(text, "length") == ParsedAnswer(text, (), "length")
    before = parse('get\n{"a": 1}' + NEXT + text, "length")
    assert before.tool_calls == calls(("get", '{"a": 1}'))
    assert before.content.endswith(text)
    assert before.finish_reason == "length"


def test_a_builtin_tool_takes_the_rest_of_its_message_as_its_one_argument() -> None:
    code = 'print("a")\n\n# "x" \\ 你\n'
    assert parse("python\n" + code).tool_calls == calls(
        ("python", json.dumps({"code": code}, ensure_ascii=False))
    )
    search = 'search("北京 天气", recency_days=3)'
    both = parse(f"simple_browser\n{search}{NEXT}python\n1{NEXT}")
    assert [json.loads(each.arguments) for each in both.tool_calls] == [
        {"call": search},
        {"code": "1"},
    ]
    # Its text is not JSON, so only the start of a message tells it from a word on a line.
    assert parse("\nUse\npython\n1").content == "Use\npython\n1"
    assert parse("python\n1", dialect="glm4_0414").content == "python\n1"


def test_glm45_writes_keys_and_values() -> None:
    text = (
        '\nSure.\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>"5"\n</arg_value>\n'
        "<arg_key>days</arg_key>\n<arg_value>5</arg_value>\n"
        '<arg_key>more</arg_key>\n<arg_value>{"a": [1, true]}</arg_value>\n</tool_call>'
        "\n<tool_call>get</tool_call>"
    )
    parsed = parse(text, dialect="glm45")
    assert parsed.content == "Sure."
    assert [(each.name, json.loads(each.arguments)) for each in parsed.tool_calls] == [
        ("get_weather", {"city": '"5"\n', "days": 5, "more": {"a": [1, True]}}),
        ("get", {}),
    ]
    compact = "<tool_call>get_weather<arg_key>more</arg_key><arg_value>abc</arg_value></tool_call>"
    assert parse(compact, dialect="glm45").tool_calls == calls(("get_weather", '{"more": "abc"}'))


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>look_up\n</tool_call>",
        "<tool_call>get_weather\n<arg_key>city</arg_key> Beijing</tool_call>",
        "<tool_call>get_weather\nBeijing</tool_call>",
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Bei",
        "get\n{}",
    ],
)
def test_what_glm45_does_not_write_is_content(text: str) -> None:
    assert parse(text, "stop", "glm45") == ParsedAnswer(text, (), "stop")


@pytest.mark.parametrize(
    ("finish", "with_call", "without"),
    [
        ("stop", "tool_calls", "stop"),
        ("tool_calls", "tool_calls", "stop"),
        ("stop_string", "tool_calls", "stop_string"),
        ("length", "length", "length"),
        ("cancelled", "cancelled", "cancelled"),
    ],
)
def test_the_finish_reason_says_whether_results_are_waited_for(
    finish: str, with_call: str, without: str
) -> None:
    assert parse("get\n{}", finish).finish_reason == with_call
    assert parse("\nHello", finish).finish_reason == without


def test_without_tools_all_is_content() -> None:
    for dialect in DIALECTS:
        text = "get\n{}<|assistant|>\n<tool_call>get</tool_call>\n"
        assert parse_answer("\n" + text, [], "tool_calls", dialect) == ParsedAnswer(
            text, (), "stop"
        )


def test_an_unknown_dialect_is_refused() -> None:
    with pytest.raises(TokenizerError, match="unknown dialect 'glm5'; allowed: glm4, glm4_0414"):
        parse_answer("", [], "stop", "glm5")


def test_a_call_has_the_form_a_message_takes() -> None:
    assert ToolCall("f", "{}").as_dict("call_1") == {
        "id": "call_1",
        "type": "function",
        "function": {"name": "f", "arguments": "{}"},
    }


# --- streams ---------------------------------------------------------------------------------------


def streamed(text: str, cuts: Sequence[int], finish: str, dialect: str) -> ParsedAnswer:
    stream = AnswerStream(TOOLS, dialect)
    deltas = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        deltas += stream.feed(text[start:end])
    last, reason = stream.close(finish)
    content, found = "", []
    for delta in [*deltas, *last]:
        content += delta.content
        if delta.name:
            assert delta.index == len(found)
            found.append([delta.name, ""])
        if delta.arguments:
            assert delta.index == len(found) - 1
            found[-1][1] += delta.arguments
    return ParsedAnswer(content, tuple(ToolCall(*each) for each in found), reason)


PARTS = st.sampled_from(
    [
        "get", "get_weather", "python", "look_up", "\n", "\n\n", " ", "{}", '{"a": ', '"b\\"{"', "}",
        "1", "text", "<", "<|assistant|>", "<|assi", "<tool_call>", "</tool_call>", "<arg_key>",
        "</arg_key>", "<arg_value>", "</arg_value>", "city", "days", "你", "\\", '"', "[", "]",
        "get\n{}", 'get_weather\n{"city": "x"}', "python\nprint(1)\n", "<|assistant|>get\n{}",
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>a</arg_value>\n</tool_call>",
    ]
)  # fmt: skip
ANSWERS = st.lists(PARTS, max_size=14).map("".join) | st.text(max_size=40)


@settings(deadline=None)
@given(
    ANSWERS, st.data(), st.sampled_from(["stop", "tool_calls", "length"]), st.sampled_from(DIALECTS)
)
def test_a_stream_says_the_same_however_it_is_cut(
    text: str, data: st.DataObject, finish: str, dialect: str
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    parsed, whole = parse(text, finish, dialect), streamed(text, [], finish, dialect)
    assert streamed(text, cuts, finish, dialect) == whole
    assert streamed(text, range(1, len(text)), finish, dialect) == whole
    assert whole.finish_reason == parsed.finish_reason
    if len(whole.tool_calls) == len(parsed.tool_calls):  # none broke off
        assert whole == parsed
    else:
        sound = [each for each in whole.tool_calls if each in parsed.tool_calls]
        assert tuple(sound) == parsed.tool_calls
    for call in parsed.tool_calls:
        assert isinstance(json.loads(call.arguments), dict)


def test_arguments_are_passed_on_as_they_come() -> None:
    stream = AnswerStream(TOOLS)
    assert stream.feed("\nLet me see.\nget_wea") != []
    assert stream.feed("ther\n") == []
    first, second = stream.feed('{"city": "北')
    assert (first.name, first.index, second.arguments) == ("get_weather", 0, '{"city": "北')
    assert stream.feed('京"')[0].arguments == '京"'
    text = AnswerStream(TOOLS, "glm45")
    text.feed("<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>a")
    assert text.feed('b"')[0].arguments == 'b\\"'


def test_a_call_that_breaks_off_in_a_stream_is_told_by_the_finish_reason() -> None:
    cut = streamed('get_weather\n{"city": "Bei', [20], "length", "glm4")
    assert cut == ParsedAnswer("", calls(("get_weather", '{"city": "Bei')), "length")
    wrong = streamed('get_weather\n{"city" 1}', [20], "tool_calls", "glm4")
    assert wrong.finish_reason == "stop"


def noise(size: int, seed: int) -> str:
    draw = random.Random(seed)
    words = ["get", "\n", " ", "{", "}", '"', "\\", "<", "|", "<|assistant|>", "python\n", "[", "]",
             "get_weather\n{", "<tool_call>", "get_weather<arg_key>", "</arg_key><arg_value>",
             "</arg_value>", "</tool_call>", "文"]  # fmt: skip
    return "".join(draw.choices(words, k=size))


LONGEST_OPENING = 2 * 64 + len(NEXT) + len("get_weather") + 16  # blanks, and what stands between


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "text",
    [
        noise(3_000, 1), noise(3_000, 2), " " * 5_000, "\n" * 5_000, "get\n" * 2_000, "<" * 5_000,
        "<|assistant|>" * 500, "get\n{" * 2_000, "get\n" + " " * 5_000, "python\n" + "<|assistant|" * 500,
        "<tool_call>get_weather" + "<arg_key></arg_key><arg_value></arg_value>" * 300,
        "<tool_call>get_weather<arg_key>" + "</arg_ke" * 900,
    ],
)  # fmt: skip
def test_no_text_is_an_error_and_little_is_ever_held_back(text: str, dialect: str) -> None:
    """What is held back is looked at again: as it is bounded, work grows with the length only."""
    parse(text, "stop", dialect)
    stream = AnswerStream(TOOLS, dialect)
    for character in text:
        stream.feed(character)
        assert len(stream._reader._data) <= LONGEST_OPENING
    stream.close("stop")
