"""``chat`` with tools: what the answer calls stands in the history, in the form that is rendered back."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mindformers.errors import GenerationError
from mindformers.generation.constraint import compiler_of
from mindformers.models.text_model import TextModel
from mindformers.tokenizer.tool_calls import DIALECTS
from tests.support.dialects import dialect_tokenizer
from tests.support.generation import FakeRunner
from tests.support.vocab import write_tiny_vocab

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    },
    {"type": "python"},
]


class Scripted(TextModel):
    """Answers word for word what it is told to, as far as the tokens are allowed."""

    def __init__(self, tokenizer: Any, *answers: str) -> None:
        self.pretrained_dir = None
        self._runners = {}
        self._special, self._tokenizer = tokenizer.special_tokens, tokenizer
        self.config = SimpleNamespace(
            vocab_size=len(tokenizer) + 3,
            seq_length=4096,
            num_used_tokens=len(tokenizer),
            eos_token_id=[self._special[each] for each in tokenizer.end_tokens],
            pad_token_id=tokenizer.pad_token_id,
        )
        self._answers = [self._ids(answer) for answer in answers]
        self.prompts: list[list[int]] = []

    def _ids(self, text: str) -> list[int]:
        segments = list(self._tokenizer._special_tokens.split(text))
        return self._tokenizer.encode_segments(segments)

    def build_runner(self, use_cache: bool) -> FakeRunner:
        model = self

        class Runner(FakeRunner):
            def prefill(self, prompts: list[list[int]]) -> np.ndarray:
                model.prompts += prompts
                self.answer, self.start = model._answers.pop(0), len(prompts[0])
                return super().prefill(prompts)

        def logits(ids: list[int]) -> np.ndarray:
            row = np.linspace(1, 0, model.config.vocab_size, dtype=np.float32)
            place = len(ids) - runner.start
            row[runner.answer[min(place, len(runner.answer) - 1)]] = 9
            return row

        runner = Runner(logits, self.config.vocab_size, self.config.seq_length)
        return runner


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_vocab(tmp_path_factory.mktemp("vocab"))


WRITTEN = {
    "glm4": 'weather\n{"city": "Paris"}<|observation|>',
    "glm4_0414": 'weather\n{"city": "Paris"}<|observation|>',
    "glm45": "\n<think></think>\n<tool_call>weather\n<arg_key>city</arg_key>\n"
    "<arg_value>Paris</arg_value>\n</tool_call><|observation|>",
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_call_its_result_and_the_answer_make_a_dialogue(vocab: Path, dialect: str) -> None:
    tokenizer = dialect_tokenizer(vocab, dialect)
    model = Scripted(tokenizer, WRITTEN[dialect], "\nIt is 21.<|user|>")
    said, history = model.chat(tokenizer, "weather in Paris?", tools=TOOLS)
    assert said.removeprefix("<think></think>") == ""
    call = {"name": "weather", "arguments": '{"city": "Paris"}'}
    assert history[-1]["tool_calls"] == [{"id": "call_1_0", "type": "function", "function": call}]
    role = "tool" if dialect == "glm45" else "observation"
    said, history = model.chat(
        tokenizer, '{"degrees": 21}', history, user_role_name=role, tools=TOOLS
    )
    assert said == "It is 21."
    assert history[-1] == {"role": "assistant", "content": "It is 21."}
    assert [message["role"] for message in history] == ["user", "assistant", role, "assistant"]
    second = tokenizer.decode(model.prompts[1], spaces_between_special_tokens=False)
    assert WRITTEN[dialect].replace("\n<think></think>", "").strip() in second


def test_several_calls_and_a_builtin_tool_come_back_as_they_were(vocab: Path) -> None:
    tokenizer = dialect_tokenizer(vocab, "glm4")
    written = '\nLet me see.<|assistant|>weather\n{"city": "Rome"}<|assistant|>python\nprint(1)\n'
    model = Scripted(tokenizer, written + "<|observation|>", "\nok<|user|>")
    said, history = model.chat(tokenizer, "q", tools=TOOLS)
    assert said == "Let me see."
    functions = [each["function"] for each in history[-1]["tool_calls"]]
    assert [each["name"] for each in functions] == ["weather", "python"]
    assert json.loads(functions[1]["arguments"]) == {"code": "print(1)\n"}
    model.chat(tokenizer, "1", history, user_role_name="observation", tools=TOOLS)
    second = tokenizer.decode(model.prompts[1], spaces_between_special_tokens=False)
    assert f"<|assistant|>{written}<|observation|>\n1<|assistant|>" in second


def test_without_tools_nothing_is_a_call(vocab: Path) -> None:
    tokenizer = dialect_tokenizer(vocab, "glm4")
    said, history = Scripted(tokenizer, WRITTEN["glm4"]).chat(tokenizer, "q")
    assert said == 'weather\n{"city": "Paris"}'
    assert history[-1] == {"role": "assistant", "content": said}


def test_a_choice_is_kept_to_against_the_model_s_will(vocab: Path) -> None:
    pytest.importorskip("llguidance")
    tokenizer = dialect_tokenizer(vocab, "glm4")
    plain = "\nI would rather not.<|user|>"
    _, history = Scripted(tokenizer, plain).chat(
        tokenizer, "q", tools=TOOLS, tool_choice=TOOLS[0], max_new_tokens=200
    )
    (call,) = history[-1]["tool_calls"]
    assert json.loads(call["function"]["arguments"])["city"] in ("Paris", "Rome")
    _, history = Scripted(tokenizer, WRITTEN["glm4"]).chat(
        tokenizer, "q", tools=TOOLS, tool_choice="none", max_new_tokens=40
    )
    assert "tool_calls" not in history[-1]
    with pytest.raises(GenerationError, match="tool_choice: found 'any'"):
        Scripted(tokenizer, plain).chat(tokenizer, "q", tools=TOOLS, tool_choice="any")


def test_a_constraint_of_the_caller_s_holds(vocab: Path) -> None:
    pytest.importorskip("llguidance")
    tokenizer = dialect_tokenizer(vocab, "glm4")
    model = Scripted(tokenizer, "\nno<|user|>")
    form = compiler_of(tokenizer, model.config.vocab_size).json({"enum": ["yes"]})
    said, _ = model.chat(tokenizer, "q", tools=TOOLS, constraint=form, max_new_tokens=20)
    assert json.loads(said) == "yes"
    with pytest.raises(GenerationError, match="chat: a constraint and tool_choice='required'"):
        model.chat(tokenizer, "q", tools=TOOLS, tool_choice="required", constraint=form)


def test_a_call_cut_at_its_length_is_shown_and_not_made(vocab: Path) -> None:
    tokenizer = dialect_tokenizer(vocab, "glm4")
    model = Scripted(tokenizer, WRITTEN["glm4"])
    said, history = model.chat(tokenizer, "q", tools=TOOLS, max_new_tokens=12)
    assert said.startswith("weather\n{")
    assert "tool_calls" not in history[-1]
