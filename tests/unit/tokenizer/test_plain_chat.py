"""The written-out form of GLM-4's template gives the segments that the template gives."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers.models.glm2.glm4_tokenizer import SPECIAL_TOKENS
from mindformers.tokenizer import plain_chat
from mindformers.tokenizer.chat import ChatTemplate, default_template
from mindformers.tokenizer.conversation import normalise_messages
from mindformers.tokenizer.plain_chat import PlainChat
from mindformers.tokenizer.special_tokens import AddedToken, SpecialTokens


def table(*extra: AddedToken, without: str = "") -> SpecialTokens:
    own = [AddedToken(text, 300 + i) for i, text in enumerate(SPECIAL_TOKENS) if text != without]
    return SpecialTokens([*own, *extra])


def through_jinja(tokens: SpecialTokens) -> ChatTemplate:
    """Return the default template, made to look like one that came with a model folder."""
    return ChatTemplate(default_template() + "{# #}", tokens)


PLAIN, JINJA = ChatTemplate(default_template(), table()), through_jinja(table())

_special = st.sampled_from(SPECIAL_TOKENS)
_cut = st.integers(0, 20)
_pieces = (
    _special
    | st.builds(lambda t, c: t[:c], _special, _cut)
    | st.builds(lambda t, c: t[c:], _special, _cut)
    | st.sampled_from(["", " ", "\n", "\r\n", "a", "中", "\ufdd0", "<", "|>", "[", "{{ 1 }}", "{% x %}", "\u2028"])
    | st.text(max_size=4)
)  # fmt: skip
TEXT = st.lists(_pieces, max_size=5).map("".join)
LINE = TEXT.map(lambda text: "".join(text.splitlines()))
MESSAGE = st.builds(
    lambda role, content, more: {"role": role, "content": content, **more},
    st.sampled_from(["system", "user", "assistant", "observation", "tool", "function"]),
    TEXT | st.none() | st.lists(TEXT.map(lambda text: {"type": "text", "text": text}), max_size=2),
    st.fixed_dictionaries({}, optional={"metadata": LINE | st.none()}),
)


@given(st.lists(MESSAGE, min_size=1, max_size=5), st.booleans())
@settings(max_examples=400, deadline=None)
def test_both_forms_give_equal_segments(messages, prompt) -> None:
    segments = PLAIN.render(messages, add_generation_prompt=prompt)
    assert segments == JINJA.render(messages, add_generation_prompt=prompt)
    assert PlainChat(table()).render(normalise_messages(messages), prompt) == segments


TABLES = {
    "a marker of the answer": table(AddedToken("<think>", 400, special=False)),
    "a token with blanks": table(AddedToken("\n <|user|>", 400)),
    "a token of one character": table(AddedToken("q", 400)),
    "a newline": table(AddedToken("\n", 400)),
    "a token over two": table(AddedToken("<sop><|user|>", 400)),
    "no token of the prefix": table(without="<sop>"),
    "no token of a role": table(without="<|observation|>"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_another_kind_is_left_to_the_template(name: str) -> None:
    messages = [
        {"role": "user", "content": "q <think>"},
        {"role": "assistant", "content": "<think>a", "metadata": "f"},
        {"role": "observation", "content": " "},
    ]
    assert PlainChat(TABLES[name]).render(messages, False) is None
    rendered = ChatTemplate(default_template(), TABLES[name]).render(messages)
    assert rendered == through_jinja(TABLES[name]).render(messages)


@pytest.mark.parametrize("extra", ["user", "<|", "qa", "a<|user|>", "|>f", "\u4e2d\u6587"])
def test_further_special_tokens_change_nothing(extra: str) -> None:
    tokens = table(AddedToken(extra, 400))
    for text in ("q", "a", extra, extra[1:], extra[:-1], f"x{extra} y", "中"):
        messages = [
            {"role": "user", "content": text},
            {"role": "assistant", "content": text, "metadata": text},
        ]
        rendered = ChatTemplate(default_template(), tokens).render(messages)
        assert rendered == through_jinja(tokens).render(messages)


def test_tools_further_fields_and_long_texts_are_left_to_the_template(monkeypatch) -> None:
    chat = PlainChat(table())
    assert chat.render([{"role": "user", "content": "a", "name": "b"}], False) is None
    assert chat.render([{"role": "user", "content": "a", "tools": []}], False) is None
    monkeypatch.setattr(plain_chat, "_MAX_CHARS", 10)
    assert chat.render([{"role": "user", "content": "a" * 9}], False) is not None
    assert chat.render([{"role": "user", "content": "a" * 10}], False) is None


def test_an_ordinary_conversation_loads_no_jinja() -> None:
    code = (
        "import sys; from mindformers.tokenizer.chat import ChatTemplate, default_template;"
        "from mindformers.tokenizer.special_tokens import AddedToken, SpecialTokens;"
        "from mindformers.models.glm2.glm4_tokens import SPECIAL_TOKENS;"
        "table = SpecialTokens(AddedToken(t, i) for i, t in enumerate(SPECIAL_TOKENS));"
        "ChatTemplate(default_template(), table).render([{'role': 'user', 'content': 'a'}]);"
        "sys.exit('jinja2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
