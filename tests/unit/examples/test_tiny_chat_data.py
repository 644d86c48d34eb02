"""The example data sets keep what the tiny model relies on: form, short answers, distinct rows."""

from __future__ import annotations

import json
import re
import statistics
import threading
from pathlib import Path
from typing import Any

import pytest

from examples.tiny_chat.train_rank_file import main
from mindformers.agent.tool_file import load_tools
from mindformers.dataset.encode import encode_conversation
from mindformers.dataset.formats import read_conversations
from mindformers.dataset.messages import Conversation
from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer

FOLDER = Path(__file__).resolve().parents[3] / "examples" / "tiny_chat"
DATA, TOOLS = FOLDER / "alpaca_tiny.json", FOLDER / "tools_tiny.json"
CALLS = FOLDER / "calls_tiny.json"
CHINESE = re.compile(r"[\u4e00-\u9fff]")
TYPES = {"string": str, "integer": int, "number": (int, float), "boolean": bool}


def rows() -> list[dict[str, str]]:
    loaded: list[dict[str, str]] = json.loads(DATA.read_text(encoding="utf-8"))
    return loaded


def conversations(path: Path) -> list[Conversation]:
    read = list(read_conversations(path, order="strict"))
    wrong = [str(row) for row in read if not isinstance(row, Conversation)]
    assert not wrong
    return [row for row in read if isinstance(row, Conversation)]


def tokenizer_of(folder: Path, vocab_size: int) -> ChatGLM4Tokenizer:
    output = folder / f"{vocab_size}.model"
    assert (
        main(["--data", str(DATA), "--vocab_size", str(vocab_size), "--output", str(output)]) == 0
    )
    return ChatGLM4Tokenizer(str(output))


def test_half_of_the_rows_are_english_and_half_chinese() -> None:
    is_chinese = [bool(CHINESE.search(row["instruction"])) for row in rows()]
    assert len(is_chinese) == 260
    assert sum(is_chinese) == 130


def test_every_row_has_the_three_alpaca_keys_and_clean_text() -> None:
    for row in rows():
        assert list(row) == ["instruction", "input", "output"]
        assert row["instruction"]
        assert row["output"]
        for text in row.values():
            assert text == text.strip()
            assert text.isprintable()
            assert "  " not in text


def test_no_two_rows_ask_the_same() -> None:
    asked = [row.messages[0].content for row in conversations(DATA)]
    bare = [re.sub(r"\W", "", text).casefold() for text in asked]
    assert len(set(bare)) == len(bare)


def test_answers_are_short() -> None:
    for row in rows():
        answer = row["output"]
        if CHINESE.search(answer):
            assert 4 <= len(answer) <= 24, row
        elif re.search("[A-Za-z]", answer):
            assert 3 <= len(answer.split()) <= 14, row
        else:
            assert len(answer) <= 24, row  # numbers in order


def test_no_row_mixes_half_width_and_full_width_punctuation() -> None:
    for row in rows():
        if CHINESE.search(row["output"]):
            assert not re.search(r"[,?!;:]", row["output"]), row
        else:
            assert not re.search(r"[，。？！；：]", row["output"]), row


def test_the_model_says_who_it_is_in_both_languages() -> None:
    answers = {row["instruction"]: row["output"] for row in rows()}
    assert answers["Who are you?"] == "I am a tiny GLM-4 model trained on a CPU."
    assert answers["你是谁？"] == "我是在 CPU 上训练的小型 GLM-4 模型。"


@pytest.mark.parametrize(("vocab_size", "median", "longest"), [(1024, 30, 48), (2034, 22, 32)])
def test_every_conversation_fits_the_documented_length(
    tmp_path: Path, vocab_size: int, median: int, longest: int
) -> None:
    tokenizer = tokenizer_of(tmp_path, vocab_size)
    seq_length = 64
    lengths = []
    for row in conversations(DATA):
        messages = [message.as_dict() for message in row.messages]
        sample = encode_conversation(tokenizer, messages, seq_length, truncate=False)
        ids = sample.input_ids[: sample.num_tokens].tolist()
        lengths.append(len(ids))
        question, answer = (message.content for message in row.messages)
        spoken = f"<|user|>\n{question}<|assistant|>\n{answer}<|user|>"
        decoded = tokenizer.decode(ids, spaces_between_special_tokens=False)
        assert decoded == f"[gMASK]<sop>{spoken}"
    assert statistics.median(lengths) == median
    assert max(lengths) == longest


def test_tool_calls_name_an_offered_tool_with_arguments_that_fit_its_schema() -> None:
    num_calls = 0
    for conversation in conversations(TOOLS):
        system = conversation.messages[0]
        offered = {tool["function"]["name"]: tool["function"] for tool in system.tools}
        assert offered
        for message in conversation.messages:
            if message.metadata:
                num_calls += 1
                check_arguments(
                    json.loads(message.content), offered[message.metadata]["parameters"]
                )
    assert num_calls >= 12


def check_arguments(arguments: dict[str, Any], schema: dict[str, Any]) -> None:
    assert set(schema["required"]) <= set(arguments) <= set(schema["properties"])
    for name, value in arguments.items():
        wanted = schema["properties"][name]
        assert isinstance(value, TYPES[wanted["type"]])
        assert value in wanted.get("enum", [value])


def test_tool_dialogues_cover_the_cases_that_documents_show() -> None:
    talks = conversations(TOOLS)
    orders = ["".join(message.role[0] for message in talk.messages) for talk in talks]
    assert "sua" in orders  # no call needed
    assert "suaoa" in orders  # one call
    assert "suaoaoa" in orders  # one call after the other
    assert "suaaooa" in orders  # two calls at once
    assert "suaoauaoa" in orders  # a further question
    assert any(talk.messages[0].content for talk in talks)  # an instruction beside the tools
    assert any("error" in message.content for talk in talks for message in talk.messages)


def test_tool_dialogues_render_with_the_call_as_metadata(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, 1024)
    first = [message.as_dict() for message in conversations(TOOLS)[0].messages]
    text = "".join(segment.text for segment in tokenizer.render(first))
    assert '"name": "get_weather"' in text
    assert text.endswith(
        '<|user|>\nWhat is the weather in Paris?<|assistant|>get_weather\n{"city": "Paris"}'
        '<|observation|>\n{"sky": "sunny", "temperature_c": 22}'
        "<|assistant|>\nIt is sunny in Paris, 22 degrees Celsius."
    )


def test_the_dialogues_of_the_quickstart_tell_what_its_tool_does() -> None:
    (tool,) = load_tools(FOLDER / "weather.py")
    talks = conversations(CALLS)
    turns = [
        talk.messages[start : start + 4]
        for talk in talks
        for start in range(0, len(talk.messages), 4)
    ]
    assert (len(talks), len(turns)) == (16, 32)
    assert all(list(talk.tools) == [tool.schema] for talk in talks)
    for question, call, result, answer in turns:
        assert call.metadata == tool.name
        assert result.content == tool.call(call.content, 5.0, threading.Event())
        city, weather = json.loads(call.content)["city"], json.loads(result.content)
        assert city in question.content
        for told in (city, weather["sky"], str(weather["celsius"])):
            assert told in answer.content


def test_the_dialogues_of_the_quickstart_fit_its_rows(tmp_path: Path) -> None:
    output = tmp_path / "both.model"
    data = ["--data", str(DATA), str(CALLS), "--vocab_size", "2034", "--output", str(output)]
    assert main(data) == 0
    tokenizer = ChatGLM4Tokenizer(str(output))
    lengths = {
        path.name: [
            encode_conversation(
                tokenizer,
                [message.as_dict() for message in row.messages],
                256,
                tools=row.tools,
                truncate=False,
            ).num_tokens
            for row in conversations(path)
        ]
        for path in (DATA, CALLS)
    }
    assert max(lengths[DATA.name]) <= 40
    assert max(lengths[CALLS.name]) <= 256
