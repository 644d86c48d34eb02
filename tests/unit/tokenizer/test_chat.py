"""Rendering conversations: byte for byte what the published template renders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers.errors import TokenizerError
from mindformers.models.glm2.glm4_tokenizer import SPECIAL_TOKENS
from mindformers.tokenizer.chat import ChatTemplate, chat_template, default_template
from mindformers.tokenizer.special_tokens import AddedToken, SpecialTokens
from tests.support.shared import shared_file

TABLE = SpecialTokens(AddedToken(text, 300 + i) for i, text in enumerate(SPECIAL_TOKENS))
# Rendered by transformers.utils.chat_template_utils with the template of glm-4-9b-chat.
GOLDEN = Path(__file__).parents[2] / "golden" / "chat" / "glm4_prompts.json"
CASES = json.loads(GOLDEN.read_text(encoding="utf-8"))


def text_of(segments):
    return "".join(segment.text for segment in segments)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_the_default_template_equals_the_golden_prompt(case):
    template = ChatTemplate(default_template(), TABLE)
    segments = template.render(
        case["messages"], add_generation_prompt=case["add_generation_prompt"]
    )
    assert text_of(segments) == case["text"]


TOOLS = st.lists(
    st.sampled_from(["python", "simple_browser", "cogview"])
    | st.dictionaries(
        st.text(max_size=5), st.none() | st.integers() | st.text(max_size=9), max_size=3
    ),
    max_size=4,
    unique_by=str,
)
MESSAGES = st.lists(
    st.tuples(
        st.sampled_from(["system", "user", "assistant", "observation"]),
        st.text(max_size=20),
        st.none() | st.text("abc_ 中", max_size=6),
        st.none() | TOOLS,
    ),
    min_size=1,
    max_size=6,
)


@given(MESSAGES, st.booleans())
@settings(max_examples=150)
def test_the_default_template_renders_as_the_published_one(rows, prompt):
    published = shared_file("data/glm4_chat_template.jinja").read_text(encoding="utf-8")
    messages = []
    for role, content, metadata, tools in rows:
        message = {"role": role, "content": content}
        if metadata is not None:
            message["metadata"] = metadata
        if tools is not None:
            message["tools"] = [
                {"type": tool}
                if isinstance(tool, str)
                else {"type": "function", "function": {**tool, "name": f"f{i}"}}
                for i, tool in enumerate(tools)
            ]
        messages.append(message)
    ours = ChatTemplate(default_template(), TABLE).render(messages, add_generation_prompt=prompt)
    theirs = ChatTemplate(published, TABLE).render(messages, add_generation_prompt=prompt)
    assert ours == theirs


def test_the_tools_argument_goes_on_the_system_message():
    tool = {"name": "f", "description": "d"}
    template = ChatTemplate(default_template(), TABLE)
    user = {"role": "user", "content": "x"}
    wrapped = {"type": "function", "function": tool}
    for given_system, content in (([], ""), ([{"role": "system", "content": "s"}], "s")):
        expected = [{"role": "system", "content": content, "tools": [wrapped]}, user]
        assert template.render([*given_system, user], tools=[tool]) == template.render(expected)
    assert template.render([user], tools=[]) == template.render([user])
    inside = [{"role": "system", "content": "", "tools": [tool]}, user]
    with pytest.raises(TokenizerError, match="tools are given twice"):
        template.render(inside, tools=[tool])


def test_a_template_that_reads_tools_itself_gets_them_as_a_variable():
    source = "{% if tools %}{{ tools[0].function.name }}{% endif %}{{ messages | length }}"
    template = ChatTemplate(source, TABLE)
    user = {"role": "user", "content": "x"}
    assert text_of(template.render([user], tools=[{"name": "weather_of"}])) == "weather_of1"
    assert text_of(template.render([user])) == "1"


def test_a_template_that_reads_tool_messages_gets_openai_s_form():
    source = (
        "{% for m in messages %}{% if m.role == 'tool' %}(result){% elif m.tool_calls %}"
        "{{ m.tool_calls[0].function.name }}{% endif %}{% endfor %}"
    )
    call = {"type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "r"},
    ]
    assert text_of(ChatTemplate(source, TABLE).render(messages)) == "look_up(result)"


def test_openai_and_glm_form_of_a_tool_dialogue_render_alike():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    openai = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": [call, call]},
        {"role": "tool", "tool_call_id": "1", "content": "r"},
    ]
    glm = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "metadata": "f", "content": '{"a": 1}'},
        {"role": "assistant", "metadata": "f", "content": '{"a": 1}'},
        {"role": "observation", "content": "r"},
    ]
    template = ChatTemplate(default_template(), TABLE)
    assert template.render(openai) == template.render(glm)


def test_markers_of_an_answer_are_control_in_the_assistant_s_words_only():
    table = SpecialTokens([AddedToken("<|user|>", 300), AddedToken("<think>", 301, special=False)])
    template = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}", table)
    controls = [
        [s.text for s in template.render([{"role": role, "content": "<think>a<|user|>"}]) if s[1]]
        for role in ("user", "assistant")
    ]
    assert controls == [[], ["<think>"]]


def test_constants_of_the_tokenizer_may_be_control_tokens_and_variables_may_not():
    template = ChatTemplate("{{ eos_token }}{{ note }}", TABLE)
    user = [{"role": "user", "content": "x"}]
    eos = {"eos_token": "<|endoftext|>"}
    segments = template.render(user, variables={"note": "<|user|>"}, constants=eos)
    assert segments == [("<|endoftext|>", True), ("<|user|>", False)]
    assert template.variables == {"eos_token", "note"}


@pytest.mark.parametrize("name", ["a<|user|>", "[gMASK]"])
def test_a_tool_whose_name_holds_a_special_token_is_refused(name):
    template = ChatTemplate(default_template(), TABLE)
    with pytest.raises(
        TokenizerError, match="holds a special token; the model could never call it"
    ):
        template.render([{"role": "user", "content": "x"}], tools=[{"name": name}])


def test_templates_are_compiled_once_per_table():
    assert chat_template("a", TABLE) is chat_template("a", TABLE)
    assert chat_template("a", TABLE) is not chat_template("b", TABLE)


def test_a_thousand_tools_render_quickly():
    tools = [{"name": f"f{i}", "parameters": {"pattern": "(a+)+$"}} for i in range(1000)]
    text = text_of(ChatTemplate(default_template(), TABLE).render([{"role": "user"}], tools=tools))
    assert text.count("## f") == 1000
