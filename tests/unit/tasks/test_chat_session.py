"""A conversation that is going on, without a terminal."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from mindformers.agent.cached_model import Answer
from mindformers.agent.loop import Watcher
from mindformers.dataset.formats import read_conversations
from mindformers.dataset.messages import Conversation
from mindformers.errors import ConfigError, DataError, GenerationError
from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer
from mindformers.tasks.chat_commands import run_command
from mindformers.tasks.chat_session import ChatSession
from mindformers.tasks.chat_view import ChatView, visible
from tests.support.scripted_chat import answer_to
from tests.support.scripted_model import ScriptedNetwork
from tests.support.vocab import write_tiny_vocab


def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatGLM4Tokenizer:
    return ChatGLM4Tokenizer(str(write_tiny_vocab(tmp_path_factory.mktemp("vocab"))))


def begin(tokenizer: Any, **options: Any) -> ChatSession:
    return ChatSession(ScriptedNetwork(answer_to), tokenizer, **options)


def ask(session: ChatSession, question: str) -> str:
    return session.ask(question, Watcher(), threading.Event()).answer


def contents(session: ChatSession) -> list[str]:
    return [message["content"] for message in session.messages]


def test_the_history_goes_into_the_next_prompt_and_undo_takes_it_out(tokenizer) -> None:
    session = begin(tokenizer, system="be kind")
    ask(session, "one")
    ask(session, "two")
    assert session.network.prompts[1] == (
        "[gMASK]<sop><|system|>\nbe kind<|user|>\none<|assistant|>\nyou said: one"
        "<|user|>\ntwo<|assistant|>"
    )
    assert session.undo() == "two"
    assert contents(session) == ["be kind", "one", "you said: one"]
    session.undo()
    with pytest.raises(DataError, match="there is nothing to take back"):
        session.undo()


def test_without_history_every_question_stands_alone_and_can_be_asked_again(tokenizer) -> None:
    session = begin(tokenizer, keep_history=False)
    ask(session, "one")
    session.ask_again(Watcher(), threading.Event())
    assert session.network.prompts == ["[gMASK]<sop><|user|>\none<|assistant|>"] * 2
    assert session.messages == []


def test_where_no_conversation_is_kept_taking_back_and_saving_say_so(
    tokenizer, tmp_path: Path
) -> None:
    session = begin(tokenizer, keep_history=False)
    ask(session, "one")
    for refused in (session.undo, lambda: session.save(tmp_path / "a.json")):
        with pytest.raises(DataError, match="no conversation is kept.*start without --no_history"):
            refused()


def test_asking_again_draws_from_another_seed_and_replaces_the_answer(tokenizer) -> None:
    session = begin(tokenizer, settings={"seed": 5, "do_sample": True})
    with pytest.raises(DataError, match="nothing was asked yet"):
        session.ask_again(Watcher(), threading.Event())
    ask(session, "one")
    for _ in range(2):
        session.ask_again(Watcher(), threading.Event())
    ask(session, "two")
    assert [each["seed"] for each in session.network.settings] == [5, 6, 7, 5]
    assert contents(session) == ["one", "you said: one", "two", "you said: two"]


def test_what_cannot_be_answered_changes_nothing(tokenizer) -> None:
    session = begin(tokenizer)
    ask(session, "one")
    before = list(session.messages)

    def fail(prompt: str) -> str:
        raise GenerationError("no room")

    session.network.answers = fail
    for again in (lambda: ask(session, "two"), lambda: session.ask_again(Watcher(), STOP)):
        with pytest.raises(GenerationError, match="no room"):
            again()
        assert session.messages == before


STOP = threading.Event()


def test_settings_are_checked_and_can_be_taken_back(tokenizer) -> None:
    session = begin(tokenizer)
    session.set("temperature", 0.5)
    with pytest.raises(GenerationError, match="temperature: found -1"):
        session.set("temperature", -1)
    with pytest.raises(GenerationError, match="did you mean 'top_p'"):
        session.set("topp", 1)
    with pytest.raises(ConfigError, match=r"seed: found 1\.5; allowed: a whole number from 0 on"):
        session.set("seed", 1.5)
    assert session.settings == {"temperature": 0.5}
    session.set("temperature", None)
    assert session.settings == {}


def test_stats_are_sums_over_the_answers(tokenizer) -> None:
    session = begin(tokenizer)
    session.counts.add(Answer("a", "stop", 10, 5, 2.0, 4, 6, 3))
    session.counts.add(Answer("b", "stop", 20, 15, 2.0, 8, 1, 0))
    output = io.StringIO()
    run_command("/stats", session, ChatView(output))
    assert output.getvalue().splitlines() == [
        "answers          2",
        "prompt tokens    30 (12 of them cached)",
        "answer tokens    20 (5.0 tokens/s)",
        "guessed tokens   7 (3 of them right)",
        "context          35 of 4096 tokens",
    ]


def test_a_saved_conversation_is_loaded_again_and_is_a_row_of_training_data(
    tokenizer, tmp_path: Path
) -> None:
    session = begin(tokenizer, system="be kind", tools=[add])
    with pytest.raises(DataError, match="nothing was said yet"):
        session.save(tmp_path / "a.json")
    ask(session, 'call add {"a": 2, "b": 3}')
    assert session.save(tmp_path / "a.json") == 5
    ask(session, "你好")
    assert session.save(tmp_path / "a.json") == 7
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    saved = json.loads(text)
    assert "你好" in text
    assert [message["role"] for message in saved["messages"]] == [
        "system", "user", "assistant", "tool", "assistant", "user", "assistant",
    ]  # fmt: skip
    assert saved["messages"][2]["tool_calls"][0]["function"] == {
        "name": "add",
        "arguments": '{"a": 2, "b": 3}',
    }
    assert saved["tools"][0]["function"]["name"] == "add"
    other = begin(tokenizer, tools=[add])
    assert other.load(tmp_path / "a.json") == 7
    assert (other.messages, other.system) == (session.messages, "be kind")
    for each in (session, other):
        ask(each, "more")
    assert session.network.prompts[-1] == other.network.prompts[-1]
    (row,) = read_conversations(tmp_path / "a.json", order="strict")
    assert isinstance(row, Conversation)
    assert [m.metadata for m in row.messages if m.metadata] == ["add"]
    assert other.undo() == "more"


def test_a_file_of_somebody_elses_is_not_replaced(tokenizer, tmp_path: Path) -> None:
    (tmp_path / "thesis.json").write_text("{}", encoding="utf-8")
    session = begin(tokenizer)
    ask(session, "one")
    with pytest.raises(DataError, match=r"thesis\.json: the file exists already"):
        session.save(tmp_path / "thesis.json")
    assert (tmp_path / "thesis.json").read_text(encoding="utf-8") == "{}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "holds a list; allowed: one JSON object"),
        ("{", "is not JSON"),
        ("{}", "a conversation cannot be a NoneType"),
        ('{"messages": []}', "the conversation is empty"),
        ('{"messages": [{"role": "usr", "content": "x"}]}', r"messages\[0\]: unknown role 'usr'"),
        ('{"messages": "text"}', "a conversation cannot be a str"),
    ],
)
def test_a_file_without_a_conversation_is_refused(
    tokenizer, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    session = begin(tokenizer)
    ask(session, "one")
    before = list(session.messages)
    with pytest.raises(DataError, match=message):
        session.load(tmp_path / "a.json")
    assert session.messages == before


def test_counts_are_sums_over_the_answers(tokenizer) -> None:
    session = begin(tokenizer, tools=[add])
    ask(session, 'call add {"a": 2, "b": 3}')
    counts = session.counts
    assert counts.answers == 2
    assert counts.completion_tokens > 10
    assert counts.prompt_tokens > counts.context_tokens > 100


def test_control_characters_become_pictures_of_themselves() -> None:
    assert visible("a\x1b[2J\x00\x7f\x9b\r\n\tb中😀") == "a␛[2J␀␡\ufffd␍\n\tb中😀"


def test_a_stream_set_to_ascii_shows_code_points() -> None:
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="\n")
    view = ChatView(output)
    view.text("中")
    view.say("x")
    output.flush()
    assert output.buffer.getvalue() == b"\\u4e2dx\n"
