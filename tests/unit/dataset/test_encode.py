from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mindformers.dataset.encode import (
    IGNORED_LABEL,
    NothingToLearnError,
    TooLongError,
    encode_conversation,
)
from mindformers.errors import DataError
from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer
from tests.support.shared import shared_file
from tests.support.vocab import tiny_tokens, write_tiny_vocab

# The tiny vocabulary: id = byte value for the 256 bytes, merges after them, then the special tokens
# in GLM-4's order.
TOKENS = tiny_tokens()
N = len(TOKENS)
E, M, P = N, N + 2, N + 4  # <|endoftext|> (fills rows), [gMASK], <sop>
S, U, A, OB = N + 6, N + 7, N + 8, N + 9  # system, user, assistant, observation
_ = -100
NL = 10  # newline
NEWLINES = TOKENS.index(b"\n\n")  # one token: a role's newline and a content's are encoded together
NIHAO = TOKENS.index("你好".encode())


def user(content):
    return {"role": "user", "content": content}


def answer(content, **more):
    return {"role": "assistant", "content": content, **more}


def call(name, arguments):
    return answer(arguments, metadata=name)


def observation(content):
    return {"role": "observation", "content": content}


def system(content, **more):
    return {"role": "system", "content": content, **more}


# Every case holds the messages, seq_length, the ids and the labels.
# The letters a to g are 97 to 103; h is 104, i 105, k 107, o 111, q 113, s 115, x 120. Digits begin at 48.
CASES = {
    "one turn": (
        [user("hi"), answer("ok")], 12,
        [M, P, U, NL, 104, 105, A, NL, 111, 107, U, E],
        [_, _, _, _, _, _, NL, 111, 107, U, _, _],
    ),
    "two turns": (
        [user("a"), answer("b"), user("c"), answer("d")], 16,
        [M, P, U, NL, 97, A, NL, 98, U, NL, 99, A, NL, 100, U, E],
        [_, _, _, _, _, NL, 98, U, _, _, _, NL, 100, U, _, _],
    ),
    "three turns": (
        [user("a"), answer("b"), user("c"), answer("d"), user("e"), answer("f")], 21,
        [M, P, U, NL, 97, A, NL, 98, U, NL, 99, A, NL, 100, U, NL, 101, A, NL, 102, U],
        [_, _, _, _, _, NL, 98, U, _, _, _, NL, 100, U, _, _, _, NL, 102, U, _],
    ),
    "a system message": (
        [system("s"), user("a"), answer("b")], 12,
        [M, P, S, NL, 115, U, NL, 97, A, NL, 98, U],
        [_, _, _, _, _, _, _, _, NL, 98, U, _],
    ),
    "a tool call, its result and the answer": (
        [user("q"), call("f", "{}"), observation("1"), answer("2")], 18,
        [M, P, U, NL, 113, A, 102, NL, 123, 125, OB, NL, 49, A, NL, 50, U, E],
        [_, _, _, _, _, 102, NL, 123, 125, OB, _, _, _, NL, 50, U, _, _],
    ),
    "two calls in one turn: the second assistant token is learnt": (
        [user("q"), call("f", "{}"), call("g", "{}"), observation("1"), answer("2")], 22,
        [M, P, U, NL, 113, A, 102, NL, 123, 125, A, 103, NL, 123, 125, OB, NL, 49, A, NL, 50, U],
        [_, _, _, _, _, 102, NL, 123, 125, A, 103, NL, 123, 125, OB, _, _, _, NL, 50, U, _],
    ),
    "words, then a call": (
        [user("q"), answer("x"), call("f", "{}"), observation("1"), answer("2")], 22,
        [M, P, U, NL, 113, A, NL, 120, A, 102, NL, 123, 125, OB, NL, 49, A, NL, 50, U, E, E],
        [_, _, _, _, _, NL, 120, A, 102, NL, 123, 125, OB, _, _, _, NL, 50, U, _, _, _],
    ),
    "two observations": (
        [user("q"), call("f", "{}"), observation("1"), observation("2"), answer("a")], 21,
        [M, P, U, NL, 113, A, 102, NL, 123, 125, OB, NL, 49, OB, NL, 50, A, NL, 97, U, E],
        [_, _, _, _, _, 102, NL, 123, 125, OB, _, _, _, _, _, _, NL, 97, U, _, _],
    ),
    "OpenAI's tool calls": (
        [user("q"), {"role": "assistant", "content": None, "tool_calls": [
            {"function": {"name": "f", "arguments": "{}"}}]}, {"role": "tool", "content": "1"}, answer("2")], 17,
        [M, P, U, NL, 113, A, 102, NL, 123, 125, OB, NL, 49, A, NL, 50, U],
        [_, _, _, _, _, 102, NL, 123, 125, OB, _, _, _, NL, 50, U, _],
    ),
    "it fits exactly: the closing token is the last label": (
        [user("hi"), answer("ok")], 10,
        [M, P, U, NL, 104, 105, A, NL, 111, 107],
        [_, _, _, _, _, _, NL, 111, 107, U],
    ),
    "one token too long: the closing token is lost": (
        [user("hi"), answer("ok")], 9,
        [M, P, U, NL, 104, 105, A, NL, 111],
        [_, _, _, _, _, _, NL, 111, 107],
    ),
    "cut inside the answer": (
        [user("hi"), answer("ok")], 8,
        [M, P, U, NL, 104, 105, A, NL],
        [_, _, _, _, _, _, NL, 111],
    ),
    "only the answer's newline is left": (
        [user("hi"), answer("ok")], 7,
        [M, P, U, NL, 104, 105, A],
        [_, _, _, _, _, _, NL],
    ),
    "cut inside the second question": (
        [user("a"), answer("b"), user("c"), answer("d")], 10,
        [M, P, U, NL, 97, A, NL, 98, U, NL],
        [_, _, _, _, _, NL, 98, U, _, _],
    ),
    "a control token's text in the question stays text": (
        [user("<sop>"), answer("b")], 13,
        [M, P, U, NL, 60, 115, 111, 112, 62, A, NL, 98, U],
        [_, _, _, _, _, _, _, _, _, NL, 98, U, _],
    ),
    "a control token's text in the answer is learnt as text": (
        [user("a"), answer("<sop>")], 13,
        [M, P, U, NL, 97, A, NL, 60, 115, 111, 112, 62, U],
        [_, _, _, _, _, NL, 60, 115, 111, 112, 62, U, _],
    ),
    "an empty message is dropped by the template": (
        [user(""), answer("ok")], 8,
        [M, P, A, NL, 111, 107, U, E],
        [_, _, NL, 111, 107, U, _, _],
    ),
    "an answer that begins with a newline": (
        [user("a"), answer("\nx")], 9,
        [M, P, U, NL, 97, A, NEWLINES, 120, U],
        [_, _, _, _, _, NEWLINES, 120, U, _],
    ),
    "nothing answers the last question: its end is not learnt": (
        [user("a"), answer("b"), user("c")], 12,
        [M, P, U, NL, 97, A, NL, 98, U, NL, 99, U],
        [_, _, _, _, _, NL, 98, U, _, _, _, _],
    ),
    "two answers in a row": (
        [user("a"), answer("b"), answer("c")], 12,
        [M, P, U, NL, 97, A, NL, 98, A, NL, 99, U],
        [_, _, _, _, _, NL, 98, A, NL, 99, U, _],
    ),
    "a system message in the middle": (
        [user("a"), answer("b"), system("s"), user("c"), answer("d")], 18,
        [M, P, U, NL, 97, A, NL, 98, S, NL, 115, U, NL, 99, A, NL, 100, U],
        [_, _, _, _, _, NL, 98, S, _, _, _, _, _, _, NL, 100, U, _],
    ),
    "the assistant begins": (
        [answer("b"), user("a"), answer("c")], 12,
        [M, P, A, NL, 98, U, NL, 97, A, NL, 99, U],
        [_, _, NL, 98, U, _, _, _, NL, 99, U, _],
    ),
    "Chinese": (
        [user("你好"), answer("你好")], 9,
        [M, P, U, NL, NIHAO, A, NL, NIHAO, U],
        [_, _, _, _, _, NL, NIHAO, U, _],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatGLM4Tokenizer:
    return ChatGLM4Tokenizer(write_tiny_vocab(tmp_path_factory.mktemp("vocab")))


@pytest.mark.parametrize("case", CASES, ids=lambda name: name.replace(" ", "_"))
def test_labels_are_those_written_by_hand(case: str, tokenizer: ChatGLM4Tokenizer) -> None:
    messages, seq_length, input_ids, labels = CASES[case]
    sample = encode_conversation(tokenizer, messages, seq_length)
    assert sample.input_ids.tolist() == input_ids
    assert sample.labels.tolist() == labels
    assert sample.input_ids.dtype == sample.labels.dtype == np.int32
    assert len(input_ids) == len(labels) == seq_length  # the lists above are whole


def test_tool_schemas_are_never_learnt(tmp_path: Path) -> None:
    template = (  # GLM-4's shape with a preamble of one letter
        "[gMASK]<sop>{% for item in messages %}{% if item['tools'] is defined %}<|system|>\nT"
        "{% for tool in item['tools'] %}{{ tool['function']['name'] }}{% endfor %}{% endif %}"
        "{% if item['content'] %}<|{{ item['role'] }}|>{{ item['metadata'] }}\n{{ item['content'] }}{% endif %}"
        "{% endfor %}"
    )
    tokenizer = ChatGLM4Tokenizer(write_tiny_vocab(tmp_path), chat_template=template)
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    expected_ids = [M, P, S, NL, 84, 102, U, NL, 113, A, 102, NL, 123, 125, U, E]
    expected_labels = [_, _, _, _, _, _, _, _, _, 102, NL, 123, 125, U, _, _]
    for messages, given_tools in (
        ([user("q"), call("f", "{}")], tools),
        ([system("", tools=tools), user("q"), call("f", "{}")], None),
    ):
        sample = encode_conversation(tokenizer, messages, 16, tools=given_tools)
        assert sample.input_ids.tolist() == expected_ids
        assert sample.labels.tolist() == expected_labels


def test_the_real_vocabulary_gives_the_published_ids() -> None:
    tokenizer = ChatGLM4Tokenizer(shared_file("data/glm4_tokenizer.model"))
    sample = encode_conversation(tokenizer, [user("你好"), answer("你好世界")], 12)
    assert sample.input_ids.tolist() == [
        151331, 151333, 151336, 198, 109377, 151337, 198, 109377, 99011, 151336, 151329, 151329]  # fmt: skip
    assert sample.labels.tolist() == [_, _, _, _, _, 198, 109377, 99011, 151336, _, _, _]


def test_the_counts_say_what_was_cut_and_what_is_learnt(tokenizer: ChatGLM4Tokenizer) -> None:
    messages = [user("hi"), answer("ok")]  # 10 tokens and the closing one
    whole, cut = (
        encode_conversation(tokenizer, messages, 32),
        encode_conversation(tokenizer, messages, 8),
    )
    assert (whole.num_tokens, whole.num_trained, whole.num_cut) == (11, 4, 0)
    assert (cut.num_tokens, cut.num_trained, cut.num_cut) == (8, 2, 2)


@pytest.mark.parametrize(("messages", "seq_length", "reason"), [
    ([user("hi"), answer("ok")], 6, "the answer begins after token 6"),
    ([user("hi"), answer("ok")], 1, "the answer begins after token 1"),
    ([user("hi"), answer("")], 12, "there is no answer"),
    ([user("hi")], 12, "there is no answer"),
])  # fmt: skip
def test_a_row_with_nothing_to_learn_is_refused(tokenizer, messages, seq_length, reason) -> None:
    with pytest.raises(
        NothingToLearnError, match=f"data.jsonl:7: every label would be -100: {reason}"
    ):
        encode_conversation(tokenizer, messages, seq_length, where="data.jsonl:7")


def test_a_long_conversation_may_be_refused_instead_of_cut(tokenizer: ChatGLM4Tokenizer) -> None:
    messages = [user("hi"), answer("ok")]
    assert encode_conversation(tokenizer, messages, 10, truncate=False).num_cut == 0
    with pytest.raises(
        TooLongError, match="f:1: the conversation has 11 tokens; allowed: at most 10 "
    ):
        encode_conversation(tokenizer, messages, 9, truncate=False, where="f:1")


def test_a_conversation_the_tokenizer_refuses_is_a_data_error_with_its_line(tokenizer) -> None:
    with pytest.raises(DataError, match=r"f:3: messages\[0\]: unknown role 'usr'"):
        encode_conversation(tokenizer, [{"role": "usr", "content": "a"}], 8, where="f:3")


_texts = st.text(alphabet=st.sampled_from("ab \n<|user|><sop>你好{}1."), min_size=1, max_size=12)
_turns = st.builds(
    lambda role, content, name: {"role": role, "content": content}
    | ({"metadata": name} if role == "assistant" and name else {}),
    st.sampled_from(["system", "user", "assistant", "observation"]),
    _texts, st.sampled_from(["", "f", "get_weather"]),
)  # fmt: skip


def rows_by_message(
    tokenizer: ChatGLM4Tokenizer, messages: list, seq_length: int
) -> tuple[list, list]:
    """The rule as the original states it: a loss flag per message, the flags shifted right by one."""
    ids, flags = list(tokenizer.get_prefix_tokens()), [False, False]
    for message in messages:
        piece = tokenizer.build_single_message(
            message["role"], message.get("metadata", ""), message["content"]
        )
        ids += piece
        flags += [message["role"] == "assistant"] * len(piece)
    ids.append(tokenizer.special_tokens["<|user|>"])
    flags = [False, *flags]
    labels = [token if flag else IGNORED_LABEL for token, flag in zip(ids, flags, strict=True)]
    missing = seq_length + 1 - len(ids)
    ids = (ids + [tokenizer.pad_token_id] * missing)[: seq_length + 1]
    labels = (labels + [IGNORED_LABEL] * missing)[: seq_length + 1]
    return ids[:-1], labels[1:]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(messages=st.lists(_turns, min_size=1, max_size=6), seq_length=st.integers(1, 80))
def test_rows_equal_the_rule_message_by_message(tokenizer, messages, seq_length) -> None:
    input_ids, labels = rows_by_message(tokenizer, messages, seq_length)
    if all(label == IGNORED_LABEL for label in labels):
        with pytest.raises(NothingToLearnError):
            encode_conversation(tokenizer, messages, seq_length)
        return
    sample = encode_conversation(tokenizer, messages, seq_length)
    assert sample.input_ids.tolist() == input_ids
    assert sample.labels.tolist() == labels
    learnt = sample.labels != IGNORED_LABEL
    assert sample.num_trained == learnt.sum()
    # A label is the next input, and text never became a control token.
    assert np.array_equal(sample.labels[:-1][learnt[:-1]], sample.input_ids[1:][learnt[:-1]])
    roles = [token for token in input_ids if token in (S, U, A, OB)]
    assert len(roles) <= len(messages) + 1
