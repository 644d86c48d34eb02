from __future__ import annotations

import json
from pathlib import Path

import pytest

from mindformers.dataset.formats import alpaca_prompt, conversation_from_row, read_conversations
from mindformers.dataset.messages import Message
from mindformers.errors import DataError
from tests.support.shared import shared_file


@pytest.mark.parametrize(("instruction", "context", "expected"), [
    ("Do it.", "", "Do it."),
    ("Do it.", "this", "Do it: this"),
    ("Do it..", "this", "Do it.: this"),
    ("Do it", "this", "Do it: this"),
    ("Do it?", "this", "Do it?: this"),
    ("翻译。", "你好", "翻译。: 你好"),
    ("", "this", "this"),
    (".", "this", ": this"),
])  # fmt: skip
def test_the_alpaca_rule_joins_instruction_and_input(
    instruction: str, context: str, expected: str
) -> None:
    assert alpaca_prompt(instruction, context) == expected


def test_alpaca_rows_become_conversations() -> None:
    parsed = conversation_from_row({"instruction": "Say.", "input": "x", "output": "y", "id": 3})
    assert parsed.messages == (Message("user", "Say: x"), Message("assistant", "y"))
    for absent in ({}, {"input": None}, {"input": ""}):
        assert (
            conversation_from_row({"instruction": "Say.", "output": "y", **absent})
            .messages[0]
            .content
            == "Say."
        )


def test_alpaca_history_and_system_are_kept() -> None:
    parsed = conversation_from_row(
        {"instruction": "c", "output": "d", "system": "s", "history": [["a", "b"]]}
    )
    assert [(m.role, m.content) for m in parsed.messages] == [
        ("system", "s"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
        ("assistant", "d"),
    ]


def test_sharegpt_rows_become_glm4_conversations() -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "q"},
            {
                "from": "function_call",
                "value": '{"name": "f", "arguments": {"城": "北京", "n": [1, null]}}',
            },
            {"from": "observation", "value": "1"},
            {"from": "gpt", "value": "a"},
            {"from": "human", "value": "q2"},
            {"from": "function_call", "value": '[{"name": "f", "arguments": "{}"}, {"name": "g"}]'},
            {"from": "observation", "value": "2"},
            {"from": "gpt", "value": "b"},
        ],
        "tools": '[{"name": "f", "description": "d", "parameters": {}}]',
        "system": "s",
    }
    parsed = conversation_from_row(row)
    assert parsed.messages == (
        Message("system", "s"),
        Message("user", "q"),
        Message("assistant", '{"城": "北京", "n": [1, null]}', "f"),
        Message("observation", "1"),
        Message("assistant", "a"),
        Message("user", "q2"),
        Message("assistant", "{}", "f"),
        Message("assistant", "{}", "g"),
        Message("observation", "2"),
        Message("assistant", "b"),
    )
    assert parsed.tools == (
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}},
    )


def test_adgen_rows_are_a_question_and_an_answer() -> None:
    expected = (Message("user", "类型#裤"), Message("assistant", "宽松的阔腿裤"))
    row = {"content": "类型#裤", "summary": "宽松的阔腿裤"}
    assert conversation_from_row(row).messages == expected
    assert conversation_from_row(row, form="adgen").messages == expected


def test_turns_of_glm3_hold_call_and_result_in_one() -> None:
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "let me see"},
        {
            "role": "tool",
            "name": "f",
            "parameters": {"城": 1},
            "observation": "ok",
            "description": "d",
        },
        {"role": "tool", "name": "g", "parameters": None, "observation": {"x": [1]}},
        {"role": "assistant", "content": "a"},
    ]
    row = {"tools": [{"name": "f", "parameters": {}}], "conversations": turns}
    for form in ("auto", "toolalpaca", "sharegpt"):
        assert conversation_from_row(row, form=form).messages == (
            Message("system", "s"),
            Message("user", "q"),
            Message("assistant", "let me see"),
            Message("assistant", '{"城": 1}', "f"),
            Message("observation", "ok"),
            Message("assistant", "{}", "g"),
            Message("observation", '{"x": [1]}'),
            Message("assistant", "a"),
        )


def test_openai_messages_with_tool_calls_become_glm4_turns() -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}]
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "q"}]},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "assistant", "content": "a", "tool_calls": None},
    ]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    parsed = conversation_from_row({"messages": messages, "tools": tools, "instruction": None})
    assert parsed.messages == (
        Message("user", "q"),
        Message("assistant", '{"x": 1}', "f"),
        Message("observation", "1"),
        Message("assistant", "a"),
    )


@pytest.mark.parametrize(("form", "row", "message"), [
    ("alpaca", {"messages": []}, "f:1: a row with the keys messages; allowed: .* form 'alpaca': instruction"),
    ("adgen", {"content": "a"}, "f:1: 'summary' is missing; allowed: a string"),
    ("adgen", {"content": 3, "summary": "b"}, "f:1: 'content' is a int"),
    ("auto", {"content": "a"}, "'content' and 'summary' .ADGen."),
    ("toolalpaca", {"conversations": [{"role": "tool", "name": "f"}]}, r"conversations\[0\]: the tool's turn has"),
])  # fmt: skip
def test_a_row_of_another_form_than_asked_for_is_named(form: str, row: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        conversation_from_row(row, where="f:1", form=form)


def test_messages_rows_take_tools_as_a_list_or_as_json_text() -> None:
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    tools = [
        {"type": "function", "function": {"name": "f", "parameters": {"x": None, "城": {"y": []}}}}
    ]
    for given in (tools, json.dumps(tools)):
        assert conversation_from_row({"messages": messages, "tools": given}).as_dict() == {
            "messages": messages,
            "tools": tools,
        }
    for empty in (None, "", [], "[]"):
        assert conversation_from_row({"messages": messages, "tools": empty}).tools == ()


@pytest.mark.parametrize(("row", "message"), [
    ({"prompt": "a", "completion": "b"}, "f:1: a row with the keys prompt, completion; allowed: 'messages'"),
    ({"message": []}, "f:1: a row with the keys message;.*did you mean 'messages'"),
    ({}, r"f:1: a row with the keys \(none\)"),
    ({"instruction": "a"}, "f:1: the alpaca row has no 'output'"),
    ({"instruction": "a", "ouput": "b"}, "the alpaca row has no 'output'; did you mean 'output'"),
    ({"instruction": "a", "output": 3}, "f:1: 'output' is a int; allowed: a string"),
    ({"instruction": "a", "input": ["x"], "output": "b"}, "f:1: 'input' is a list"),
    ({"instruction": "a", "output": " "}, "f:1: 'output' is empty"),
    ({"instruction": "", "input": "", "output": "b"}, "f:1: 'instruction' and 'input' are both empty"),
    ({"instruction": "a", "output": "b", "history": ["x"]}, "f:1: 'history' is"),
    ({"messages": {"role": "user"}}, "f:1: a conversation cannot be a dict"),
    ({"conversations": "text"}, "f:1: 'conversations' is a str"),
    ({"conversations": ["text"]}, r"f:1: conversations\[0\]: the turn is 'text'"),
    ({"conversations": [{"from": "humann", "value": "x"}]}, r"conversations\[0\]: unknown role 'humann'.*'human'"),
    ({"conversations": [{"from": ["x"], "value": "x"}]}, r"conversations\[0\]: unknown role"),
    ({"conversations": [{"from": "function_call", "value": "{"}]}, r"conversations\[0\]: the function_call is no JSON"),
    ({"conversations": [{"from": "function_call", "value": "{}"}]}, r"conversations\[0\]: the function_call is {}"),
    ({"conversations": [{"from": "function_call", "value": "[]"}]}, "the function_call calls nothing"),
    ({"messages": [{"role": "user", "content": "a"}], "tools": "{"}, "f:1: 'tools' is no JSON"),
    ({"messages": [{"role": "user", "content": "a"}], "tools": {"a": 1}}, "f:1: 'tools' is a dict"),
    ({"messages": [{"role": "user", "content": "a"}], "tools": [3]}, r"f:1: tools\[0\]: a tool cannot be a int"),
])  # fmt: skip
def test_a_malformed_row_is_named(row: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        conversation_from_row(row, where="f:1")


def test_a_file_yields_conversations_and_errors_in_order(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"instruction": "a", "output": "b"}\n{"a"\n{"messages": []}\n{"instruction": "c", "output": "d"}\n'
    )
    first, second, third, fourth = read_conversations(path)
    assert (first.messages[1].content, fourth.messages[1].content) == ("b", "d")
    assert (first.where, fourth.where) == (f"{path}:1", f"{path}:4")
    assert isinstance(second, DataError)
    assert isinstance(third, DataError)
    assert f"{path}:2" in str(second)
    assert f"{path}:3" in str(third)


def test_the_real_alpaca_and_tool_files_read_without_a_fault() -> None:
    alpaca = list(read_conversations(shared_file("data/alpaca_en_demo.json")))
    dialogues = list(read_conversations(shared_file("data/glaive_toolcall_en_demo.json")))
    assert len(alpaca) == 999
    assert len(dialogues) == 300
    assert not [row for row in alpaca + dialogues if isinstance(row, DataError)]
    assert sum(bool(message.metadata) for row in dialogues for message in row.messages) > 150
