"""Tool calls in answers: the name on the first line, a JSON object of arguments below it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

_NOT_A_NAME = frozenset("{}[]()\"' \t")


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool.

    Attributes:
        name: The tool.
        arguments: Its arguments; None: what stands there is no JSON object.
    """

    name: str
    arguments: dict[str, Any] | None


def parse_tool_call(answer: str) -> ToolCall | None:
    """Return the call an answer makes, or None for one that is plain text.

    Args:
        answer: All that follows ``<|assistant|>``; the text of a plain answer begins with a newline.
    """
    name, newline, rest = answer.partition("\n")
    if not newline or not name or _NOT_A_NAME & set(name):
        return None
    if not rest.lstrip().startswith("{"):
        return None
    try:
        arguments = json.loads(rest)
    except (ValueError, RecursionError):
        arguments = None
    return ToolCall(name, arguments if isinstance(arguments, dict) else None)
