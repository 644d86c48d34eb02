"""Messages and tools as people write them."""

from __future__ import annotations

import pytest

from mindformers.errors import TokenizerError
from mindformers.tokenizer.conversation import normalise_messages, normalise_tools

CALL = {"type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def one(message):
    return normalise_messages([message])[0]


def test_openai_roles_of_tool_results_become_observation():
    for role in ("tool", "function", "observation"):
        assert one({"role": role, "content": "r"})["role"] == "observation"


def test_content_may_be_null_text_or_text_parts():
    assert one({"role": "user", "content": None})["content"] == ""
    assert one({"role": "user"})["content"] == ""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, "c"]
    assert one({"role": "user", "content": parts})["content"] == "a\nb\nc"


def test_tool_calls_become_messages_of_their_own():
    calls = [CALL, {"function": {"name": "g", "arguments": {"城市": "北京"}}}]
    messages = [{"role": "assistant", "content": "Let me see.", "tool_calls": calls}]
    assert normalise_messages(messages) == [
        {"role": "assistant", "content": "Let me see."},
        {"role": "assistant", "metadata": "f", "content": '{"a": 1}'},
        {"role": "assistant", "metadata": "g", "content": '{"城市": "北京"}'},
    ]


@pytest.mark.parametrize("arguments", [None, "", "  ", {}])
def test_a_call_without_arguments_is_not_lost(arguments):
    message = {
        "role": "assistant",
        "tool_calls": [{"function": {"name": "f", "arguments": arguments}}],
    }
    assert one(message) == {"role": "assistant", "metadata": "f", "content": "{}"}


def test_a_template_that_reads_tool_messages_gets_them_with_arguments_as_objects():
    broken = {"name": "g", "arguments": "{1"}
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [CALL, broken]},
        {"role": "tool", "content": "r"},
    ]
    kept = normalise_messages(messages, keep_tool_form=True)
    whole = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    assert kept[0]["tool_calls"] == [whole, broken]
    assert kept[1]["role"] == "tool"
    assert CALL["function"]["arguments"] == '{"a": 1}'


def test_what_a_builtin_tool_takes_is_written_as_text_where_the_tool_is_on_offer():
    call = {"function": {"name": "python", "arguments": {"code": "print(1)"}}}
    message = {"role": "assistant", "tool_calls": [call]}
    written = normalise_messages([message], builtin=["python"])
    assert written == [{"role": "assistant", "metadata": "python", "content": "print(1)"}]
    offered = {"role": "system", "content": "s", "tools": [{"type": "python"}]}
    assert normalise_messages([offered, message])[1:] == written
    assert one(message)["content"] == '{"code": "print(1)"}'  # a function of this name


def test_the_caller_s_messages_stay_as_they_are():
    message = {"role": "tool", "content": None, "metadata": None}
    normalise_messages([message])
    assert message == {"role": "tool", "content": None, "metadata": None}


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "the conversation is empty"),
        ("hello", "a conversation cannot be a str"),
        ({"role": "user"}, "a conversation cannot be a dict"),
        (["hello"], r"messages\[0\]: a message cannot be a str"),
        (
            [{"role": "user", "content": "x"}, {"content": "x"}],
            r"messages\[1\]: the message has no",
        ),
        ([{"role": "asistant", "content": "x"}], "unknown role 'asistant'.*mean 'assistant'"),
        ([{"role": 3, "content": "x"}], "unknown role 3; allowed: system, user"),
        ([{"role": "user", "content": 3}], "content is a int"),
        ([{"role": "user", "content": b"x"}], "content is a bytes"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "part of type 'image_url'"),
        ([{"role": "user", "content": [3]}], "part of type 'int'"),
        ([{"role": "assistant", "content": "x", "metadata": "a\nb"}], "a single line of text"),
        ([{"role": "assistant", "content": "x", "metadata": "a\n"}], "a single line of text"),
        ([{"role": "assistant", "content": "x", "metadata": 3}], "a single line of text"),
        ([{"role": "user", "tool_calls": [CALL]}], "tool_calls in a message of role 'user'"),
        ([{"role": "assistant", "tool_calls": "f"}], "tool_calls is a str"),
        ([{"role": "assistant", "tool_calls": ["f"]}], r"tool_calls\[0\]: a tool call cannot be"),
        ([{"role": "assistant", "tool_calls": [{"function": {}}]}], "the tool name is None"),
        ([{"role": "system", "tools": 3}], r"messages\[0\].tools: a tool list cannot be a int"),
    ],
)
def test_a_malformed_conversation_is_refused_with_the_message_s_place(messages, message):
    with pytest.raises(TokenizerError, match=message):
        normalise_messages(messages)


def test_tools_may_be_wrapped_bare_or_built_in():
    bare = {"name": "f", "parameters": {}}
    wrapped = {"type": "function", "function": {"name": "g"}}
    tools = normalise_tools([bare, wrapped, {"type": "python"}, {"function": {"name": "h"}}])
    assert tools == [
        {"type": "function", "function": bare},
        wrapped,
        {"type": "python"},
        {"type": "function", "function": {"name": "h"}},
    ]
    flat = {"type": "function", "name": "f", "parameters": {}}
    assert normalise_tools([flat]) == [{"type": "function", "function": bare}]


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ("python", "a tool list cannot be a str"),
        (["python"], r"tools\[0\]: a tool cannot be a str"),
        ([{"type": "pyton"}], "unknown tool type 'pyton'.*mean 'python'"),
        ([{}], "unknown tool type None"),
        ([{"type": "function", "function": "f"}], "'function' is a str"),
        ([{"name": ""}], "the tool name is ''"),
        ([{"name": "a\nb"}], r"the tool name is 'a\\nb'"),
        ([{"name": "f"}, {"name": "f"}], r"tools\[1\]: two tools are called 'f'"),
    ],
)
def test_a_malformed_tool_list_is_refused(tools, message):
    with pytest.raises(TokenizerError, match=message):
        normalise_tools(tools)
