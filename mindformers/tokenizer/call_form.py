"""How a turn writes a tool call: the one place that knows, for prompts, training rows and answers alike.

GLM-4 writes the tool's name on the role's line and the arguments below it as JSON. Its three built-in
tools take plain text instead of JSON; to the outside that text is the single argument ``OWN_ARGUMENTS``
names.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from mindformers.tokenizer.json_text import to_json

# The built-in tools, and what their text is called where arguments are an object.
OWN_ARGUMENTS = {"python": "code", "simple_browser": "call", "cogview": "prompt"}
BUILTIN_TOOLS = tuple(OWN_ARGUMENTS)


def tool_name(tool: Mapping[str, Any]) -> str:
    """Return the name the model calls a tool by.

    Args:
        tool: As ``normalise_tools`` gives it.
    """
    return str(tool["function"]["name"] if tool["type"] == "function" else tool["type"])


def builtin_names(tools: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Return the built-in tools among ``tools``; a function that has such a name is none."""
    return frozenset(str(tool["type"]) for tool in tools if tool.get("type") in BUILTIN_TOOLS)


def call_content(name: str, arguments: Any, builtin: Collection[str] = ()) -> str:
    """Return what a turn says below the name of the tool it calls; never empty.

    Args:
        name: The tool.
        arguments: An object, or its JSON text, which is taken over as it is. None and a blank text are
            no arguments.
        builtin: The built-in tools that are on offer.
    """
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        return "{}"  # a template drops a message without content, and the call with it
    if name in builtin:
        own = arguments_object(arguments)
        text = own.get(OWN_ARGUMENTS[name]) if own is not None and len(own) == 1 else None
        if isinstance(text, str) and text:
            return text
    return arguments if isinstance(arguments, str) else to_json(arguments)


def openai_form(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return messages as a template reads them that knows OpenAI's form alone.

    An observation becomes the role ``tool``; calls, each a message with ``metadata``, join what was said
    before them in one message with ``tool_calls``.
    """
    result: list[dict[str, Any]] = []
    for message in messages:
        name = message.get("metadata") if message["role"] == "assistant" else None
        if not name:
            role = "tool" if message["role"] == "observation" else message["role"]
            result.append({**message, "role": role})
            continue
        found = arguments_object(message["content"])
        function = {"name": name, "arguments": message["content"] if found is None else found}
        if not result or result[-1]["role"] != "assistant":
            result.append({"role": "assistant", "content": ""})
        calls = [*(result[-1].get("tool_calls") or ()), {"type": "function", "function": function}]
        result[-1]["tool_calls"] = calls
    return result


def arguments_object(arguments: Any) -> dict[str, Any] | None:
    """Return arguments as an object; None where they are no JSON object."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    return dict(arguments) if isinstance(arguments, Mapping) else None
