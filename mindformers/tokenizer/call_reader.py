"""What an answer says and what it calls, told apart while it is being written.

``CallReader`` holds back only what may still become a call: blanks, and a beginning of the few
characters a dialect opens a call with. Every character is looked at a bounded number of times, however
the text is cut up. A dialect adds the patterns and what follows them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import regex

from mindformers.tokenizer.json_text import to_json

ENDED = ("stop", "tool_calls")  # the model itself ended the answer
_BLANKS = regex.compile(r"\s+")
_WORD = regex.compile(r".[^\s<]*", regex.DOTALL)
START, LINE, INSIDE = range(3)  # where a character stands: in a message, on a line


class Piece(NamedTuple):
    """A stretch of an answer.

    Attributes:
        kind: ``text``: content. ``open``, ``part``: a call begins and goes on. ``whole``, ``broken``: it
            has ended, with or without arguments that are an object.
        text: The content, the tool's name, or some of the arguments' JSON text.
        raw: The characters of the answer that a part of a call stands for.
    """

    kind: Literal["text", "open", "part", "whole", "broken"]
    text: str = ""
    raw: str = ""


class CallReader:
    """Reads one answer.

    Args:
        mark: What opens a call, or a message, at a ``<``; None: nothing does.
        start: What opens a call at the start of a message.
        line: What opens a call at the start of a line.
    """

    def __init__(self, mark: Any = None, start: Any = None, line: Any = None) -> None:
        self._mark, self._patterns = mark, {START: start, LINE: line}
        self._data = ""  # read, and not told of yet; bounded
        self._blanks: list[str] = []  # content only if more of it follows
        self._place = START
        self._is_new = True
        self._has_content = self._has_call = False
        self._pieces: list[Piece] = []
        self._read: Callable[[], bool] = self._read_text

    def feed(self, text: str) -> list[Piece]:
        """Take more of the answer; return what is settled by it."""
        self._data += text
        while self._data and self._read():
            pass
        pieces, self._pieces = self._pieces, []
        return pieces

    def close(self, finish_reason: str) -> list[Piece]:
        """End the answer; return what is left of it.

        Args:
            finish_reason: Why it ended, as the engine says.
        """
        if self._read == self._read_text:
            self._end_text(finish_reason in ENDED)
        else:
            self._end_call(finish_reason in ENDED)
        pieces, self._pieces = self._pieces, []
        return pieces

    def _open(self, match: Any) -> None:
        """Begin what a pattern found; ``_data`` is what follows it."""
        raise NotImplementedError

    def _end_call(self, is_ended: bool) -> None:
        """The answer is over within a call."""
        self._emit("part", raw=self._data)
        self._emit("broken")

    def _bare_call(self, held: str) -> str:
        """Return the tool that what is left of an ended answer calls without arguments, or nothing."""
        return ""

    def _emit(self, kind: Any, text: str = "", raw: str = "") -> None:
        self._pieces.append(Piece(kind, text, raw))

    def _begin_call(self, name: str, raw: str) -> None:
        blanks = "".join(self._blanks) if self._has_content else ""
        self._blanks.clear()
        self._has_call = True
        self._emit("open", name, blanks + raw)

    def _after_call(self, kind: Literal["whole", "broken"]) -> None:
        self._emit(kind)
        self._has_content |= kind == "broken"
        # Where the token between two messages was left out, the next call follows at once.
        self._place = START if kind == "whole" else INSIDE
        self._read = self._read_text

    def _begin_line(self) -> None:
        """A further message begins: a new line of the content."""
        self._blanks.append("\n")
        self._place = LINE

    # --- content ---------------------------------------------------------------------------------

    def _read_text(self) -> bool:
        data, at = self._data, 0
        if self._is_new:
            self._is_new = False
            if data[0] == "\n":  # begins every turn
                at, self._place = 1, LINE
        while at < len(data):
            pattern = self._mark if data[at] == "<" else self._patterns.get(self._place)
            match = pattern.match(data, at, partial=True) if pattern is not None else None
            if match is None:
                at = self._take(data, at)
                continue
            self._data = data[at if match.partial else match.end() :]
            if not match.partial:
                self._open(match)
            return not match.partial
        self._data = ""
        return False

    def _take(self, data: str, at: int) -> int:
        blanks = _BLANKS.match(data, at)
        if blanks is not None:
            self._blanks.append(blanks.group())
            self._place = LINE if data[blanks.end() - 1] == "\n" else INSIDE
            return int(blanks.end())
        end = int(_WORD.match(data, at).end())
        self._say(data[at:end])
        self._place = INSIDE
        return end

    def _say(self, word: str) -> None:
        blanks = "".join(self._blanks) if self._has_content or not self._has_call else ""
        self._blanks.clear()
        self._has_content = True
        self._emit("text", blanks + word)

    def _end_text(self, is_ended: bool) -> None:
        held, self._data = self._data, ""
        name = self._bare_call(held) if is_ended else ""
        if name:
            self._begin_call(name, held)
            self._emit("part", "{}")
            self._emit("whole")
        elif held or (self._blanks and not self._has_call):
            self._say(held)


def split_at(data: str, tag: str) -> tuple[str, str, bool]:
    """Return what stands before ``tag``, what follows, and whether it is there.

    Where it is not, what follows is the end of ``data`` that may be its beginning.
    """
    before, found, after = data.partition(tag)
    if found:
        return before, after, True
    kept = next((k for k in range(len(tag) - 1, 0, -1) if data.endswith(tag[:k])), 0)
    return data[: len(data) - kept], data[len(data) - kept :], False


def any_of(names: Iterable[str]) -> str:
    """Return the pattern that matches each of ``names``, the longest first; none: nothing."""
    return "|".join(map(regex.escape, sorted(names, key=len, reverse=True))) or r"(?!)"


def in_quotes(text: str) -> str:
    """Return a text as it stands between the quotes of a JSON string."""
    return to_json(text)[1:-1]
