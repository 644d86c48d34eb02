"""The loop that lets a model use tools: ask, run what it calls, tell it the results, ask again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mindformers.agent.answer_reader import AnswerReader
from mindformers.agent.answering import answer
from mindformers.agent.cached_model import Answer
from mindformers.agent.function_tool import FunctionTool
from mindformers.agent.shortening import shortened
from mindformers.agent.tool import Tool
from mindformers.errors import ConfigError, ToolError
from mindformers.generation.stopping import CANCELLED
from mindformers.tokenizer.tool_calls import ParsedAnswer, ToolCall, dialect_of

TOOL_ROUNDS, TIME_LIMIT, REPEATED = "tool_rounds", "time_limit", "repeated_call"
_LEAST_RESULT_TOKENS = 16
_REPEATS = 2  # the same call once more is answered without running it; then the run ends


@dataclass(frozen=True)
class ToolLimits:
    """How far a model may go before a person is asked again.

    Args:
        rounds: Turns of the model that call tools.
        call_seconds: For one call.
        total_seconds: For everything, the model's own time included.
        result_tokens: Of a result; what is longer loses its middle.
    """

    rounds: int = 8
    call_seconds: float = 60.0
    total_seconds: float = 600.0
    result_tokens: int = 1024

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ConfigError(f"found {value}", where=name, allowed="a number above 0")


class Watcher:
    """Is told what happens; does nothing with it. Override what is of interest."""

    def text(self, text: str) -> None:
        """Take text of an answer as it comes."""

    def answered(self, found: Answer) -> None:
        """Take an answer that has ended."""

    def calling(self, call: ToolCall) -> None:
        """Take a call that is about to run."""

    def result(self, call: ToolCall, text: str, is_error: bool) -> None:
        """Take what the model is told of a call."""


@dataclass
class ToolRun:
    """What came of a question.

    Args:
        messages: The conversation, the question's whole exchange included, in OpenAI's form: what the
            chat template renders, and another run goes on from.
        answer: The last words of the model.
        finish_reason: As of an answer; or ``tool_rounds``, ``time_limit`` or ``repeated_call`` where a
            limit ended it.
        rounds: Turns that called tools.
        answers: Every answer of the model, with its counts.
    """

    messages: list[dict[str, Any]]
    answer: str = ""
    finish_reason: str = ""
    rounds: int = 0
    answers: list[Answer] = field(default_factory=list)


def run_tools(
    network: Any,
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Tool | Callable[..., Any]],
    *,
    limits: ToolLimits = ToolLimits(),
    watcher: Watcher | None = None,
    stop: threading.Event | None = None,
    **settings: Any,
) -> ToolRun:
    """Answer a conversation, running the tools that the model calls.

    Args:
        network: A model with ``generate``.
        tokenizer: Its tokenizer.
        messages: The conversation, a question last; not changed.
        tools: Python functions, and others such as ``PythonTool``.
        limits: How far the model may go.
        watcher: Is told what happens, as it happens.
        stop: Set from another thread or a signal handler: the answer ends, and so does a running tool.
        **settings: Fields of ``GenerationConfig``; ``seed``.

    Raises:
        MindFormersError: If the conversation, a tool or a setting cannot be used. What goes wrong
            inside a tool is told to the model instead.
    """
    run = _Run(
        network, tokenizer, as_tools(tools), limits, watcher or Watcher(), stop or threading.Event()
    )
    return run.go(messages, settings)


def as_tools(tools: Sequence[Tool | Callable[..., Any]]) -> dict[str, Tool]:
    """Return tools by name; a function becomes a ``FunctionTool``.

    Raises:
        ConfigError: If two have one name.
    """
    found: dict[str, Tool] = {}
    for tool in tools:
        made: Tool = tool if hasattr(tool, "schema") else FunctionTool(tool)  # type: ignore[assignment]
        if made.name in found:
            raise ConfigError(f"two tools are called {made.name!r}", where="tools")
        found[made.name] = made
    return found


def schemas_of(tools: Iterable[Tool], tokenizer: Any) -> list[dict[str, Any]]:
    """Return what the chat template shows of tools; it knows built-in ones in the form of GLM-4 alone."""
    knows_builtin = dialect_of(tokenizer) == "glm4"
    return [
        dict(tool.schema if knows_builtin else getattr(tool, "function_schema", tool.schema))
        for tool in tools
    ]


class _Run:
    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        tools: dict[str, Tool],
        limits: ToolLimits,
        watcher: Watcher,
        stop: threading.Event,
    ) -> None:
        self.network, self.tokenizer, self.tools = network, tokenizer, tools
        self.limits, self.watcher, self.stop = limits, watcher, stop
        self.schemas = schemas_of(tools.values(), tokenizer)
        self.deadline = time.monotonic() + limits.total_seconds
        self.earlier: list[tuple[str, str]] = []  # the calls of the round before
        self.repeats = 0

    def go(self, messages: Sequence[Mapping[str, Any]], settings: dict[str, Any]) -> ToolRun:
        run = ToolRun([dict(message) for message in messages])
        while not run.finish_reason:
            parsed = self._ask(run, settings)
            run.answer, run.finish_reason = parsed.content, parsed.finish_reason
            if parsed.tool_calls:
                run.rounds += 1
                run.finish_reason = self._run_calls(run, parsed.tool_calls)
        return run

    def _ask(self, run: ToolRun, settings: dict[str, Any]) -> ParsedAnswer:
        reader = AnswerReader(self.tokenizer, self.schemas, self.watcher.text)
        found = answer(
            self.network,
            self.tokenizer,
            run.messages,
            tools=self.schemas,
            on_text=reader.feed,
            is_unwanted=lambda: self.stop.is_set() or time.monotonic() > self.deadline,
            **settings,
        )
        reason = found.finish_reason
        if reason == CANCELLED and not self.stop.is_set():
            reason = TIME_LIMIT
        parsed = reader.close(found.text, reason)
        run.answers.append(found)
        self.watcher.answered(found)
        message: dict[str, Any] = {"role": "assistant", "content": parsed.content}
        if parsed.tool_calls:
            place = len(run.messages)
            message["tool_calls"] = [
                call.as_dict(_call_id(place, number))
                for number, call in enumerate(parsed.tool_calls)
            ]
        run.messages.append(message)
        return parsed

    def _run_calls(self, run: ToolRun, calls: Sequence[ToolCall]) -> str:
        """Run the calls of a turn and keep their results; return why the run ends, or nothing."""
        these = [(call.name, call.arguments) for call in calls]
        is_repeated, self.earlier = these == self.earlier, these
        self.repeats = self.repeats + 1 if is_repeated else 0
        used = run.answers[-1].prompt_tokens + run.answers[-1].completion_tokens
        room = self._room(used) // (2 * len(calls))  # half of it is for what the model says then
        for place, call in enumerate(calls):
            refusal = self._refusal(run.rounds, is_repeated)
            text, is_error = (refusal, True) if refusal else self._call(call)
            text = shortened(text, self.tokenizer, min(self.limits.result_tokens, room))
            self.watcher.result(call, text, is_error)
            run.messages.append(
                {
                    "role": "tool",
                    "tool_call_id": _call_id(len(run.messages) - place - 1, place),
                    "content": text or " ",  # the template drops a message without content
                }
            )
        if self.stop.is_set():
            return CANCELLED
        if time.monotonic() > self.deadline:
            return TIME_LIMIT
        if run.rounds > self.limits.rounds + 1:  # it was told once
            return TOOL_ROUNDS
        return REPEATED if self.repeats >= _REPEATS else ""

    def _refusal(self, rounds: int, is_repeated: bool) -> str:
        """Return what the model is told instead of a result, or nothing."""
        if self.stop.is_set():
            return "not run: stopped by the user"
        if time.monotonic() > self.deadline:
            return "not run: the time is up"
        if rounds > self.limits.rounds:
            return f"not run: no more than {self.limits.rounds} rounds of calls are allowed; answer now"
        if is_repeated:
            return "not run: the same call was made just before; use its result and answer now"
        return ""

    def _call(self, call: ToolCall) -> tuple[str, bool]:
        self.watcher.calling(call)
        seconds = min(self.limits.call_seconds, max(self.deadline - time.monotonic(), 0.1))
        try:
            return self.tools[call.name].call(call.arguments, seconds, self.stop), False
        except ToolError as error:
            return f"error: {error}", True

    def _room(self, used: int) -> int:
        length = getattr(self.network.config, "seq_length", None)
        most = 2 * self.limits.result_tokens
        return max(2 * _LEAST_RESULT_TOKENS, (length - used) if length else most)


def _call_id(place: int, number: int) -> str:
    return f"call_{place}_{number}"
