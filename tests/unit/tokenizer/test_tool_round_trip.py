"""What a template writes of a call, the reader of answers reads: for real rows and for any dialogue."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mindformers.dataset.encode import encode_conversation
from mindformers.dataset.formats import conversation_from_row
from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer
from mindformers.tokenizer.special_tokens import Segment
from mindformers.tokenizer.tool_calls import DIALECTS, dialect_of, parse_answer
from tests.support.dialects import dialect_tokenizer
from tests.support.shared import shared_file

ROLES = ("<|system|>", "<|user|>", "<|observation|>")


def answers_in(segments: list[Segment]) -> Iterator[str]:
    """Yield what stands between the first ``<|assistant|>`` of each turn and the role that follows it."""
    answer: list[str] | None = None
    for text, is_control in [*segments, Segment("<|user|>", True)]:
        if is_control and text in ROLES:
            if answer is not None:
                yield "".join(answer)
            answer = None
        elif is_control and text == "<|assistant|>" and answer is None:
            answer = []
        elif answer is not None:
            answer.append(text)


def test_every_answer_of_real_tool_dialogues_comes_back(published: ChatGLM4Tokenizer) -> None:
    rows = json.loads(shared_file("data/glaive_toolcall_en_demo.json").read_text(encoding="utf-8"))
    checked = 0
    for row in rows[::3]:
        conversation = conversation_from_row(row, order="any")
        messages = [message.as_dict() for message in conversation.messages]
        segments = published.render(messages, list(conversation.tools) or None)
        ids = published.encode_segments(segments)
        shown = published.decode(ids, spaces_between_special_tokens=False)
        wanted, turns = turns_of(messages), []
        for answer in answers_in(list(published._special_tokens.split(shown))):
            parsed = parse_answer(answer, conversation.tools, "stop")
            turns.append((parsed.content, [(c.name, c.arguments) for c in parsed.tool_calls]))
            checked += len(parsed.tool_calls)
        assert turns == wanted
    assert checked > 40


def turns_of(messages: list[dict[str, Any]]) -> list[tuple[str, list[tuple[str, str]]]]:
    turns: list[tuple[list[str], list[tuple[str, str]]]] = []
    before = ""
    for message in messages:
        if message["role"] == "assistant":
            if before != "assistant":
                turns.append(([], []))
            if message.get("metadata"):
                turns[-1][1].append((message["metadata"], message["content"]))
            else:
                turns[-1][0].append(message["content"])
        before = message["role"]
    return [("\n".join(said), called) for said, called in turns]


NAMES = st.sampled_from(["get", "get_weather", "weather", "python_run", "a-1"])
TEXTS = st.text("ab \"'\\{}[]<|>/\n你😀\t", max_size=12) | st.sampled_from(
    ["<|assistant|>get\n{}", "<|user|>", "123", "null", '{"a": 1}', "<tool_call>get", ""]
)
VALUES = st.recursive(
    TEXTS | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
KEYS = st.sampled_from(["s", "t", "n", "any of", "城市"])
ARGUMENTS = st.dictionaries(KEYS, VALUES, max_size=4)
CALLS = st.lists(st.tuples(NAMES, ARGUMENTS), max_size=3)
SAYS = st.sampled_from(["", "Let me see.", "天气\n\n and more", 'like {"a": 1}'])


@pytest.fixture(scope="module", params=DIALECTS)
def tokenizer(request: pytest.FixtureRequest, tiny_file: Path) -> ChatGLM4Tokenizer:
    opened = dialect_tokenizer(tiny_file, request.param)
    assert dialect_of(opened) == request.param
    return opened


@settings(deadline=None, max_examples=40)
@given(SAYS, CALLS)
def test_any_answer_comes_back(
    tokenizer: ChatGLM4Tokenizer, says: str, calls: list[tuple[str, dict[str, Any]]]
) -> None:
    tools = [
        tool_for(name, calls) for name in ("get", "get_weather", "weather", "python_run", "a-1")
    ]
    functions = [
        {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
        for name, arguments in calls
    ]
    messages = [
        {"role": "user", "content": "q"},
        {
            "role": "assistant",
            "content": says,
            "tool_calls": [{"type": "function", "function": each} for each in functions],
        },
        {"role": "tool", "content": "r"},
    ]
    if not says and not calls:
        return
    ids = tokenizer.encode_segments(tokenizer.render(messages, tools))
    shown = tokenizer.decode(ids, spaces_between_special_tokens=False)
    marks = shown.rindex("<|observation|>\n")
    text = shown[shown.index("<|assistant|>", shown.index("<|user|>\nq")) : marks]
    parsed = parse_answer(
        text.removeprefix("<|assistant|>"), tools, "tool_calls", dialect_of(tokenizer)
    )
    assert parsed.content.removeprefix("<think></think>").removeprefix("\n") == says
    found = [(call.name, json.loads(call.arguments)) for call in parsed.tool_calls]
    assert found == calls
    if dialect_of(tokenizer) != "glm45":
        assert [call.arguments for call in parsed.tool_calls] == [f["arguments"] for f in functions]


def tool_for(name: str, calls: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Return a tool whose schema says which of its arguments are strings, as GLM-4.5 has to know."""
    kinds: dict[str, set[str]] = {}
    for called, arguments in calls:
        for key, value in arguments.items() if called == name else ():
            kind = "string" if isinstance(value, str) else "other"
            kinds.setdefault(key, set()).add(kind)
    assume(all(len(found) == 1 for found in kinds.values()))
    properties = {
        key: {"type": "string"} if found == {"string"} else {} for key, found in kinds.items()
    }
    return {"name": name, "parameters": {"type": "object", "properties": properties}}


def test_what_is_learnt_of_a_call_is_what_the_reader_reads(tiny_file: Path) -> None:
    tokenizer = ChatGLM4Tokenizer(tiny_file)
    call = {"function": {"name": "python", "arguments": '{"code": "print(1)"}'}}
    row = {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "I run it.", "tool_calls": [call]},
            {"role": "tool", "content": "1"},
            {"role": "assistant", "content": "one"},
        ],
        "tools": [{"type": "python"}],
    }
    conversation = conversation_from_row(row)
    messages = [message.as_dict() for message in conversation.messages]
    encoded = encode_conversation(tokenizer, messages, 2048, tools=conversation.tools)
    learnt = [label for label in encoded.labels if label >= 0]
    text = tokenizer.decode(learnt, spaces_between_special_tokens=False)
    first, _, rest = text.partition("<|observation|>")
    parsed = parse_answer(first, row["tools"], "tool_calls")
    assert parsed.content == "I run it."
    assert [(each.name, json.loads(each.arguments)) for each in parsed.tool_calls] == [
        ("python", {"code": "print(1)"})
    ]
    assert rest == "\none<|user|>"


def test_glm_s_own_form_renders_as_openai_s_in_every_dialect(tokenizer: ChatGLM4Tokenizer) -> None:
    user = {"role": "user", "content": "q"}
    own = [
        user,
        {"role": "assistant", "content": "Both."},
        {"role": "assistant", "metadata": "get", "content": '{"a": 1}'},
        {"role": "assistant", "metadata": "weather", "content": "{}"},
        {"role": "observation", "content": "r"},
        {"role": "assistant", "metadata": "get", "content": "{}"},
        {"role": "observation", "content": "s"},
        {"role": "assistant", "content": "done"},
    ]
    calls = [
        {"type": "function", "function": {"name": name, "arguments": arguments}}
        for name, arguments in (("get", '{"a": 1}'), ("weather", "{}"), ("get", "{}"))
    ]
    openai = [
        user,
        {"role": "assistant", "content": "Both.", "tool_calls": calls[:2]},
        {"role": "tool", "content": "r"},
        {"role": "assistant", "content": None, "tool_calls": calls[2:]},
        {"role": "tool", "content": "s"},
        {"role": "assistant", "content": "done"},
    ]
    assert tokenizer.render(own) == tokenizer.render(openai)
    shown = "".join(segment.text for segment in tokenizer.render(own))
    assert shown.count("weather") == 1
    assert "<|observation|>" in shown
    assert own[0] is user
