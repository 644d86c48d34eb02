from __future__ import annotations

import pytest

from mindformers.dataset.messages import (
    Conversation,
    Message,
    parse_conversation,
)
from mindformers.errors import DataError

QA = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
CALL = {"role": "assistant", "content": "{}", "metadata": "f"}
RESULT = {"role": "observation", "content": "1"}


def turn(role: str, content: str = "x") -> dict:
    return {"role": role, "content": content}


def test_a_conversation_is_frozen_and_gives_back_its_row() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    parsed = parse_conversation(
        [*QA, turn("user"), CALL, RESULT, turn("assistant")], tools, where="d:1"
    )
    assert parsed.messages[0] == Message("user", "q")
    assert parsed.messages[3] == Message("assistant", "{}", metadata="f")
    assert parsed.where == "d:1"
    assert parsed.as_dict() == {
        "messages": [*QA, turn("user"), CALL, RESULT, turn("assistant")],
        "tools": tools,
    }
    with pytest.raises(AttributeError):
        parsed.messages[0].content = "other"


def test_openai_spellings_are_settled() -> None:
    parsed = parse_conversation([
        turn("user"),
        {"role": "assistant", "content": None, "tool_calls": [
            {"function": {"name": "f", "arguments": {"城市": "北京"}}}, {"function": {"name": "g", "arguments": ""}}]},
        turn("tool"), turn("function"), turn("assistant"),
    ])  # fmt: skip
    assert parsed.messages[1:4] == (
        Message("assistant", '{"城市": "北京"}', "f"),
        Message("assistant", "{}", "g"),
        Message("observation", "x"),
    )


@pytest.mark.parametrize(("messages", "message"), [
    ([], "d:1: the conversation is empty"),
    ("text", "d:1: a conversation cannot be a str"),
    ([*QA, "text"], r"d:1: messages\[2\]: a message cannot be a str"),
    ([{"role": "usr", "content": "q"}], r"d:1: messages\[0\]: unknown role 'usr'.*did you mean 'user'"),
    ([{"content": "q"}], r"d:1: messages\[0\]: the message has no role"),
    ([{"role": "user", "content": 3}], r"d:1: messages\[0\]: content is a int"),
    ([turn("user", ""), QA[1]], r"d:1: messages\[0\]: the content of the user message is empty"),
    ([QA[0], turn("assistant", " \n")], r"d:1: messages\[1\]: the content of the assistant message is empty"),
    ([turn("system", ""), *QA], r"d:1: messages\[0\]: the content of the system message is empty"),
    ([QA[0]], "d:1: no message is an assistant's, so there is nothing to learn"),
    ([turn("user", "a\ud800"), QA[1]], r"d:1: messages\[0\]: holds half a surrogate pair \(\\ud800\)"),
    ([QA[1]], r"messages\[0\]: the conversation begins with an assistant message; allowed: system or user"),
    ([QA[0], *QA], r"messages\[1\]: a user message cannot follow a user message; allowed: assistant"),
    ([QA[0], RESULT, QA[1]], r"messages\[1\]: an observation message cannot follow a user message"),
    ([*QA, turn("system")], r"messages\[2\]: a system message cannot follow an assistant message"),
    ([*QA, RESULT, QA[1]], r"messages\[2\]: an observation follows an assistant message that calls no tool"),
    ([*QA, QA[1]], r"messages\[2\]: two assistant messages in a row"),
    ([*QA, QA[0]], r"messages\[2\]: the conversation ends with a user message, which nothing answers"),
    ([QA[0], {**QA[1], "metadata": "a\nb"}], r"d:1: messages\[1\]: metadata is"),
])  # fmt: skip
def test_a_malformed_conversation_is_named(messages, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_conversation(messages, where="d:1")


@pytest.mark.parametrize("messages", [
    [QA[1]], [QA[0], *QA], [*QA, turn("system"), *QA], [*QA, RESULT, QA[1]], [*QA, QA[1]], [*QA, QA[0]],
])  # fmt: skip
def test_any_order_is_taken_when_asked_for(messages) -> None:
    assert len(parse_conversation(messages, order="any").messages) == len(messages)


@pytest.mark.parametrize("messages", [
    QA, [turn("system"), *QA], [*QA, *QA], [QA[0], CALL, RESULT, QA[1]], [QA[0], CALL],
    [QA[0], QA[1], CALL, RESULT, QA[1]],
    [QA[0], CALL, CALL, RESULT, RESULT, CALL, RESULT, QA[1], *QA],
])  # fmt: skip
def test_the_strict_order_takes_every_form_glm4_writes(messages) -> None:
    assert isinstance(parse_conversation(messages), Conversation)


def test_a_system_message_with_tools_may_be_empty() -> None:
    tools = [{"type": "python"}]
    parsed = parse_conversation([{"role": "system", "content": "", "tools": tools}, *QA])
    assert parsed.messages[0].tools == ({"type": "python"},)


def test_surrogates_in_tool_schemas_are_found() -> None:
    with pytest.raises(DataError, match="d:1: tools: holds half a surrogate pair"):
        parse_conversation(QA, [{"name": "f", "description": "\udfff"}], where="d:1")
