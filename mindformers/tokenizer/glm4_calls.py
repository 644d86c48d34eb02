"""Calls as GLM-4 writes them: a tool's name alone on a line, then a JSON object; ``<|assistant|>`` between two.

The name has to be one of the tools given, at the start of a line. A built-in tool, whose text is no JSON,
is called at the start of a message only.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import regex

from mindformers.tokenizer.call_form import OWN_ARGUMENTS
from mindformers.tokenizer.call_reader import START, CallReader, any_of, in_quotes
from mindformers.tokenizer.schema_types import is_object

MESSAGE_TOKEN = "<|assistant|>"  # begins a message, also between two of one answer
_BLANK = r"[ \t]{0,8}\r?\n"  # after the name
_JSON_MARK = regex.compile(r'["{}\[\]]')
_STRING_END = regex.compile(r'["\\]')


class Glm4Reader(CallReader):
    """Reads an answer of GLM-4 or GLM-4-0414.

    Args:
        functions: Names of the tools that take JSON.
        builtin: Names of the built-in tools that are on offer.
    """

    def __init__(self, functions: Collection[str], builtin: Collection[str] = ()) -> None:
        if not functions and not builtin:
            super().__init__()  # all is content
            return
        function = rf"(?P<function>{any_of(functions)}){_BLANK}\s{{0,64}}\{{"
        message = rf"{function}|(?P<builtin>{any_of(builtin)}){_BLANK}"
        mark = regex.escape(MESSAGE_TOKEN)
        super().__init__(
            mark=regex.compile(rf"{mark}(?:(?P<turn>\n)|{message})"),
            start=regex.compile(message),
            line=regex.compile(function),
        )
        self._bare = regex.compile(rf"(?:{mark})?(?P<function>{any_of(functions)})\s*")

    def _open(self, match: Any) -> None:
        found = match.groupdict()
        if found.get("turn"):
            self._begin_line()
        elif found["function"]:
            self._data = "{" + self._data  # the object begins with it
            self._begin_call(found["function"], match.group()[:-1])
            self._arguments: list[str] = []
            self._object = ObjectEnd()
            self._read = self._read_object
        else:
            key = OWN_ARGUMENTS[found["builtin"]]
            self._begin_call(found["builtin"], match.group())
            self._emit("part", f'{{"{key}": "')
            self._read = self._read_own

    def _read_object(self) -> bool:
        end = self._object.find(self._data)
        text, self._data = self._data[:end], self._data[end:]
        self._arguments.append(text)
        self._emit("part", text, text)
        if self._object.is_closed:
            self._after_call("whole" if is_object("".join(self._arguments)) else "broken")
        return self._object.is_closed

    def _read_own(self) -> bool:
        match = self._mark.search(self._data, partial=True)
        end = match.start() if match is not None else len(self._data)
        self._say_own(self._data[:end])
        self._data = self._data[end:]
        if match is None or match.partial:
            return False
        self._emit("part", '"}')
        self._after_call("whole")
        return True

    def _say_own(self, text: str) -> None:
        if text:
            self._emit("part", in_quotes(text), text)

    def _end_call(self, is_ended: bool) -> None:
        if self._read != self._read_own or not is_ended:
            super()._end_call(is_ended)
            return
        held = self._data
        self._say_own("" if held == MESSAGE_TOKEN else held)
        self._emit("part", '"}')
        self._emit("whole")

    def _end_text(self, is_ended: bool) -> None:
        if self._data == MESSAGE_TOKEN:
            self._data = ""  # of the message it begins there is nothing
        super()._end_text(is_ended)

    def _bare_call(self, held: str) -> str:
        is_message = self._place == START or held.startswith(MESSAGE_TOKEN)
        match = self._bare.fullmatch(held) if is_message and held else None
        return str(match["function"]) if match is not None else ""


class ObjectEnd:
    """Finds the end of a JSON object whose text comes in parts. What is between is not checked."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._is_escaped = False

    @property
    def is_closed(self) -> bool:
        """Whether the end was found."""
        return self._depth < 0

    def find(self, text: str) -> int:
        """Take the next part; return where in it the object ends, or its length."""
        at = 0
        if self._is_escaped and text:
            at, self._is_escaped = 1, False
        while True:
            match = (_STRING_END if self._in_string else _JSON_MARK).search(text, at)
            if match is None:
                return len(text)
            at = match.end()
            mark = match.group()
            if mark == "\\":
                self._is_escaped = at == len(text)
                at += 1
            elif mark == '"':
                self._in_string = not self._in_string
            else:
                self._depth += 1 if mark in "{[" else -1
                if not self._depth:
                    self._depth = -1
                    return int(at)
