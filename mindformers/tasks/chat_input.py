"""Questions from a terminal, with history and several lines; from a file or a pipe, a line each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TextIO

from mindformers.tasks.chat_view import ChatView

_FENCE = '"""'
_ALT_ENTER = r'"\e\C-m": "\C-v\C-j"'  # readline takes the line end literally instead of ending


class QuestionReader:
    """Reads questions.

    Args:
        source: Where they come from.
        view: Shows the prompt.
    """

    def __init__(self, source: TextIO, view: ChatView) -> None:
        self.is_interactive = source.isatty()
        self._source, self._view = source, view
        self._read_line: Callable[[str], str] = self._plain_line
        if self.is_interactive and source is sys.stdin and sys.stdout.isatty():
            self._read_line = _edited_line()

    def read(self) -> str | None:
        '''Return the next question or command, blank for nothing; None at the end of input.

        At a terminal ``"""`` begins one of several lines, which ends with ``"""``; Ctrl-C drops it.
        '''
        try:
            line = self._read_line(self._view.prompt).strip()
            if self.is_interactive and line.startswith(_FENCE):
                line = self._rest_of(line.removeprefix(_FENCE))
        except EOFError:
            return None
        except KeyboardInterrupt:
            if not self.is_interactive:
                raise
            self._view.say("\n(Ctrl-D leaves)")
            return ""
        return line

    def _rest_of(self, text: str) -> str:
        while not text.rstrip().endswith(_FENCE):
            text += "\n" + self._read_line(self._view.more_prompt)
        return text.rstrip().removesuffix(_FENCE).strip()

    def _plain_line(self, prompt: str) -> str:
        if self.is_interactive:
            sys.stdout.write(prompt)
            sys.stdout.flush()
        line = self._source.readline()
        if not line:
            raise EOFError
        return line.rstrip("\n")


def _edited_line() -> Callable[[str], str]:
    """Return ``input`` with line editing and history where the system has readline."""
    try:
        import readline

        readline.parse_and_bind(_ALT_ENTER)
    except ImportError:
        pass
    return input
