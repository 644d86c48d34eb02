"""What the terminal chat shows: plain text where nobody looks, colours and counts at a terminal."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from mindformers.agent.cached_model import Answer
from mindformers.agent.loop import REPEATED, TIME_LIMIT, TOOL_ROUNDS, ToolRun, Watcher
from mindformers.generation.stopping import CANCELLED
from mindformers.generation.streamer import write_at_once
from mindformers.tokenizer.tool_calls import ToolCall

_SHOWN_CHARS = 600  # of a result; the model gets more
_ENDINGS = {
    "length": "cut at {tokens} tokens: /set max_new_tokens {more} lets answers be longer",
    CANCELLED: "stopped",
    TIME_LIMIT: "ended: the time for one question is up (--total_seconds)",
    TOOL_ROUNDS: "ended: too many rounds of tool calls (--max_tool_rounds)",
    REPEATED: "ended: the model makes the same call again and again",
}
# What could move the cursor or change the terminal is shown as a picture of itself.
_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
_PICTURES |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


class ChatView(Watcher):
    """Answers as plain text, a line for each tool call and for each result.

    Args:
        output: Where it goes; None: standard output, as it is at the time.
    """

    prompt = "> "
    more_prompt = "... "

    def __init__(self, output: TextIO | None = None) -> None:
        self._output = output
        self._is_at_start = True  # of a line

    def text(self, text: str) -> None:
        """Show text of an answer."""
        self._write(text)

    def answered(self, found: Answer) -> None:
        """End the line of an answer; before a call nothing may have been said."""
        if not self._is_at_start or found.finish_reason != "tool_calls":
            self._write("\n")

    def calling(self, call: ToolCall) -> None:
        """Show a call."""
        self.aside(f"{call.name} {call.arguments}")

    def result(self, call: ToolCall, text: str, is_error: bool) -> None:
        """Show the beginning of what a call gave."""
        del call, is_error
        shown = text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]} ..."
        self.aside("\n".join(f"  -> {line}" for line in shown.splitlines() or [""]))

    def ended(self, run: ToolRun) -> None:
        """Show how an answer came to its end; nothing where its text stands alone."""

    def say(self, text: str) -> None:
        """Show a line of the program's own."""
        self._write(f"{text}\n")

    def aside(self, text: str) -> None:
        """Show lines that are no part of what is said."""
        self.say(text)

    def error(self, error: Exception) -> None:
        """Show what went wrong; the conversation goes on."""
        self.say(f"error: {error}")

    def _write(self, text: str) -> None:
        write_at_once(self._output or sys.stdout, text)
        self._is_at_start = text.endswith("\n") if text else self._is_at_start


class TerminalView(ChatView):
    """The same with colours, why an answer ended and how fast it was; control characters made visible."""

    def __init__(self, output: TextIO | None = None) -> None:
        super().__init__(output)
        from rich.console import Console  # only where somebody looks

        self._console = Console(file=output, highlight=False, soft_wrap=True)
        if self._console.color_system is not None:
            self.prompt = "\001\033[1;36m\002> \001\033[0m\002"  # readline counts what is between

    def text(self, text: str) -> None:
        """Show text of an answer."""
        super().text(visible(text))

    def aside(self, text: str) -> None:
        """Show lines that are no part of what is said."""
        self._print(text, "cyan")

    def result(self, call: ToolCall, text: str, is_error: bool) -> None:
        """Show the beginning of what a call gave."""
        if is_error:
            self._print(f"  -> {text[:_SHOWN_CHARS]}", "yellow")
        else:
            super().result(call, text, is_error)

    def ended(self, run: ToolRun) -> None:
        """Show counts and speed, and why the answer ended where it did not by itself."""
        made = sum(found.completion_tokens for found in run.answers)
        seconds = sum(found.seconds for found in run.answers)
        last = run.answers[-1]
        counts = (
            f"{made} tokens, {made / max(seconds, 1e-9):.1f} tokens/s; prompt {last.prompt_tokens}"
        )
        if last.cached_tokens:
            counts += f" ({last.cached_tokens} cached)"
        self._print(counts, "dim")
        if run.finish_reason in _ENDINGS:
            tokens = last.completion_tokens
            text = _ENDINGS[run.finish_reason].format(tokens=tokens, more=2 * tokens)
            self._print(text, "yellow")

    def say(self, text: str) -> None:
        """Show a line of the program's own."""
        self._print(text, "")

    def error(self, error: Exception) -> None:
        """Show what went wrong; the conversation goes on."""
        self._print(f"error: {error}", "red")

    def _print(self, text: str, style: str) -> None:
        self._console.print(visible(text), style=style, markup=False, emoji=False)
        self._is_at_start = True


def visible(text: str) -> str:
    """Return a text without characters that steer a terminal: a picture or a mark stands for each."""
    return text.translate(_PICTURES)


def open_view(is_interactive: bool) -> ChatView:
    """Return what shows the conversation: coloured where both ends are a terminal."""
    is_terminal: Any = is_interactive and sys.stdout is not None and sys.stdout.isatty()
    return TerminalView() if is_terminal else ChatView()
