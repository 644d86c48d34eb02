"""Answers to the turns of conversations: a model with a script, and scores counted by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mindformers.config.evaluation import Turns
from mindformers.evaluation.answers import Answer, answer_rows
from mindformers.evaluation.metrics import ToolCallMetric
from mindformers.evaluation.rows import TokenRow
from mindformers.generation.config import GenerationConfig

# What is said, and by whom; characters are tokens, and each role has a token of its own.
ROWS = [
    [("U", "weather"), ("A", 'get\n{"city": "B"}'), ("O", "rain"), ("A", "\nIt rains.")],
    [("U", "hello"), ("A", "\nHello."), ("U", "time"), ("A", "now\n{}")],
    [("U", "one turn"), ("A", "\nYes.")],
]
# By what was said last before an answer: right, right, needless call, wrong name, right.
SCRIPT = {"weather": 'get\n{"city": "B"}', "rain": "\nIt rains.", "hello": "get\n{}",
          "time": "when\n{}", "one turn": "\nYes."}  # fmt: skip


class Characters:
    """A tokenizer of characters; a capital of a role is a control token where ``~`` stands before it."""

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        text = "".join(chr(each) for each in ids)
        return text.partition("~")[0] if skip_special_tokens else text

    def __len__(self) -> int:
        return 256


class Scripted:
    """A model that looks at the last question alone."""

    def __init__(self) -> None:
        self.config = SimpleNamespace(seq_length=512, block_size=16, num_blocks=64)
        self.asked: list[list[str]] = []

    def generation_defaults(self) -> GenerationConfig:
        return GenerationConfig()

    def generate(self, prompts: list[list[int]], **settings: Any) -> Any:
        texts = ["".join(map(chr, prompt)) for prompt in prompts]
        self.asked.append(texts)
        said = [SCRIPT[text.split("~")[-2][1:]] for text in texts]
        whole = [[*prompt, *map(ord, text)] for prompt, text in zip(prompts, said, strict=True)]
        return SimpleNamespace(sequences=whole, num_prompt_tokens=[len(each) for each in prompts])


def row_of(turns: list[tuple[str, str]]) -> TokenRow:
    """Return a row in which what follows ``~A`` is learnt, the next role's sign included."""
    ids: list[int] = []
    learnt: list[bool] = []
    for role, text in turns:
        ids += map(ord, f"~{role}{text}")
        learnt += [False, role == "A", *[role == "A"] * len(text)]
    ids.append(ord("~"))
    labels = np.where(learnt, ids[1:], -100)
    return TokenRow(np.array(ids[:-1], np.int32), labels.astype(np.int32))


def answers(turns: Turns, batch_size: int = 2) -> tuple[list[Answer], Scripted, list[int]]:
    model, done = Scripted(), list[int]()
    found = answer_rows(
        model, Characters(), [row_of(each) for each in ROWS], turns=turns, batch_size=batch_size,
        on_rows=done.append,
    )  # fmt: skip
    return found, model, done


@pytest.mark.parametrize(
    ("turns", "places"),
    [
        ("all", [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1)]),
        ("first", [(1, 1), (2, 1), (3, 1)]),
        ("last", [(1, 2), (2, 2), (3, 1)]),
    ],
)
def test_the_turns_that_are_asked_for_are_answered_in_order(
    turns: Turns, places: list[tuple[int, int]]
) -> None:
    found, model, done = answers(turns)
    assert [(each.row, each.turn) for each in found] == places
    assert [each.reference for each in found] == [
        [text for role, text in ROWS[row - 1] if role == "A"][turn - 1] for row, turn in places
    ]
    assert max(map(len, model.asked)) <= 2
    assert sum(done) == len(ROWS)


def test_a_later_turn_follows_what_was_really_said() -> None:
    found, model, _ = answers("all")
    prompts = [text for asked in model.asked for text in asked]
    assert prompts == [each.prompt for each in found]
    assert prompts[3] == "~Uhello~A\nHello.~Utime~A"  # not the needless call the model made
    assert found[2].answer == "get\n{}"


@pytest.mark.parametrize(
    ("turns", "scores"),
    [
        # Calls of the data: one right, one of a wrong name; one of three other answers is a call.
        ("all", {"tool_name": 50, "tool_arguments": 100, "tool_call": 50, "tool_needless": 100 / 3,
                 "tool_calls": 2}),
        ("first", {"tool_name": 100, "tool_arguments": 100, "tool_call": 100, "tool_needless": 50,
                   "tool_calls": 1}),
        ("last", {"tool_name": 0, "tool_arguments": 100, "tool_call": 0, "tool_needless": 0,
                  "tool_calls": 1}),
    ],
)  # fmt: skip
def test_scores_are_those_counted_by_hand(turns: Turns, scores: dict[str, float]) -> None:
    metric = ToolCallMetric()
    for each in answers(turns, batch_size=3)[0]:
        metric.update([each.answer], [each.reference])
    assert metric.eval() == pytest.approx(scores)
