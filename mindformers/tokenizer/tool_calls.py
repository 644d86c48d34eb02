"""Tool calls in answers: what an answer says, and what it calls, whole or as it comes.

One reading for the terminal, the server, batches and the evaluation. ``parse_answer`` takes an answer
that has ended; ``AnswerStream`` one that is being written, whose parts joined are the same, however the
text is cut up. A call is one when a line is the name of a tool that was given and its arguments are a
JSON object; anything else is content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mindformers.errors import TokenizerError
from mindformers.tokenizer.call_form import builtin_names, tool_name
from mindformers.tokenizer.call_reader import CallReader, Piece
from mindformers.tokenizer.chat import default_template
from mindformers.tokenizer.conversation import normalise_tools
from mindformers.tokenizer.glm4_calls import Glm4Reader
from mindformers.tokenizer.glm45_calls import KEY, OPEN, Glm45Reader

_TOOL_ENDS = (
    "stop",
    "stop_string",
    "tool_calls",
)  # after these an answer with calls waits for results


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool.

    Attributes:
        name: The tool, one of those given.
        arguments: JSON text of an object, as the model wrote it: digits and key order are kept.
    """

    name: str
    arguments: str

    def as_dict(self, call_id: str) -> dict[str, Any]:
        """Return the form it has in a message's ``tool_calls``, which the chat template renders back."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": call_id, "type": "function", "function": function}


@dataclass(frozen=True)
class ParsedAnswer:
    """What an answer says and calls.

    Attributes:
        content: What it says, without its calls.
        tool_calls: Its calls in order.
        finish_reason: ``tool_calls`` where it waits for their results; otherwise as it was given.
    """

    content: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str


@dataclass(frozen=True)
class Delta:
    """What is new in an answer: content, or (with an ``index``) some of a call.

    Attributes:
        content: More of the content.
        index: Which call, from 0; None: it is content.
        name: The tool, once, when a call begins.
        arguments: More of the call's arguments.
    """

    content: str = ""
    index: int | None = None
    name: str = ""
    arguments: str = ""


def _glm4_reader(tools: Sequence[Mapping[str, Any]]) -> CallReader:
    names = [tool_name(tool) for tool in tools if tool["type"] == "function"]
    return Glm4Reader(names, builtin_names(tools))


def _glm45_reader(tools: Sequence[Mapping[str, Any]]) -> CallReader:
    return Glm45Reader({tool_name(tool): tool["function"].get("parameters") for tool in tools})


_READERS: dict[str, Callable[[Sequence[Mapping[str, Any]]], CallReader]] = {
    "glm4": _glm4_reader,
    "glm4_0414": _glm4_reader,
    "glm45": _glm45_reader,
}
DIALECTS = tuple(_READERS)


def callable_tools(tools: Sequence[Mapping[str, Any]], dialect: str) -> list[Mapping[str, Any]]:
    """Return the tools that can be called in a dialect: GLM-4's alone knows built-in ones."""
    return [tool for tool in tools if dialect == "glm4" or tool["type"] == "function"]


def dialect_of(tokenizer: Any) -> str:
    """Return how a model writes calls, one of ``DIALECTS``, by its tokenizer's chat template."""
    template = tokenizer.chat_template or default_template()
    if OPEN in template and KEY in template:
        return "glm45"
    return "glm4" if "simple_browser" in template else "glm4_0414"


def open_reader(tools: Sequence[Mapping[str, Any]], dialect: str) -> CallReader:
    """Return what reads one answer.

    Raises:
        TokenizerError: If there is no such dialect, or a tool is none.
    """
    if dialect not in _READERS:
        raise TokenizerError(f"unknown dialect {dialect!r}", allowed=", ".join(DIALECTS))
    return _READERS[dialect](callable_tools(normalise_tools(tools), dialect))


def parse_answer(
    text: str, tools: Sequence[Mapping[str, Any]], finish_reason: str, dialect: str = "glm4"
) -> ParsedAnswer:
    """Return what an answer says and what it calls.

    Args:
        text: All that follows the ``<|assistant|>`` of the prompt, the newline that begins a plain
            answer and the ``<|assistant|>`` between two messages included, the token that ended it not.
        tools: The tools that were given, as ``normalise_tools`` takes them; none: all is content.
        finish_reason: Why the answer ended, as the engine says.
        dialect: One of ``DIALECTS``.

    Raises:
        TokenizerError: If there is no such dialect, or a tool is none. No text is an error.
    """
    reader = open_reader(tools, dialect)
    content: list[str] = []
    calls: list[ToolCall] = []
    name, arguments, raw = "", [""], [""]
    for piece in [*reader.feed(text), *reader.close(finish_reason)]:
        if piece.kind == "text":
            content.append(piece.text)
        elif piece.kind == "open":
            name, arguments, raw = piece.text, [], [piece.raw]
        elif piece.kind == "part":
            arguments.append(piece.text)
            raw.append(piece.raw)
        elif piece.kind == "whole":
            calls.append(ToolCall(name, "".join(arguments)))
        else:
            content.extend(raw)
    return ParsedAnswer("".join(content), tuple(calls), _reason(finish_reason, bool(calls)))


def _reason(finish_reason: str, has_calls: bool) -> str:
    if has_calls and finish_reason in _TOOL_ENDS:
        return "tool_calls"
    return "stop" if finish_reason == "tool_calls" else finish_reason


class AnswerStream:
    """Tells content and calls apart in one answer that is being written.

    A call is told of as soon as its arguments begin, and they are passed on as they come. Should they
    turn out to be no JSON object, or the answer break off, what was told stands, and it is no whole
    call: the finish reason is not ``tool_calls`` unless another call is whole.

    Args:
        tools: As for ``parse_answer``.
        dialect: As for ``parse_answer``.

    Raises:
        TokenizerError: If there is no such dialect, or a tool is none.
    """

    def __init__(self, tools: Sequence[Mapping[str, Any]], dialect: str = "glm4") -> None:
        self._reader = open_reader(tools, dialect)
        self._index = -1
        self._has_calls = False

    def feed(self, text: str) -> list[Delta]:
        """Take more of the answer; return what is new, possibly nothing."""
        return self._deltas(self._reader.feed(text))

    def close(self, finish_reason: str) -> tuple[list[Delta], str]:
        """End the answer; return what was held back, and the finish reason as ``parse_answer`` gives it."""
        deltas = self._deltas(self._reader.close(finish_reason))
        return deltas, _reason(finish_reason, self._has_calls)

    def _deltas(self, pieces: Iterable[Piece]) -> list[Delta]:
        deltas: list[Delta] = []
        content: list[str] = []
        arguments: list[str] = []

        def settle() -> None:
            if content:
                deltas.append(Delta("".join(content)))
            if arguments:
                deltas.append(Delta(index=self._index, arguments="".join(arguments)))
            content.clear()
            arguments.clear()

        for piece in pieces:
            if piece.kind == "text":
                content.append(piece.text)
            elif piece.kind == "part":
                arguments.extend([piece.text] if piece.text else [])
            elif piece.kind == "open":
                settle()
                self._index += 1
                deltas.append(Delta(index=self._index, name=piece.text))
            else:
                settle()
                self._has_calls |= piece.kind == "whole"
        settle()
        return deltas
