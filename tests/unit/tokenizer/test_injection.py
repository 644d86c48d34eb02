"""Text of others never becomes a control token: properties over all specials, fields and seams."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers.errors import TokenizerError
from mindformers.models.glm2.glm4_tokenizer import SPECIAL_TOKENS
from mindformers.tokenizer.chat import ChatTemplate, default_template
from mindformers.tokenizer.injection import (
    TextMarker,
    choose_sentinel,
    map_strings,
    strings_in,
)
from mindformers.tokenizer.sandbox import compile_template
from mindformers.tokenizer.special_tokens import AddedToken, SpecialTokens

TABLE = SpecialTokens(AddedToken(text, 300 + i) for i, text in enumerate(SPECIAL_TOKENS))
MARKER = TextMarker(SPECIAL_TOKENS)
DEFAULT = ChatTemplate(default_template(), TABLE)
S = "\ufdd0"


def pieces_of_tokens():
    """Whole special tokens, their halves, other cases, blanks and ordinary text, glued together."""
    token = st.sampled_from(SPECIAL_TOKENS)
    cut = st.integers(0, 20)
    half = st.builds(lambda t, c: t[:c], token, cut) | st.builds(lambda t, c: t[c:], token, cut)
    other = st.sampled_from(
        ["", " ", "\n", "a", "user", "中", S, "\ufdd1", "<", "|", ">", "[", "]"]
    )
    case = st.builds(str.upper, token) | st.builds(str.lower, token)
    return st.lists(token | half | other | case, max_size=5).map("".join)


def controls(segments):
    return [segment.text for segment in segments if segment.is_control]


FIELD = pieces_of_tokens()
LINE = FIELD.map(lambda text: " ".join(text.split()))
NAME = LINE.filter(
    lambda t: t.strip() and t.isprintable() and not any(s in t for s in SPECIAL_TOKENS)
)


@given(FIELD, LINE, FIELD, FIELD, FIELD, NAME)
@settings(max_examples=150)
def test_the_default_template_yields_only_its_own_control_tokens(
    user, metadata, answer, result, described, name
):
    tool = {"name": name, "description": described, "parameters": {described: [{"enum": [user]}]}}
    messages = [
        {"role": "system", "content": described, "tools": [tool]},
        {"role": "user", "content": user},
        {"role": "assistant", "content": answer, "metadata": metadata},
        {"role": "tool", "content": result},
    ]
    segments = DEFAULT.render(messages, add_generation_prompt=True)
    kept = [m for m in messages if m["content"]]
    roles = {"system": "<|system|>", "user": "<|user|>", "tool": "<|observation|>"}
    expected = ["[gMASK]", "<sop>", "<|system|>"]
    expected += [roles.get(m["role"], "<|assistant|>") for m in kept] + ["<|assistant|>"]
    assert controls(segments) == expected
    assert "".join(s.text for s in segments) == unmarked(messages, tool)


def unmarked(messages, tool):
    wrapped = [{"type": "function", "function": tool}]
    plain = [{**m, "role": m["role"].replace("tool", "observation")} for m in messages]
    plain[0]["tools"] = wrapped
    return compile_template(default_template()).render(
        {"messages": plain, "add_generation_prompt": True}
    )


# Each template glues fields to its own text and to one another in another way.
GLUE = [
    "{{ m.content }}{{ m.metadata }}{{ m.note }}",
    "<|{{ m.content }}|>",
    "<|us{{ m.content }}{{ m.metadata }}|>",
    "<{{ m.content | trim }}{{ m.metadata | trim }}>",
    "{{ m.content | trim | lower }}{{ m.metadata | upper }}[g{{ m.note | trim }}",
    "{{ m.content ~ m.metadata }}|user|>{{ m.note }}",
    "{{ [m.content, m.metadata, m.note] | join }}",
    "{{ m.content | tojson }}{{ m | tojson }}",
    "{% for c in m.content %}{{ c }}{% endfor %}",
    "{{ m.content | reverse }}{{ m.metadata | title }}",
    "{{ m.content + m.metadata }}{{ m.note.strip() }}",
]


@given(FIELD, LINE, FIELD, st.sampled_from(GLUE))
@settings(max_examples=300)
def test_no_template_of_many_kinds_lets_text_become_a_control_token(user, line, note, glue):
    template = ChatTemplate("<sop>{% for m in messages %}" + glue + "{% endfor %}", TABLE)
    message = {"role": "user", "content": user, "metadata": line, "note": note}
    # a template may undo or depend on the mark; then it is refused, which is safe too
    with contextlib.suppress(TokenizerError):
        assert controls(template.render([message])) == ["<sop>"]


@pytest.mark.parametrize("glue", GLUE)
def test_none_of_these_templates_is_refused_for_usual_text(glue):
    template = ChatTemplate("{% for m in messages %}" + glue + "{% endfor %}", TABLE)
    for text in ("Hello", "x < y [1]", "中文 -> <b>"):
        message = {"role": "user", "content": text, "metadata": text, "note": text}
        assert controls(template.render([message])) == []


@pytest.mark.parametrize("special", SPECIAL_TOKENS)
def test_a_token_split_over_two_fields_is_not_joined(special):
    template = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}", TABLE)
    for cut in range(1, len(special)):
        halves = [{"role": "user", "content": t} for t in (special[:cut], special[cut:])]
        segments = template.render(halves)
        assert controls(segments) == []
        assert "".join(s.text for s in segments) == special


@pytest.mark.parametrize("special", SPECIAL_TOKENS)
def test_a_token_spelt_by_the_template_around_a_field_is_text(special):
    for start in range(len(special)):
        for end in range(start + 1, len(special) + 1):
            source = special[:start] + "{{ messages[0].content }}" + special[end:]
            segments = ChatTemplate(source, TABLE).render(
                [{"role": "user", "content": special[start:end]}]
            )
            assert controls(segments) == []
            assert "".join(s.text for s in segments) == special


def test_ordinary_text_is_not_marked():
    for text in ("", "Hello", "a < b and [x]", "f(x) -> y", "1 | 2", "<div>", "  \n"):
        assert MARKER.mark(text, S) == text


def test_marks_break_whole_tokens_halves_and_fragments():
    assert MARKER.mark("a<|user|>b", S) == f"a<{S}|user|>b"
    assert MARKER.mark("a<|USER|>b", S) == f"a<{S}|USER|>b"
    assert MARKER.mark("a <|us \n", S) == f"a <|us{S} \n"
    assert MARKER.mark(" er|> b", S) == f" {S}er|> b"
    assert MARKER.mark("user", S) == f"{S}user"


def test_the_sentinel_is_a_character_no_text_holds():
    assert choose_sentinel(["abc", "中"]) == "\ufdd0"
    assert choose_sentinel(["\ufdd0", "x\ufdd1"]) == "\ufdd2"
    every = "".join(map(chr, range(0xFDD0, 0xFDF0)))
    assert choose_sentinel([every]) == "\U000f0000"
    with pytest.raises(TokenizerError, match="every character that could mark"):
        choose_sentinel([every, "".join(map(chr, range(0xF0000, 0xF1000)))])


def test_a_text_full_of_sentinels_comes_through_unchanged():
    content = "".join(map(chr, range(0xFDD0, 0xFDF0))) + "<|user|>"
    segments = DEFAULT.render([{"role": "user", "content": content}])
    assert segments[-1] == ("\n" + content, False)


def test_strings_of_a_value_are_found_and_changed_everywhere():
    value = {"a": ["b", {"c": ("d", 1, None, True)}], "e": 2.5}
    assert sorted(strings_in(value)) == ["a", "a", "b", "c", "d", "e"][1:]
    assert (
        json.dumps(map_strings(value, str.upper))
        == '{"A": ["B", {"C": ["D", 1, null, true]}], "E": 2.5}'
    )


def test_a_value_nested_without_end_or_of_another_kind_is_refused():
    loop: list = []
    loop.append(loop)
    with pytest.raises(TokenizerError, match="nested deeper than 100 levels"):
        list(strings_in(loop))
    with pytest.raises(TokenizerError, match="tools: holds a set"):
        list(strings_in({"a": {1}}, where="tools"))


def test_a_template_that_asks_for_a_special_token_in_a_text_is_refused_only_then():
    template = ChatTemplate(
        "{% for m in messages %}{{ 'X' if '<|user|>' in m.content else m.content }}{% endfor %}",
        TABLE,
    )
    assert template.render([{"role": "user", "content": "a"}]) == [("a", False)]
    with pytest.raises(TokenizerError, match="looks at a special token's text inside a message"):
        template.render([{"role": "user", "content": "a <|user|>"}])
