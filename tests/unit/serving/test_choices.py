"""What of an answer is shown, however it is cut into pieces."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers.generation.request import Chunk
from mindformers.serving.choices import Choice
from mindformers.tokenizer.tool_calls import AnswerStream

TOOLS = [{"type": "function", "function": {"name": "go"}}]


class Newline:
    """GLM-4's way: the newline that begins a turn is not part of its text."""

    trims_answers = False

    def strip_answer(self, text: str, *, is_whole: bool = True) -> str:
        return text.removeprefix("\n")


class Trimmed:
    """ChatGLM3's way: blanks around an answer are not part of it."""

    trims_answers = True

    def strip_answer(self, text: str, *, is_whole: bool = True) -> str:
        return text.strip() if is_whole else text.lstrip()


def shown(choice: Choice, pieces: list[str], reason: str = "stop") -> str:
    deltas = [delta for piece in pieces for delta in choice.take(Chunk(0, (), piece))]
    deltas += choice.take(Chunk(0, (), "", reason))
    return "".join(delta.content for delta in deltas)


@settings(deadline=None)
@given(st.lists(st.text("\n a")))
def test_pieces_joined_are_the_whole_without_the_form_of_its_turn(pieces: list[str]) -> None:
    whole = "".join(pieces)
    assert shown(Choice(Newline()), pieces) == whole.removeprefix("\n")
    assert shown(Choice(Trimmed()), pieces) == whole.strip()


def test_reasons_have_openais_names() -> None:
    for reason, told in (
        ("stop_string", "stop"),
        ("length", "length"),
        ("tool_calls", "tool_calls"),
    ):
        choice = Choice(Newline())
        shown(choice, ["x"], reason)
        assert choice.finish_reason == told


def test_calls_are_told_apart_and_only_the_first_where_one_is_allowed() -> None:
    text = 'go\n{"a": 1}<|assistant|>go\n{"b": 2}'

    def calls(is_parallel: bool) -> tuple[list[Any], str | None]:
        choice = Choice(Newline(), AnswerStream(TOOLS), is_parallel)
        deltas = [delta for piece in text for delta in choice.take(Chunk(0, (), piece))]
        deltas += choice.take(Chunk(0, (), "", "tool_calls"))
        found: dict[int, str] = {}
        for delta in deltas:
            assert delta.content == ""
            found[delta.index] = found.get(delta.index, "") + delta.arguments
        return list(found.values()), choice.finish_reason

    assert calls(True) == (['{"a": 1}', '{"b": 2}'], "tool_calls")
    assert calls(False) == (['{"a": 1}'], "tool_calls")


def test_a_call_that_breaks_off_is_no_call_to_be_made() -> None:
    choice = Choice(Newline(), AnswerStream(TOOLS))
    shown(choice, ['go\n{"a": '], "length")
    assert choice.finish_reason == "length"
