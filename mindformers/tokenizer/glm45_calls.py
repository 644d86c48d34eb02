"""Calls as GLM-4.5 writes them: ``<tool_call>``, the name, and a key and a value for each argument.

The values are texts; which of them are strings follows from the tool's schema, as the published template
writes strings as they are and anything else as JSON. Blanks between the tags do not count: the template
of GLM-4.5 and 4.6 puts each on a line of its own, that of GLM-4.7 none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import regex

from mindformers.tokenizer.call_reader import CallReader, any_of, in_quotes, split_at
from mindformers.tokenizer.json_text import to_json
from mindformers.tokenizer.schema_types import types_of, value_json

OPEN, CLOSE = "<tool_call>", "</tool_call>"
KEY, KEY_END = "<arg_key>", "</arg_key>"
VALUE, VALUE_END = "<arg_value>", "</arg_value>"
_NEXT = regex.compile(rf"\s{{0,64}}(?:(?P<key>{KEY})|{CLOSE})")
_TO_VALUE = regex.compile(rf"\s{{0,64}}{VALUE}")


class Glm45Reader(CallReader):
    """Reads an answer of GLM-4.5.

    Args:
        parameters: The JSON schema of each tool's arguments, by its name.
    """

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        head = rf"{OPEN}\s{{0,8}}(?P<name>{any_of(parameters)}){_NEXT.pattern}"
        super().__init__(mark=regex.compile(head) if parameters else None)
        self._parameters = parameters

    def _open(self, match: Any) -> None:
        name = match["name"]
        self._begin_call(name, match.group())
        self._emit("part", "{")
        self._schema = self._parameters[name]
        self._count = 0
        self._go_on(match)

    def _go_on(self, match: Any) -> None:
        """Read the next argument, or end the call."""
        if match["key"]:
            self._key: list[str] = []
            self._read = self._read_key
        else:
            self._emit("part", "}")
            self._after_call("whole")

    def _read_key(self) -> bool:
        before, self._data, is_found = split_at(self._data, KEY_END)
        self._key.append(before)
        self._emit("part", raw=before)
        if is_found:
            key = "".join(self._key)
            comma = ", " if self._count else ""
            self._count += 1
            self._emit("part", f"{comma}{to_json(key)}: ", KEY_END)
            self._types = types_of(self._schema, key)
            self._read = self._read_gap
        return is_found

    def _read_gap(self) -> bool:
        if not self._skip(_TO_VALUE):
            return self._read == self._read_rest
        self._value: list[str] = []
        if self._types == {"string"}:
            self._emit("part", '"')
        self._read = self._read_value
        return True

    def _read_value(self) -> bool:
        before, self._data, is_found = split_at(self._data, VALUE_END)
        if self._types == {"string"}:
            self._emit("part", in_quotes(before) + ('"' if is_found else ""), before)
        else:
            self._value.append(before)
            self._emit("part", raw=before)
            if is_found:
                self._emit("part", value_json("".join(self._value), self._types))
        if is_found:
            self._emit("part", raw=VALUE_END)
            self._read = self._read_next
        return is_found

    def _read_next(self) -> bool:
        match = self._skip(_NEXT)
        if match:
            self._go_on(match)
        return match is not None or self._read == self._read_rest

    def _read_rest(self) -> bool:
        """Nothing that a call can go on with: pass over the rest of it."""
        before, self._data, is_found = split_at(self._data, CLOSE)
        self._emit("part", raw=before + (CLOSE if is_found else ""))
        if is_found:
            self._after_call("broken")
        return is_found

    def _skip(self, pattern: Any) -> Any:
        match = pattern.match(self._data, partial=True)
        if match is None:
            self._read = self._read_rest
        elif not match.partial:
            self._emit("part", raw=match.group())
            self._data = self._data[match.end() :]
            return match
        return None
